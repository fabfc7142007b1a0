"""Equal specs, equal trajectories: however the work is shared out, and wherever it was cut off."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("train_once.py")
LORA = {"type": "lora", "rank": 4, "dropout": 0.1}
DORA = LORA | {"use_dora": True}
FULL = {"type": "full"}

SOAK = pytest.mark.soak
TUNERS = [
    pytest.param(LORA, id="lora"),
    pytest.param(DORA, id="dora", marks=SOAK),
    pytest.param(FULL, id="full", marks=SOAK),
]
RESUMED = [
    pytest.param(LORA, "float32", id="lora-float32", marks=SOAK),
    pytest.param(FULL, "float32", id="full-float32"),
    pytest.param(LORA, "bfloat16", id="lora-bfloat16"),
    pytest.param(FULL, "bfloat16", id="full-bfloat16", marks=SOAK),
]

pytestmark = pytest.mark.integration


def train(cases: list[dict[str, Any]], workers: int, folder: Path) -> list[list[dict[str, Any]]]:
    """The records of each case, trained by `workers` processes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with (folder / "errors.txt").open("w") as errors:
        processes = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder / "cases.json")],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
                | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            )
            for rank in range(workers)
        ]
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    said = (folder / "errors.txt").read_text()
    assert [process.returncode for process in processes] == [0] * workers, said[-3000:]
    histories: list[list[dict[str, Any]]] = json.loads(outputs[0].splitlines()[-1])
    return histories


def numbers(history: list[dict[str, Any]]) -> list[float]:
    """All that a record says of the mathematics."""
    fields = ("loss", "grad_norm", "token_acc", "learning_rate", "eval_loss", "eval_token_acc")
    return [record[field] for record in history for field in fields if field in record]


@pytest.mark.parametrize("tuner", TUNERS)
def test_stages_and_workers_do_not_change_the_losses(
    tuner: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    def cases(workers: int, *stages: str) -> list[dict[str, Any]]:
        return [
            {
                "deepspeed": stage,
                "torch_dtype": "float32",
                "tuner": tuner,
                "model": str(tiny_model),
                "folder": str(tmp_path / f"{stage}-{workers}"),
            }
            for stage in stages
        ]

    alone = train(cases(1, "zero0", "zero2", "zero3"), 1, tmp_path / "1")
    together = train(cases(2, "zero0", "zero2", "zero3"), 2, tmp_path / "2")
    expected = numbers(alone[0])
    assert len(set(expected)) > len(expected) / 2, "the records must say something"
    for history in (*alone[1:], *together):
        assert numbers(history) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("tuner", "dtype"), RESUMED)
def test_a_checkpoint_goes_on_with_other_workers_and_another_stage(
    tuner: dict[str, Any], dtype: str, tiny_model: Path, tmp_path: Path
) -> None:
    case = {"tuner": tuner, "torch_dtype": dtype, "model": str(tiny_model)}
    whole = {**case, "deepspeed": "zero2", "folder": str(tmp_path / "whole")}
    (uninterrupted,) = train([whole], 2, tmp_path / "2")
    resumed = {**case, "first": 3, "resume": str(tmp_path / "whole" / "checkpoint-3")}
    same = {**resumed, "deepspeed": "zero2", "folder": str(tmp_path / "same")}
    (again,) = train([same], 2, tmp_path / "same")
    assert numbers(again) == numbers(uninterrupted)
    others = [
        {**resumed, "deepspeed": stage, "folder": str(tmp_path / f"other-{stage}")}
        for stage in ("zero0", "zero3")
    ]
    close = 1e-4 if dtype == "float32" else 2e-2
    for history in train(others, 1, tmp_path / "1"):
        assert numbers(history) == pytest.approx(numbers(uninterrupted), rel=close)
