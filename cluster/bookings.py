"""Who has booked what of a shared cluster. One object of it, a Ray actor, serves all raysmith jobs.

A stage books everything that it needs at a time before it starts any of it: were its train workers
placed first, two jobs could each hold half of the cluster and wait for the other half for ever.
Those that wait get in by turns, so that a large stage is not passed by small ones without end. A
booking is renewed while its stage runs, so a driver that died gives back what it had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobs.plan.demand import Demand
from jobs.plan.fit import Node, placed

LEASE_S = 30.0
"""Seconds that a booking lasts when nobody renews it."""


@dataclass
class _Claim:
    demand: Demand
    seen_at: float
    booked: bool = False


class Bookings:
    """Books what fits beside what is booked; says what the others wait for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._claims: dict[str, _Claim] = {}
        """By owner, in the order of their first request."""

    def request(self, owner: str, demand: Demand, nodes: Sequence[Node]) -> str | None:
        """Books a demand, or renews its booking. Returns None, or what it waits for.

        Asked again and again until it is booked: who stops asking loses the place in the queue.
        """
        now = self._clock()
        self._claims = {
            name: claim for name, claim in self._claims.items() if now - claim.seen_at < LEASE_S
        }
        own = self._claims.setdefault(owner, _Claim(demand, now))
        own.seen_at = now
        if own.booked and own.demand == demand:
            return None
        own.demand, own.booked = demand, False
        reason = self._hindrance(owner, demand, nodes)
        own.booked = reason is None
        return reason

    def release(self, owner: str) -> None:
        """Gives back what an owner has booked, or its place in the queue."""
        self._claims.pop(owner, None)

    def _hindrance(self, owner: str, demand: Demand, nodes: Sequence[Node]) -> str | None:
        if placed(demand, nodes) is None:
            return f"nodes to come back: {_in_use(demand, nodes, [])}"
        left, holders = nodes, list[str]()
        # What is booked comes first, then those that have waited longer.
        for name in sorted(self._claims, key=lambda name: not self._claims[name].booked):
            claim = self._claims[name]
            if name == owner:
                break
            if not claim.booked and placed(claim.demand, nodes) is None:
                continue  # it waits for nodes that are not there, and nobody waits for it
            holders.append(name if claim.booked else f"{name}, which waits too")
            beside = placed(claim.demand, left)
            if beside is None:
                return _in_use(demand, nodes, holders, ())
            left = beside
        return None if placed(demand, left) else _in_use(demand, nodes, holders, left)


def _in_use(
    demand: Demand, nodes: Sequence[Node], holders: Sequence[str], left: Sequence[Node] = ()
) -> str:
    """What a demand lacks, in numbers."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if not holders:
        there = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if demand.gpus else "")
        return f"{demand.total} wanted, {there} on {len(nodes)} nodes now"
    free_cpus = sum(node.cpus for node in left)
    used = f"{cpus - free_cpus:g} of {cpus:g}"
    if demand.gpus:
        free_gpus = sum(node.gpus for node in left)
        used += f", and {gpus - free_gpus:g} of {gpus:g} GPUs,"
    return f"{demand.total}: {used} in use by {'; '.join(holders)}"
