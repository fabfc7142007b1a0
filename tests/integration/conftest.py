"""A Ray for the tests that drive actors themselves, with no `raysmith run` around them."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

OwnRay = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="session", autouse=True)
def _ray_settings() -> Iterator[None]:
    """Must be there before any test imports Ray, which reads them once and for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32))
        yield


@pytest.fixture(scope="session")
def own_ray() -> OwnRay:
    """Starts a Ray with so many cores, for a `with` block."""
    return _own_ray


@contextmanager
def _own_ray(num_cpus: int) -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
