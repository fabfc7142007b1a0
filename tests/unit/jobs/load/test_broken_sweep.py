"""What people type wrong in a sweep, and what they are told: place, reason and remedy."""

from pathlib import Path

import pytest

from jobs.load.loader import load
from jobs.plan.resolve import resolve
from tests.unit.jobs.load.broken import Broken

SPEC = """\
version: 1
name: a
stages:
  sweep:
    kind: sweep
    trial:
      kind: sft
      model: m
      dataset: {train: [x.jsonl], validation: 0.1}
      training:
        max_steps: 8
    search_space:
      training.learning_rate: {loguniform: [1e-5, 1e-3]}
      tuner.rank: {choice: [8, 16]}
    metric: eval_loss
    mode: min
    num_samples: 9
    scheduler: asha
"""


RATE, RANK = "training.learning_rate: {loguniform: [1e-5, 1e-3]}", "tuner.rank: {choice: [8, 16]}"
METRIC, SCHEDULER, MODEL = "metric: eval_loss", "scheduler: asha", "      model: m\n"
BOUNDS = "{loguniform: [1e-5, 1e-3]}"
PBT = "scheduler: {type: pbt, perturbation_interval: %d}"

CASES = {
    "typo in a path": Broken(RATE, f"training.learnign_rate: {BOUNDS}", (13, 7),
        "the trial has nothing at training.learnign_rate", "'training.learning_rate'?"),
    "name without its section": Broken(RATE, f"learning_rate: {BOUNDS}", (13, 7),
        "nothing at learning_rate", "did you mean 'training.learning_rate'?"),
    "name that others have": Broken(RANK, "lora_rank: {choice: [8]}", (14, 7),
        "nothing at lora_rank", "it is called tuner.rank here"),
    "path from the sweep": Broken(RATE, f"trial.training.learning_rate: {BOUNDS}", (13, 7),
        "nothing at trial.training", "write training.learning_rate"),
    "path from the top": Broken(RATE, f"stages.sweep.trial.training.learning_rate: {BOUNDS}",
        (13, 7), "nothing at stages.sweep", "write training.learning_rate"),
    "path to nowhere": Broken(RANK, "foo.bar: {choice: [8]}", (14, 7),
        "nothing at foo.bar", "such as training.learning_rate"),
    "a section": Broken(RANK, "tuner: {choice: [8]}", (14, 7),
        "tuner is a section, and no value", "name a field of it, such as tuner.rank"),
    "field of another tuner": Broken("      training:\n        max_steps: 8",
        "      tuner: {type: full}", (13, 7), "nothing at tuner.rank", "it is for type lora"),
    "no such item": Broken(RANK, "dataset.train[1]: {choice: [a]}", (14, 7),
        "dataset.train has no item 1", "the last is 0, counted from 0"),
    "below a short form": Broken(RANK, "dataset.train[0].sample: {choice: [8]}", (14, 7),
        "dataset.train[0] is a single value", "write it as a mapping there, with sample in it"),
    "in a list": Broken(RANK, "dataset.train[0]: {choice: [a, 20]}", (14, 38),
        "expected text or a mapping, got 20"),
    "value within another": Broken(RANK, "dataset.train: {choice: [[a]]}\n      "
        "dataset.train[0]: {choice: [b]}", (15, 7),
        "dataset.train[0] is part of dataset.train, which is searched too", "keep one"),
    "artifact's kind": Broken(RANK, "tuner.type: {choice: [lora, full]}", (14, 7),
        "tuner.type can't be searched: all trials leave the same kind", "a sweep for each"),
    "kind": Broken(RANK, "kind: {choice: [sft, grpo]}", (14, 7), "kind can't be searched"),
    "workers": Broken(RANK, "resources.workers: {choice: [1, 2]}", (14, 7),
        "resources.workers can't be searched", "set it in the trial"),
    "checkpoints": Broken(RANK, "checkpoint.save_steps: {choice: [1]}", (14, 7),
        "checkpoint.save_steps can't be searched", "set it in the trial"),
    "token": Broken(RANK, "hub_token: {choice: [a]}", (14, 7), "hub_token can't be searched"),
    "after": Broken(RANK, "after: {choice: [a]}", (14, 7), "after can't be searched"),
    "fraction of a whole number": Broken(RANK, "tuner.rank: {uniform: [1, 8]}", (14, 20),
        "tuner.rank takes whole numbers alone", "write randint: [1, 9]"),
    "fraction among choices": Broken(RANK, "tuner.rank: {choice: [8, 1.5]}", (14, 32),
        "expected a whole number, got 1.5"),
    "text among numbers": Broken(RANK, "tuner.rank: {grid: [8, big]}", (14, 30),
        "expected a whole number, got the text 'big'"),
    "number among texts": Broken(RANK, "training.lr_scheduler_type: {uniform: [0, 1]}", (14, 36),
        "expected cosine, linear or constant, and uniform draws numbers", "write choice"),
    "typo among choices": Broken(RANK, "training.deepspeed: {choice: [zero2, zro3]}", (14, 44),
        "got the text 'zro3'", "did you mean 'zero3'?"),
    "lower bound": Broken(RANK, "tuner.rank: {randint: [0, 8]}", (14, 30),
        "must be more than 0, got 0"),
    "upper bound": Broken(RANK, "tuner.dropout: {uniform: [0, 1]}", (14, 36),
        "must be less than 1, got 1.0"),
    "log of a negative": Broken("[1e-5, 1e-3]", "[-1, 1]", (13, 32),
        "loguniform draws a logarithm, and -1 has none", "begin above 0"),
    "log of zero": Broken("[1e-5, 1e-3]", "[0, 1]", (13, 32), "and 0 has none", "begin above 0"),
    "low above high": Broken("[1e-5, 1e-3]", "[1e-3, 1e-5]", (13, 32),
        "0.001 is not below 1e-05", "write [1e-05, 0.001]"),
    "bounds that are equal": Broken(RANK, "tuner.rank: {randint: [8, 8]}", (14, 20),
        "8 is not below 8", "use choice"),
    "one bound": Broken(RANK, "tuner.rank: {randint: [8]}", (14, 20), "item 2 is missing"),
    "three bounds": Broken(RANK, "tuner.rank: {randint: [1, 2, 3]}", (14, 20), "takes 2 items"),
    "bound in quotes": Broken("[1e-5, 1e-3]", "['1e-5', 1]", (13, 45),
        "expected a number, got the text '1e-5'", "without quotes: 1e-5"),
    "no choice": Broken(RANK, "tuner.rank: {choice: []}", (14, 20), "must not be empty",
        "give choice at least one entry"),
    "no domain": Broken(RANK, "tuner.rank: {}", (14, 7), "none is given", "add one"),
    "two domains": Broken(RANK, "tuner.rank: {choice: [8], grid: [9]}", (14, 20),
        "given are choice, grid", "keep one"),
    "list for a domain": Broken(RANK, "tuner.rank: [8, 16]", (14, 7),
        "expected a mapping, got a list", "write {choice: [8, 16]}"),
    "number for a domain": Broken(RANK, "tuner.rank: 8", (14, 19),
        "expected a mapping, got 8", "write {choice: [8]}"),
    "typo in a domain": Broken(RANK, "tuner.rank: {log_uniform: [8, 9]}", (14, 20),
        "unknown key 'log_uniform'", "did you mean 'loguniform'?"),
    "domain of another program": Broken(RANK, "tuner.rank: {max: 8}", (14, 20),
        "unknown key 'max'", "choose from choice, grid, zip, uniform, loguniform, randint"),
    "zip of unequal lengths": Broken(f"{RATE}\n      {RANK}",
        "tuner.alpha: {zip: [1, 2]}\n      tuner.rank: {zip: [8]}", (12, 5),
        "tuner.alpha has 2, tuner.rank has 1", "give all of them as many"),
    "zip alone": Broken(RANK, "tuner.rank: {zip: [8, 16]}", (14, 20),
        "tuner.rank is the only one with it", "write grid"),
    "nothing to search": Broken(f"{RATE}\n      {RANK}", "{}", (12, 5), "must not be empty"),
    "values that do not go together": Broken(RANK, "training.global_batch_size: {choice: [12, 16]}"
        "\n      training.per_device_train_batch_size: {choice: [4, 8]}", (14, 7),
        "of 9 trials can't run: with training.global_batch_size 12 and "
        "training.per_device_train_batch_size 8, global_batch_size 12 is not a multiple",
        "choose 8 or 16"),
    "values that exclude each other": Broken(RANK, "training.warmup_ratio: {choice: [0.1]}\n"
        "      training.warmup_steps: {choice: [4]}", (14, 7), "9 of 9 trials can't run"),
    "typo in the metric": Broken(METRIC, "metric: eval_los", (15, 13),
        "no trial logs a metric 'eval_los'", "did you mean 'eval_loss'? there are loss, "),
    "metric that is none": Broken(METRIC, "metric: learning_rate", (15, 13),
        "the learning rate is what trials are given", "there are loss, grad_norm, token_acc"),
    "metric without validation": Broken(", validation: 0.1", "", (15, 13),
        "trials have no validation rows, and so no eval_loss",
        "add `validation: 0.05` to stages.sweep.trial.dataset"),
    "metric that some lack": Broken(RANK, "dataset.validation: {choice: [0, 0.1]}", (15, 13),
        "of 9 trials have no validation rows", "leave 0 out of the values of dataset.validation"),
    "mode": Broken("mode: min", "mode: minimize", (16, 11), "expected min or max"),
    "no mode": Broken("    mode: min\n", "", (4, 3), "missing key 'mode'", "add `mode: min`"),
    "no space": Broken("search_space", "search_spce", (12, 5), "unknown key 'search_spce'",
        "did you mean 'search_space'?"),
    "name of a scheduler": Broken(SCHEDULER, "scheduler: ahsa", (18, 16),
        "unknown scheduler 'ahsa'; there are asha, hyperband, median, pbt, none",
        "did you mean 'asha'?"),
    "type of a scheduler": Broken(SCHEDULER, "scheduler: {type: ahsa}", (18, 23),
        "unknown type 'ahsa'", "did you mean 'asha'?"),
    "list for a scheduler": Broken(SCHEDULER, "scheduler: [asha]", (18, 5),
        "expected a mapping, got a list", "write a name: asha"),
    "typo in a scheduler": Broken(SCHEDULER, "scheduler: {type: asha, grace_perod: 3}", (18, 29),
        "unknown key 'grace_perod'", "did you mean 'grace_period'?"),
    "name of pbt alone": Broken(SCHEDULER, "scheduler: pbt", (18, 16),
        "pbt needs 'perturbation_interval'", "{type: pbt, perturbation_interval: …}"),
    "pbt of a shape": Broken(SCHEDULER, PBT % 50, (14, 7), "tuner.rank can't change then",
        "search training.learning_rate, "),
    "pbt between checkpoints": Broken(SCHEDULER, PBT % 20, (4, 3),
        "trial.checkpoint.save_steps is 50, and pbt compares checkpoints every 20", "to 20"),
    "pbt between evaluations": Broken("max_steps: 8", "eval_steps: 40\n    scheduler: "
        "{type: pbt, perturbation_interval: 50}\n    after: []", (11, 21),
        "trial.training.eval_steps is 40"),
    "pbt of one": Broken("num_samples: 9\n    scheduler: asha", PBT % 50, (4, 3),
        "num_samples is the size of pbt's population", "set it to 4 or more"),
    "pbt of a grid": Broken(SPEC[SPEC.index(RANK) :], "training.weight_decay: {grid: [0, 1]}\n"
        f"    {METRIC}\n    mode: min\n    num_samples: 9\n    {PBT % 50}\n", (18, 5),
        "those of training.weight_decay are all", "write choice, or take another scheduler"),
    "pbt and optuna": Broken(SCHEDULER, f"search: optuna\n    {PBT % 50}", (18, 13),
        "search optuna chooses values for trials that start", "set search to random"),
    "grid and optuna": Broken(f"{RANK}\n", "tuner.rank: {grid: [8, 16]}\n    search: optuna\n",
        (15, 13), "those of tuner.rank are all to be tried (grid)", "write choice"),
    "search": Broken(SCHEDULER, "search: optna", (18, 13), "got the text 'optna'", "'optuna'?"),
    "gpu hours without GPUs": Broken(SCHEDULER, "budget: {gpu_hours: 1}", (18, 25),
        "counts GPUs, and the trial's workers have none", "budget.time_s"),
    "no trials": Broken("num_samples: 9", "num_samples: 0", (17, 18), "must be more than 0"),
    "name of Optuna": Broken("num_samples: 9", "n_trials: 9", (17, 5), "unknown key 'n_trials'",
        "it is called 'num_samples' here"),
    "after in the trial": Broken(MODEL, f"{MODEL}      after: [b]\n", (9, 7),
        "trial.after has no use in a trial", "write `after` beside `trial`"),
    "typo in the trial": Broken("max_steps: 8", "max_step: 8", (11, 9),
        "unknown key 'max_step'", "did you mean 'max_steps'?"),
    "other section in the trial": Broken(MODEL, f"{MODEL}      learning_rate: 1\n", (9, 7),
        "unknown key", "learning_rate belongs in stages.sweep.trial.training"),
    "name of others in the trial": Broken(MODEL, f"{MODEL}      lr: 1\n", (9, 7), "unknown key",
        "'learning_rate' here, and belongs in stages.sweep.trial.training"),
    "key of the sweep in the trial": Broken(MODEL, f"{MODEL}      num_samples: 1\n", (9, 7),
        "unknown key 'num_samples'", "num_samples belongs in stages.sweep"),
    "schedule in the trial": Broken("max_steps: 8", "scheduler: cosine", (11, 9),
        "unknown key 'scheduler'", "it is called 'lr_scheduler_type' here"),
    "key of the trial in the sweep": Broken("    metric", "    max_steps: 1\n    metric", (15, 5),
        "unknown key 'max_steps'", "max_steps belongs in stages.sweep.trial.training"),
    "kind of the trial": Broken("kind: sft", "kind: merge", (7, 13),
        "unknown kind 'merge'; there are sft, grpo"),
    "kind of the trial missing": Broken("      kind: sft\n", "", (6, 5),
        "missing key 'kind'", "add `kind: sft` or `kind: grpo`"),
    "secret in the trial": Broken(MODEL, f"{MODEL}      hub_token: abcdef\n", (9, 18),
        "this looks like a secret", "write ${secret:NAME}"),
    "the sweep's own model": Broken("model: m", "model: ${stages.sweep.model}", (8, 14),
        "the stage 'sweep' refers to itself"),
    "reference among choices": Broken(RANK, 'model: {choice: ["${stages.sft.model}"]}', (14, 24),
        "${stages.sft.model} may not stand here"),
}  # fmt: skip


@pytest.mark.parametrize("broken", CASES.values(), ids=CASES.keys())
def test_the_problem_has_its_place_and_remedy(broken: Broken, tmp_path: Path) -> None:
    broken.check(SPEC, tmp_path)


def test_the_unbroken_spec_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(SPEC)
    assert len(resolve(load(file, (), {}), "./runs").stages) == 1
