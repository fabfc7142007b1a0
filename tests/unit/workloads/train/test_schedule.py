"""The learning rate of each step equals that of transformers' schedulers."""

import pytest
import torch
from transformers import get_scheduler

from jobs.spec.training import TrainingSpec
from workloads.train.schedule import learning_rate, warmup_steps


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(
    ("max_steps", "warmup"),
    [(20, {"warmup_ratio": 0.15}), (20, {"warmup_steps": 0}), (7, {"warmup_steps": 6}), (1, {})],
)
def test_rates_equal_those_of_transformers(
    kind: str, max_steps: int, warmup: dict[str, float]
) -> None:
    training = TrainingSpec.model_validate(
        {"learning_rate": 3e-4, "lr_scheduler_type": kind, **warmup}
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    name = "constant_with_warmup" if kind == "constant" else kind
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=warmup_steps(training, max_steps),
        num_training_steps=max_steps,
    )  # fmt: skip
    for step in range(max_steps):
        expected = scheduler.get_last_lr()[0]
        assert learning_rate(training, step, max_steps) == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_share_of_steps_is_rounded_up() -> None:
    assert warmup_steps(TrainingSpec(warmup_ratio=0.05), 21) == 2
    assert warmup_steps(TrainingSpec(warmup_steps=9), 21) == 9
    assert warmup_steps(TrainingSpec(), 21) == 0
