"""`kind: serve` on the real thing: Ray Serve and vLLM, asked, killed, updated and stopped."""

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.layout import Layout
from tests.integration.serve_harness import COMMAND, Service, served, spec

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

PROMPTS = [[7 * i % 300 + 3 for i in range(start, start + 3 + start % 9)] for start in range(20)]


@pytest.fixture(scope="module")
def models(
    tiny_model: Path, save_llama: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A base model, an adapter, base and adapter merged, and a folder that no engine can load."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = {
        name: tmp_path_factory.mktemp(name) for name in ("base", "adapter", "merged", "broken")
    }
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    # vLLM's attention on CPUs knows heads of this size.
    save_llama(
        folders["base"], tokenizer, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folders["base"])
    config = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(model, config).save_pretrained(folders["adapter"])
    base = AutoModelForCausalLM.from_pretrained(folders["base"])
    merged = PeftModel.from_pretrained(base, folders["adapter"]).merge_and_unload()
    merged.save_pretrained(folders["merged"])
    tokenizer.save_pretrained(folders["merged"])
    base.save_pretrained(folders["broken"])
    settings = json.loads((folders["broken"] / "config.json").read_text())
    (folders["broken"] / "config.json").write_text(json.dumps(settings | {"hidden_size": 128}))
    return folders


@pytest.fixture(scope="module")
def service(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The base model with an adapter."""
    job = spec(models["base"], f"    adapters: {{extra: {models['adapter']}}}")
    with served(tmp_path_factory.mktemp("service"), job) as service:
        yield service


def greedy(folder: Path) -> list[list[int]]:
    """The tokens that transformers answers to the prompts with."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    answers = []
    for prompt in PROMPTS:
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=32, do_sample=False)
        answers.append(ids[0, len(prompt) :].tolist())
    return answers


def tokens(service: Service, model: str) -> list[list[int]]:
    """The tokens that the service answers to the prompts with."""
    body = service.text(PROMPTS, model, return_token_ids=True)
    return [choice["token_ids"] for choice in body["choices"]]


def test_answers_are_those_of_transformers(service: Service, models: dict[str, Path]) -> None:
    assert [card["id"] for card in service.get("/v1/models")["data"]] == ["tiny", "extra"]
    base = tokens(service, "tiny")
    assert base == greedy(models["base"])
    adapted = tokens(service, "extra")
    assert adapted == greedy(models["merged"])
    assert adapted != base


def test_a_killed_replica_takes_only_its_own_requests_along(service: Service) -> None:
    at_once = 16

    def kill() -> None:
        (replica,) = service.replicas()
        replica.send_signal(signal.SIGKILL)

    results = Counter(service.ask_many(300, at_once, kill))
    assert results[200] >= 300 - at_once
    assert set(results) <= {200, 502}


@pytest.mark.soak
def test_an_update_loses_no_request(service: Service, models: dict[str, Path]) -> None:
    before = service.text([5, 6, 7])["choices"][0]["text"]
    updates: list[subprocess.Popen[str]] = []

    def update(model: Path) -> None:
        updates.append(service.update(model))

    failing = Counter(service.ask_many(60, 4, lambda: update(models["broken"])))
    output, _ = updates[0].communicate(timeout=200)
    assert (updates[0].returncode, set(failing)) == (1, {200}), output
    assert "served on" in output
    assert service.text([5, 6, 7])["choices"][0]["text"] == before

    # Asks until the update is done.
    results = Counter(service.ask_many(60, 4, lambda: update(models["merged"])))
    while updates[1].poll() is None:
        results += Counter(service.ask_many(30, 4, lambda: None))
    output, _ = updates[1].communicate()
    assert updates[1].returncode == 0, output
    assert set(results) == {200}
    assert service.text([5, 6, 7])["choices"][0]["text"] != before
    assert len(service.replicas()) <= 2


def test_a_service_that_is_stopped_has_done_its_work(service: Service) -> None:
    run = Layout(service.storage).run("tiny", Layout(service.storage).runs("tiny")[0])
    done = subprocess.run(
        [*COMMAND, "stop", str(run.folder)], capture_output=True, text=True, check=True
    )
    assert "succeeded" in done.stdout
    output, _ = service.process.communicate(timeout=60)
    assert service.process.returncode == 0, output
    assert re.search(r"serving tiny, extra at http://127\.0\.0\.1:\d+", output)
    assert not list(service.storage.glob("tiny/*/stages/serve/attempt_*/service.json"))


def test_an_engine_that_can_t_start_fails_with_its_reason(
    models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(spec(models["broken"]))
    done: Any = subprocess.run(
        [*COMMAND, "run", str(tmp_path / "job.yaml"), "--storage", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the engine did not start" in done.stdout + done.stderr
