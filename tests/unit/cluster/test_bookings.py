"""Who gets a place on a shared cluster, and what the others are told."""

from cluster.bookings import LEASE_S, Bookings
from jobs.plan.demand import Demand, Processes
from jobs.plan.fit import Node

NODES = (Node("a", 2), Node("b", 2))


def _demand(workers: int, cpus: int = 1) -> Demand:
    return Demand("sft", (Processes("train worker", workers, cpus, 0),))


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_fits_beside_what_is_booked_is_booked() -> None:
    bookings = Bookings()
    assert bookings.request("one", _demand(2), NODES) is None
    assert bookings.request("two", _demand(2), NODES) is None
    assert bookings.request("three", _demand(1), NODES) == "1 CPUs: 4 of 4 in use by one; two"
    bookings.release("one")
    assert bookings.request("three", _demand(1), NODES) is None


def test_a_booking_that_is_renewed_is_kept_and_one_that_is_not_runs_out() -> None:
    clock = Clock()
    bookings = Bookings(clock)
    bookings.request("one", _demand(4), NODES)
    clock.now = LEASE_S - 1
    assert bookings.request("one", _demand(4), NODES) is None
    assert bookings.request("two", _demand(4), NODES)
    clock.now = 2 * LEASE_S
    assert bookings.request("two", _demand(4), NODES) is None


def test_a_small_job_does_not_pass_a_large_one_that_waits() -> None:
    bookings = Bookings()
    bookings.request("one", _demand(3), NODES)
    assert bookings.request("large", _demand(4), NODES)
    told = bookings.request("small", _demand(1), NODES)
    assert told == "1 CPUs: 4 of 4 in use by one; large, which waits too"


def test_nobody_waits_for_a_job_that_waits_for_nodes() -> None:
    bookings = Bookings()
    told = bookings.request("large", _demand(6), NODES)
    assert told == "nodes to come back: 6 CPUs wanted, 4 CPUs on 2 nodes now"
    assert bookings.request("small", _demand(1), NODES) is None


def test_another_demand_of_the_same_owner_takes_the_place_of_the_first() -> None:
    bookings = Bookings()
    bookings.request("one", _demand(4), NODES)
    assert bookings.request("one", _demand(1), NODES) is None
    assert bookings.request("two", _demand(3), NODES) is None


def test_nobody_gets_in_while_a_booking_has_lost_its_node() -> None:
    bookings = Bookings()
    bookings.request("one", _demand(4), NODES)
    assert bookings.request("two", _demand(1), NODES[:1]) == "1 CPUs: 2 of 2 in use by one"
