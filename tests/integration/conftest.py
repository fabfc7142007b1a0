"""What integration tests share: a Ray for those that drive actors themselves, a model, services."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.conftest import ASKED, SaveLlama
from tests.integration.served import Served, served

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


@pytest.fixture(scope="session")
def asked_model(
    tiny_model: Path, save_llama: SaveLlama, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny model with heads of a size that vLLM's attention on CPUs knows, and an untied head."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("asked-model")
    save_llama(
        folder,
        AutoTokenizer.from_pretrained(tiny_model),
        **ASKED,
    )
    return folder


@pytest.fixture(scope="session")
def service(
    tiny_model: Path, save_llama: SaveLlama, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A tiny model behind the API, with a key, for all tests that only ask it things."""
    from transformers import AutoTokenizer

    model = tmp_path_factory.mktemp("served-model")
    # vLLM's attention on CPUs knows heads of this size, and not those of `tiny_model`.
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    save_llama(model, tokenizer, num_attention_heads=3, num_key_value_heads=3)
    settings = "limits: {max_body: 1MB, max_choices: 8}\n    tool_call_parser: hermes"
    with served(model, tmp_path_factory.mktemp("service"), settings) as started:
        yield started
