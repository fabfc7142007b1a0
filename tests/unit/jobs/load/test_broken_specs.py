"""What people type wrong, and what they are told: the place, the reason, and the remedy."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import cli
from jobs.errors import SpecError
from jobs.load.loader import load
from tests.unit.jobs.load.broken import Broken

TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz"
PASSWORD = "correct-horse-battery"

SPEC = """\
version: 1
name: a
stages:
  sft:
    kind: sft
    model: m
    dataset:
      train: [x.jsonl]
    tuner: {type: lora}
    training:
      max_steps: 8
  merge:
    kind: merge
    model: ${stages.sft.model}
"""


CASES = {
    "typo": Broken("max_steps: 8", "learnign_rate: 1e-4", (11, 7),
        "unknown key 'learnign_rate'", "did you mean 'learning_rate'?"),
    "other section": Broken("    model: m", "    model: m\n    learning_rate: 1e-4", (7, 5),
        "unknown key 'learning_rate'", "learning_rate belongs in stages.sft.training"),
    "other section, from inside one": Broken("max_steps: 8", "save_steps: 8", (11, 7),
        "unknown key 'save_steps'", "save_steps belongs in stages.sft.checkpoint"),
    "stage key on top": Broken("name: a", "name: a\nlearning_rate: 1", (3, 1),
        "unknown key", "learning_rate belongs in stages.sft.training"),
    "top key in a stage": Broken("    model: m", "    model: m\n    seed: 1", (7, 5),
        "unknown key 'seed'", "seed belongs at the top of the file"),
    "typo on top": Broken("name: a", "nmae: a", (2, 1), "unknown key 'nmae'", "'name'?"),
    "dataset_dir": Broken("    model: m", "    model: m\n    dataset_dir: d", (7, 5),
        "unknown key 'dataset_dir'", "remove it: relative paths"),
    "num_epochs": Broken("max_steps: 8", "num_epochs: 8", (11, 7),
        "unknown key 'num_epochs'", "it is called 'num_train_epochs' here"),
    "lr": Broken("max_steps: 8", "lr: 1e-4", (11, 7), "'lr'", "called 'learning_rate' here"),
    "lora_rank": Broken("{type: lora}", "{type: lora, lora_rank: 8}", (9, 25),
        "unknown key 'lora_rank'", "it is called 'rank' here"),
    "lora_alpha in the stage": Broken("    model: m", "    model: m\n    lora_alpha: 8", (7, 5),
        "unknown key 'lora_alpha'", "'alpha' here, and belongs in stages.sft.tuner"),
    "cutoff_len": Broken("    dataset:", "    dataset:\n      cutoff_len: 8", (8, 7),
        "unknown key 'cutoff_len'", "it is called 'max_length' here"),
    "train_type": Broken("    model: m", "    model: m\n    train_type: lora", (7, 5),
        "unknown key 'train_type'", "'type' here, and belongs in stages.sft.tuner"),
    "bf16": Broken("max_steps: 8", "bf16: true", (11, 7), "'bf16'", "called 'torch_dtype' here"),
    "split_dataset_ratio": Broken("max_steps: 8", "split_dataset_ratio: 0.1", (11, 7),
        "unknown key", "'validation' here, and belongs in stages.sft.dataset"),
    "output_dir": Broken("name: a", "name: a\noutput_dir: out", (3, 1),
        "unknown key 'output_dir'", "use the --storage option"),
    "model_name_or_path": Broken("model: m", "model_name_or_path: m", (6, 5),
        "unknown key 'model_name_or_path'", "it is called 'model' here"),
    "training key in a merge": Broken("kind: merge", "kind: merge\n    lr: 1", (14, 5),
        "unknown key 'lr'", "stages of this kind have nothing like it"),
    "missing model": Broken("    model: m\n", "", (4, 3),
        "missing key 'model'", "add `model: smollm2-135m-instruct` to stages.sft"),
    "missing version": Broken("version: 1\n", "", (1, 1),
        "missing key 'version'", "add `version: 1` to the top of the file"),
    "missing kind": Broken("    kind: sft\n", "", (4, 3), "missing key 'kind'", "`kind: sft`"),
    "unknown kind": Broken("kind: sft", "kind: stf", (5, 11),
        "unknown kind 'stf'; there are sft, grpo, sweep, sample, evaluate, merge, export, serve",
        "did you mean 'sft'?"),
    "tuner without type": Broken("{type: lora}", "{rank: 8}", (9, 5),
        "missing key 'type'", "add `type: lora` or `type: full`"),
    "kind as a list": Broken("kind: sft", "kind: [sft]", (5, 5),
        "unknown kind (a list)",
        "choose from sft, grpo, sweep, sample, evaluate, merge, export, serve"),
    "kind in capitals": Broken("kind: sft", "kind: SFT", (5, 11), "unknown kind 'SFT'", "'sft'?"),
    "unknown tuner": Broken("{type: lora}", "{type: qlora}", (9, 19),
        "unknown type 'qlora'", "did you mean 'lora'?"),
    "version from the future": Broken("version: 1", "version: 2", (1, 10),
        "expected 1, got 2", "write 1"),
    "text for a number": Broken("max_steps: 8", "max_steps: many", (11, 18),
        "expected a whole number, got the text 'many'", "write a number"),
    "quoted number": Broken("max_steps: 8", 'max_steps: "8"', (11, 18),
        "expected a whole number, got the text '8'", "write it without quotes: 8"),
    "decimal comma": Broken("max_steps: 8", "learning_rate: 0,0001", (11, 22),
        "expected a number, got the text '0,0001'", "write it with a point: 0.0001"),
    "bool for a number": Broken("max_steps: 8", "max_steps: true", (11, 18),
        "expected a whole number, got true", "a whole number"),
    "yes": Broken("max_steps: 8", "gradient_checkpointing: yes", (11, 31),
        "expected true or false, got the text 'yes'", "write true or false"),
    "out of bounds": Broken("max_steps: 8", "adam_beta1: 2", (11, 19),
        "must be less than 1, got 2", "less than 1"),
    "not a number": Broken("max_steps: 8", "learning_rate: .nan", (11, 22),
        "expected a finite number", "such as 1e-4"),
    "large bound": Broken("name: a", "name: a\nseed: 4294967296", (3, 7),
        "must be less than 4294967296", "less than 4294967296"),
    "unknown choice": Broken("max_steps: 8", "torch_dtype: bf16", (11, 20),
        "expected bfloat16, float16 or float32, got the text 'bf16'", "did you mean 'bfloat16'?"),
    "workers on one GPU": Broken("max_steps: 8",
        "max_steps: 8\n    resources: {workers: 2, gpus_per_worker: 0.5}", (12, 46),
        "gpus_per_worker 0.5 would put several of the 2 workers on one GPU", "workers to 1"),
    "one dataset, no list": Broken("[x.jsonl]", "x.jsonl", (8, 14),
        "expected a list, got the text 'x.jsonl'", "write a list: [x.jsonl]"),
    "one dataset in long form, no list": Broken("[x.jsonl]", "{path: x.jsonl}", (8, 7),
        "expected a list, got a mapping", "after `- `"),
    "three names": Broken("[x.jsonl]", "[x.jsonl]\n      model_name: [a, b, c]", (9, 7),
        "the list is too long: it takes 2 items", "keep 2"),
    "validation file, no list": Broken("[x.jsonl]", "[x.jsonl]\n      validation: v.jsonl", (9, 19),
        "expected a number, a whole number or a list", "write a list: [v.jsonl]"),
    "typo in a dataset": Broken("[x.jsonl]", "[{path: x, sampel: 3}]", (8, 25),
        "unknown key 'sampel'", "did you mean 'sample'?"),
    "no datasets": Broken("[x.jsonl]", "[]", (8, 7), "must not be empty", "at least one"),
    "no rows": Broken("[x.jsonl]", "['x.jsonl#0']", (7, 5), "takes no rows", "above zero"),
    "empty section": Broken("{type: lora}", "", (9, 5),
        "expected a mapping, got nothing", "remove the key"),
    "stages as a list": Broken("stages:", "stages: []\nrest:", (3, 1),
        "expected a mapping, got a list", "`key: value`"),
    "stage name": Broken("  merge:", "  Merge.1:", (12, 3), "'Merge.1' is not a valid name",
        "the signs - and _, starting"),
    "job name": Broken("name: a", "name: a/b", (2, 7), "'a/b' is not a valid name", "-, _ and ."),
    "batches that do not divide": Broken("max_steps: 8",
        "global_batch_size: 3\n      per_device_train_batch_size: 2", (11, 26),
        "global_batch_size 3 is not a multiple", "choose 2 or 4"),
    "float16 without GPUs": Broken("max_steps: 8", "torch_dtype: float16", (11, 20),
        "torch_dtype float16 needs GPUs", "choose bfloat16 or float32"),
    "two batch sizes": Broken("max_steps: 8",
        "global_batch_size: 8\n      gradient_accumulation_steps: 2", (11, 26),
        "exclude each other", "remove one of them"),
    "duplicate key": Broken("max_steps: 8", "max_steps: 8\n      max_steps: 9", (12, 7),
        "'max_steps' stands here twice, first in line 11", "remove one"),
    "key that is no text": Broken("name: a", "name: a\n8: x", (3, 1), "key 8 is not text", '"8"'),
    "tag": Broken("model: m", "model: !!python/name:os.system x", (6, 12),
        "the tag !!python/name:os.system is not allowed", "remove the tag"),
    "tab": Broken("    model: m", "\tmodel: m", (6, 1), "this is not YAML", "spaces"),
    "open quote": Broken("model: m", "model: 'm", (6, 12), "this is not YAML", "close the quote"),
    "open bracket": Broken("[x.jsonl]", "[x.jsonl", (9, 10), "this is not YAML", "brackets"),
    "unquoted in a flow": Broken("[x.jsonl]", "[${env:X}]", (8, 16),
        "this is not YAML", "put interpolations in quotes"),
    "no space after a colon": Broken("name: a", "name:a", (3, 1), "this is not YAML", "a space"),
    "star": Broken("[x.jsonl]", "*.jsonl", (8, 15), "this is not YAML", "put text with * or &"),
    "deep nesting": Broken("[x.jsonl]", "[" * 200_000, (8, 60), "more than 50 levels", "levels"),
    "two documents": Broken("stages:", "---\nstages:", (3, 1), "this is not YAML", "---"),
    "missing variable": Broken("model: m", "model: ${env:MODEL}", (6, 12),
        "the environment variable MODEL is not set", "export MODEL="),
    "unknown interpolation": Broken("model: m", "model: ${modle}", (6, 12),
        "unknown interpolation ${modle}", "${env:NAME}"),
    "shell variable": Broken("model: m", "model: ${MODEL}", (6, 12),
        "unknown interpolation ${MODEL}", "write ${env:MODEL}"),
    "default of a variable": Broken("model: m", "model: ${env:MODEL:-m}", (6, 12),
        "names no environment variable", "there are no defaults: write ${env:MODEL}"),
    "near interpolation": Broken("${stages.sft.", "${stage.sft.", (14, 12),
        "unknown interpolation", "did you mean ${stages.sft.model}?"),
    "run id": Broken("model: m", "model: ${run.id}", (6, 12), "no field takes it", "remove it"),
    "unclosed": Broken("model: m", "model: ${env:X", (6, 12), "closing brace", "'}'"),
    "secret in a recorded field": Broken("model: m", "model: ${secret:X}", (6, 12),
        "${secret:X} may not stand here", "such as hub_token"),
    "stage in another field": Broken("max_steps: 8", "torch_dtype: ${stages.sft.model}", (11, 20),
        "may not stand here", "`model`"),
    "stage within text": Broken("${stages.sft.model}", "${stages.sft.model}/x", (14, 12),
        "must be the whole value", "write just ${stages.sft.model}"),
    "unknown stage": Broken("${stages.sft.", "${stages.sfd.", (14, 12),
        "there is no stage 'sfd'", "did you mean 'sft'?"),
    "unknown output": Broken("sft.model}", "sft.modle}", (14, 12),
        "no output 'modle'", "write ${stages.sft.model}"),
    "own output": Broken("${stages.sft.", "${stages.merge.", (14, 12),
        "refers to itself", "name another stage: sft"),
    "unknown stage in after": Broken("kind: merge", "kind: merge\n    after: [sfd]", (14, 13),
        "there is no stage 'sfd'", "did you mean 'sft'?"),
    "nothing to merge": Broken("{type: lora}", "{type: full}", (14, 12),
        "nothing to merge", "remove this stage"),
    "literal token": Broken("model: m", f"model: m\n    hub_token: {TOKEN}", (7, 16),
        "this looks like a secret (hf_a…)", "${secret:NAME}"),
    "token in a comment": Broken("model: m", f"model: m  # {TOKEN}", (6, 17),
        "this looks like a secret (hf_a…)", "${secret:NAME}"),
    "password in a URL": Broken("model: m", f"model: https://me:{PASSWORD}@host/m", (6, 12),
        "this looks like a secret", "${secret:NAME}"),
    "token as a key": Broken("max_steps: 8", f"{TOKEN}: 8", (11, 7), "(hf_a…)", "${secret:NAME}"),
    "password by its key": Broken("name: a", f"name: a\napi_password: {PASSWORD}", (3, 15),
        "this looks like a secret (corr…)", "${secret:NAME}"),
}  # fmt: skip


@pytest.mark.parametrize("broken", CASES.values(), ids=CASES.keys())
def test_the_problem_has_its_place_and_remedy(broken: Broken, tmp_path: Path) -> None:
    text = broken.check(SPEC, tmp_path)
    assert TOKEN not in text
    assert PASSWORD not in text


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just words\n", "a: &a [*a]\n"])
def test_what_is_no_job_at_all_exits_with_2(text: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    result = CliRunner().invoke(cli, ["validate", str(file)])
    assert result.exit_code == 2
    assert str(file) in result.stderr
    assert "fix:" in result.stderr
    assert "Traceback" not in result.stderr


def test_anchors_do_not_nest_deeper_than_the_text_may(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 900)))
    with pytest.raises(SpecError, match="more than 50 levels of nesting"):
        load(file, (), {})


def test_text_in_another_encoding_has_a_line(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(SPEC.replace("name: a", "name: \xe9").encode("latin-1"))
    with pytest.raises(SpecError) as caught:
        load(file, (), {})
    assert str(caught.value).startswith(f"{file}:2: this is not UTF-8 text")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stages.sft.dataset.train=[a", "train: this is not YAML: did not find expected"),
        ("stages.sft.dataset.train='[a]'", "fix: write it without quotes: [a]"),
        ("stages.sft.dataset.train[0].path=y", "set all of it: --set stages.sft.dataset.train[0]="),
        (f"{TOKEN}=5", "--set hf_a…: unknown key 'hf_a…'"),
    ],
)
def test_a_broken_setting_is_told_without_lines(setting: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(SPEC)
    with pytest.raises(SpecError) as caught:
        load(file, (setting,), {})
    assert said in str(caught.value)
    assert caught.value.problems[0].line is None
    assert TOKEN not in str(caught.value)


def test_everything_is_reported_at_once_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    broken = SPEC.replace("max_steps: 8", "max_steps: many").replace("model: m", "modle: ${env:X}")
    broken = broken.replace("${stages.sft.model}", "${stages.sfd.model}")
    file.write_text(broken + f"api_key: {TOKEN}\n")
    result = CliRunner().invoke(cli, ["plan", str(file)])
    places = [line for line in result.stderr.splitlines() if line.startswith(str(file))]
    lines = [int(place.removeprefix(f"{file}:").split(":")[0]) for place in places]
    assert lines == [4, 6, 6, 11, 14, 15, 15]
    assert result.exit_code == 2
    assert TOKEN not in result.output
