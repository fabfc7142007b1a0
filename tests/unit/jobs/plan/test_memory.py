"""What training will hold in memory."""

from typing import Any

import pytest

from jobs.plan.derive import resolved_grpo, resolved_sft
from jobs.plan.memory import (
    Estimate,
    ModelShape,
    activations,
    estimate,
    logits,
    trained_parameters,
)
from jobs.plan.memory_advice import advice
from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec

QWEN_7B = ModelShape(
    parameters=7_615_616_512, hidden=3584, layers=28, intermediate=18944, heads=28, kv_heads=4,
    head_size=128, vocabulary=152_064,
)  # fmt: skip
B = 10**9


def sft(**fields: Any) -> SftSpec:
    training = {"torch_dtype": "bfloat16", **fields.pop("training", {})}
    dataset = {"train": [{"path": "x"}], "max_length": 2048}
    spec = {"kind": "sft", "model": "m", "dataset": dataset, "training": training, **fields}
    return resolved_sft(SftSpec.model_validate(spec))


FULL = {"tuner": {"type": "full"}}
EIGHT = {"resources": {"workers": 8, "gpus_per_worker": 1}}


def test_full_training_is_sixteen_bytes_a_weight() -> None:
    terms = estimate(sft(**FULL), QWEN_7B).terms
    weights = QWEN_7B.parameters
    states = terms["weights"], terms["gradients"], terms["optimizer"]
    assert states == (2 * weights, 2 * weights, 12 * weights)


@pytest.mark.parametrize(
    ("stage", "shares"),
    [("zero0", (1, 1, 1)), ("zero1", (1, 1, 8)), ("zero2", (1, 8, 8)), ("zero3", (8, 8, 8))],
)
def test_each_stage_of_zero_shares_out_one_part_more(
    stage: str, shares: tuple[int, int, int]
) -> None:
    terms = estimate(sft(**FULL, **EIGHT, training={"deepspeed": stage}), QWEN_7B).terms
    whole = (2, 2, 12)
    expected = [QWEN_7B.parameters * n // share for n, share in zip(whole, shares, strict=True)]
    assert [terms["weights"], terms["gradients"], terms["optimizer"]] == expected


def test_offloaded_states_lie_on_the_host() -> None:
    found = estimate(sft(**FULL, **EIGHT, training={"deepspeed": "zero3_offload"}), QWEN_7B)
    assert found.terms["optimizer"] == 0
    assert found.host == {"optimizer": QWEN_7B.parameters * 12 // 8}
    assert found.total == sum(found.terms.values())
    assert "optimizer on the host 11.4 GB" in str(found)


def test_float32_without_sharing_needs_no_copy() -> None:
    plain = estimate(sft(**FULL, training={"torch_dtype": "float32"}), QWEN_7B).terms
    assert plain["optimizer"] == 8 * QWEN_7B.parameters
    assert plain["weights"] == 4 * QWEN_7B.parameters


def test_adapters_are_counted_layer_by_layer() -> None:
    # PEFT says so: trainable params: 20,185,088 for rank 8 over all linear layers of this model.
    assert trained_parameters(sft(), QWEN_7B) == (20_185_088, QWEN_7B.parameters)
    two = sft(tuner={"type": "lora", "rank": 16, "target_modules": ["q_proj", "v_proj"]})
    trained, _ = trained_parameters(two, QWEN_7B)
    assert trained == 28 * 16 * ((3584 + 3584) + (3584 + 512))


def test_logits_of_a_wide_vocabulary_are_a_large_part() -> None:
    spec = sft(training={"per_device_train_batch_size": 4})
    assert logits(spec.training, QWEN_7B, 2048) == 4 * 2048 * 152_064 * 12
    assert estimate(spec, QWEN_7B).terms["logits"] == pytest.approx(14.9 * B, rel=0.01)


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    training = sft().training
    whole = activations(training, QWEN_7B, 2048, checkpointed=False)
    few = activations(training, QWEN_7B, 2048, checkpointed=True)
    inputs = 2048 * 2 * 3584 * 28
    assert few == inputs + whole // 28
    on_gpus = estimate(sft(**EIGHT), QWEN_7B)
    assert on_gpus.terms["activations"] == few


def test_grpo_adds_completions_and_a_reference() -> None:
    spec = resolved_grpo(
        GrpoSpec.model_validate(
            {
                "kind": "grpo", "model": "m", "tuner": {"type": "full"},
                "dataset": {"train": [{"path": "x"}], "max_length": 512},
                "rewards": [{"name": "length"}], "rollout": {"max_completion_length": 256},
            }
        )
    )  # fmt: skip
    terms = estimate(spec, QWEN_7B).terms
    assert terms["reference"] == 2 * QWEN_7B.parameters
    assert terms["logits"] == 256 * 152_064 * 12 * spec.training.per_device_train_batch_size


def test_a_verdict_and_its_terms_in_words() -> None:
    found = Estimate({"weights": 15 * B, "logits": 100_000}, {}, on_gpu=True, workers=2)
    assert [found.verdict(n * B) for n in (24, 16, 15)] == ["fits", "tight", "does not fit"]
    assert str(found) == "2 workers with at most 15.0 GB of GPU memory each: weights 15.0 GB"


def test_advice_names_the_three_cheapest_keys() -> None:
    spec = sft(**FULL, **EIGHT, training={"per_device_train_batch_size": 8})
    text = advice("sft", spec, estimate(spec, QWEN_7B), 23.5 * B)
    estimated, measured, fix = text.splitlines()
    assert estimated.startswith("  estimated: 8 workers with at most")
    assert measured == "  measured: 23.5 GB in a worker"
    assert fix == (
        "  fix: stages.sft.training.per_device_train_batch_size: 4 (the result stays the same); or "
        "stages.sft.training.deepspeed: zero2 (shares optimiser and gradients out over the "
        "workers); or stages.sft.tuner: {type: lora} (trains about a hundredth of the weights)"
    )


def test_advice_for_engines_and_for_what_is_not_known() -> None:
    spec = EvaluateSpec.model_validate(
        {"kind": "evaluate", "model": "m", "dataset": {"test": [{"path": "x"}]},
         "metrics": ["loss"]}
    )  # fmt: skip
    text = advice("check", spec, None, None)
    assert text.startswith("  fix: stages.check.engine.max_num_seqs: 32 (fewer answers at once)")
    assert "kv_cache" in text
