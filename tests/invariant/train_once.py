"""One worker of a small training without Ray; `test_trajectories.py` starts as many as it needs.

    RANK=0 WORLD_SIZE=2 ... python train_once.py CASE.json

A case is a list of trainings, done one after another. The first worker prints, as its last line,
the records of each as JSON.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from jobs.spec.checkpoint import CheckpointSpec
from jobs.spec.training import TrainingSpec
from jobs.spec.tuner import FullSpec, TunerSpec
from storage.layout import StageLayout
from storage.manifest import Owner
from workloads.data.prepare import load_tokenizer
from workloads.models.load import attach_tuner, load_model
from workloads.train.batches import Row
from workloads.train.checkpoint import load_adapter, restore, save
from workloads.train.dropout import use_row_dropout
from workloads.train.engine import DTYPES, hold_partitioned, make_engine
from workloads.train.loop import Trainer
from workloads.train.monitor import Monitor
from workloads.train.objectives import load_objective
from workloads.train.state import allocate

GLOBAL_BATCH, STEPS = 8, 6


def rows_of_step(step: int, vocabulary: int) -> list[Row]:
    """The same rows for a step whoever asks: of many lengths, the first third not learned."""
    random = np.random.default_rng([7, step])
    lengths = random.integers(4, 40, size=GLOBAL_BATCH)
    return [
        Row(
            step * GLOBAL_BATCH + index,
            random.integers(3, vocabulary, size=length).astype(np.int32),
            np.arange(length) > length // 3,
        )
        for index, length in enumerate(lengths)
    ]


def train(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Trains from the case's first step to its last, saving at the end."""
    rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    tuner = TypeAdapter(TunerSpec).validate_python(case["tuner"])
    full = isinstance(tuner, FullSpec)
    training = TrainingSpec(
        deepspeed=case["deepspeed"],
        torch_dtype=case["torch_dtype"],
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        warmup_steps=2,
    )
    resume = Path(case["resume"]) if case.get("resume") else None
    with hold_partitioned(training):
        folder = str(resume) if resume and full else case["model"]
        model = load_model(folder, DTYPES[training.torch_dtype])
        model = attach_tuner(model, tuner, seed=3)
    if resume and not full:
        load_adapter(model, resume)
    keys = use_row_dropout(model, 0.0 if isinstance(tuner, FullSpec) else tuner.dropout, seed=3)
    engine = make_engine(model, training, GLOBAL_BATCH // (2 * workers))
    allocate(engine, case.get("first", 0))
    state = restore(engine, resume) if resume else {}
    stage = StageLayout(Path(case["folder"]))
    attempt = stage.attempt(1)
    attempt.folder.mkdir(parents=True, exist_ok=True)
    history = state.get("log_history", [])
    monitor = Monitor(attempt, STEPS, 10, history=history) if rank == 0 else None
    tokenizer = load_tokenizer(case["model"], None)
    owner = Owner("run", "sft", "key", 1)

    def save_checkpoint(step: int) -> None:
        told = {"global_step": step, "log_history": monitor.history if monitor else []}
        save(engine, tokenizer, stage.checkpoint(step), owner, told, {}, {})

    share = GLOBAL_BATCH // workers
    mine = slice(rank * share, (rank + 1) * share)
    batches = (
        rows_of_step(step, model.config.vocab_size)[mine]
        for step in range(case.get("first", 0), STEPS)
    )
    trainer = Trainer(
        engine=engine,
        objective=load_objective("sft"),
        training=training,
        checkpoint=CheckpointSpec(save_steps=3, save_total_limit=None),
        row_keys=keys,
        pad_id=0,
        max_steps=STEPS,
        monitor=monitor,
        stop_request=stage.stop_request,
        save=save_checkpoint,
        validation=partial(validation_rows, mine, model.config.vocab_size),
    )
    trainer.train(batches, case.get("first", 0))
    if monitor is None:
        return []
    monitor.close()
    return monitor.history


def validation_rows(mine: slice, vocabulary: int) -> list[list[Row]]:
    """Eight rows that are never trained on."""
    return [rows_of_step(10**6, vocabulary)[mine]]


def main() -> None:
    """Does the cases of the file that is named on the command line."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    histories = [train(case) for case in json.loads(Path(sys.argv[1]).read_text())]
    if torch.distributed.get_rank() == 0:
        print(json.dumps(histories))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
