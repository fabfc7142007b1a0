"""The reference stays what the policy was, whatever the policy becomes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs.spec.tuner import FullSpec, LoraSpec
from workloads.models.load import attach_tuner, load_model
from workloads.train.state import trained_parameters

pytest.importorskip("deepspeed")

IDS = torch.tensor([[3, 4, 5, 6]])


def _reference(model: Any, **changes: Any) -> Any:
    from workloads.grpo.reference import Reference

    engine: Any = SimpleNamespace(module=model)
    return Reference(engine, **({"follows": False, "start": None} | changes))


def _model(tiny_model: Path, tuner: Any) -> Any:
    return attach_tuner(load_model(str(tiny_model), torch.float32), tuner, seed=0).eval()


def _disturb(model: Any) -> None:
    with torch.no_grad():
        for _, parameter in trained_parameters(model):
            parameter.add_(0.05)


@pytest.mark.parametrize("tuner", [LoraSpec(type="lora"), FullSpec(type="full")])
@pytest.mark.parametrize("follows", [False, True])
def test_it_stays_what_the_policy_was(tiny_model: Path, tuner: Any, follows: bool) -> None:
    model = _model(tiny_model, tuner)
    before = model(input_ids=IDS).logits
    reference = _reference(model, follows=follows)
    _disturb(model)
    policy = model(input_ids=IDS).logits
    assert not torch.allclose(policy, before, atol=1e-3)
    with reference.active():
        torch.testing.assert_close(model(input_ids=IDS).logits, before)
    torch.testing.assert_close(model(input_ids=IDS).logits, policy)


def test_it_moves_towards_the_policy(tiny_model: Path) -> None:
    model = _model(tiny_model, FullSpec(type="full"))
    reference = _reference(model, follows=True)
    start = {name: p.detach().clone() for name, p in trained_parameters(model)}
    _disturb(model)
    reference.follow(0.6)
    for name, value in reference.weights().items():
        torch.testing.assert_close(value, start[name] + 0.6 * 0.05, atol=1e-5, rtol=1e-4)


def test_it_starts_from_given_weights(tiny_model: Path) -> None:
    model = _model(tiny_model, FullSpec(type="full"))
    start = {name: p.detach().clone() for name, p in trained_parameters(model)}
    before = model(input_ids=IDS).logits
    _disturb(model)
    reference = _reference(model, start=start)
    with reference.active():
        torch.testing.assert_close(model(input_ids=IDS).logits, before)
