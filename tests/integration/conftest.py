"""A Ray for the tests that drive actors themselves, with no `raysmith run` around them."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

OwnRay = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def own_ray() -> Iterator[OwnRay]:
    """Starts a Ray with so many cores, for a `with` block.

    Ray keeps the first token that a process has had, so all share one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32))

        @contextmanager
        def start(num_cpus: int) -> Iterator[None]:
            import ray

            ray.init(
                address="local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False
            )
            try:
                yield
            finally:
                ray.shutdown()

        yield start
