"""Broken datasets and models on the command line: exit code 2, the place, reason and remedy."""

import io
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from jobs.cli import cli

SPEC = """\
version: 1
name: a
stages:
  sft:
    kind: sft
    model: ./model
    dataset:
      train: [rows.jsonl]
  merge:
    kind: merge
    model: ./adapter
"""
DATASET, MODEL, ADAPTER = "job.yaml:8:15", "job.yaml:6:12", "job.yaml:11:12"

GOOD = '{"query": "a", "response": "b"}\n'
BAD = '{"query": "a"}\n'


def _safetensors(data_bytes: int = 4, cut: int = 0) -> bytes:
    """A weights file with one tensor, whose last `cut` bytes are missing."""
    tensor = {"dtype": "U8", "shape": [data_bytes], "data_offsets": [0, data_bytes]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(data_bytes - cut)


def _parquet(damaged: bool = False, **columns: list[object]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    content = stream.getvalue()
    return content[:4] + b"\xff" * 40 + content[44:] if damaged else content


def _turns(*turns: tuple[str, str]) -> str:
    return json.dumps({"conversations": [{"from": a, "value": b} for a, b in turns]}) + "\n"


FILES: Mapping[str, str | bytes] = {
    "job.yaml": SPEC,
    "rows.jsonl": GOOD * 3,
    "model/config.json": '{"model_type": "llama"}',
    "model/model.safetensors": _safetensors(),
    "model/tokenizer_config.json": "{}",
    "model/chat_template.jinja": "{{ messages }}",
    "adapter/adapter_config.json": '{"base_model_name_or_path": "./model", "peft_type": "LORA"}',
    "adapter/adapter_model.safetensors": _safetensors(),
}


@dataclass(frozen=True)
class Broken:
    """What differs from `FILES` and `SPEC`, and what is then said, beginning with a place."""

    place: str
    message: str
    remedy: str
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)
    """New content by path; None where the file is missing."""
    train: str = "[rows.jsonl]"
    """What stands after `train:`."""
    model: str = "./model"
    adapter: str = "./adapter"


def _data(name: str, content: str | bytes, line: str, message: str, remedy: str) -> Broken:
    return Broken(f"{name}{line}", message, remedy, {name: content}, f"[{name}]")


DATA = {
    "missing": Broken(DATASET, "no dataset at 'rosw.jsonl'", "did you mean 'rows.jsonl'?",
        train="[rosw.jsonl]"),
    "folder without data": Broken(DATASET, "the folder 'model' holds no dataset", ".jsonl, .json",
        {"model/config.json": None, "model/tokenizer_config.json": None}, "[model]"),
    "unknown suffix": Broken(DATASET, "is of no known type", "known are .jsonl",
        {"rows.txt": GOOD}, "[rows.txt]"),
    "hub": Broken(DATASET, "no dataset at 'tatsu-lab/alpaca'", "must be downloaded first",
        train="[tatsu-lab/alpaca]"),
    "pattern of folders": Broken(DATASET, "no dataset at '*/x/*.jsonl'", "after the last slash",
        train="['*/x/*.jsonl']"),
    "name too long": Broken(DATASET, "can't be read: File name too long", "check the path",
        train=f"[{'a' * 300}.jsonl]"),
    "no count": Broken(DATASET, "'abc' is no number of rows to take of 'rows.jsonl'",
        "write rows.jsonl#500", train="['rows.jsonl#abc']"),
    "negative count": Broken(DATASET, "'-5' is no number of rows", "write rows.jsonl#500",
        train="['rows.jsonl#-5']"),
    "count in the long form": Broken(DATASET, "the long form takes no #5",
        "write {path: rows.jsonl, sample: 5}", train="[{path: 'rows.jsonl#5'}]"),
    "empty": _data("a.jsonl", "", ":1: ", "this dataset has no rows", "a file with rows"),
    "blank lines": _data("a.jsonl", "\n  \n", ":1: ", "this dataset has no rows", "with rows"),
    "empty array": _data("a.json", "[]", ":1: ", "this dataset has no rows", "with rows"),
    "csv header alone": _data("a.csv", "query,response\n", ":1: ", "no rows", "with rows"),
    "parquet without rows": _data("a.parquet", _parquet(query=[]), ":1: ", "no rows", "with rows"),
    "parquet of no bytes": _data("a.parquet", b"", ":1: ", "is not Parquet", "is whole"),
    "parquet cut off": _data("a.parquet", _parquet(query=["a"])[:60], ":1: ",
        "is not Parquet", "is whole"),
    "parquet damaged inside": _data("a.parquet", _parquet(True, query=["a"]), ":1: ",
        "the rows from here on can't be read", "check that the file is whole"),
    "line 17": _data("a.jsonl", GOOD * 16 + '{"query": "a",}\n' + GOOD, ":17:15: ",
        "this line is not JSON", "mend or delete this line"),
    "inside a pretty array": _data("a.json", json.dumps([json.loads(GOOD)] * 3, indent=1).replace(
        "},", "}", 1), ":6:2: ", "expected ',' or ']' after an element", "one array of objects"),
    "pretty object": _data("a.json", json.dumps({"rows": []}, indent=1), ":1:1: ",
        "this line is not JSON", "or the whole file one array of objects"),
    "array of numbers": _data("a.json", "[\n1]", ":2: ", "not an object", "array of objects"),
    "array in a line": _data("a.jsonl", f"[{GOOD.strip()}]\n", ":1:1: ", "not an object", "mend"),
    "deep array": _data("a.json", "[\n" + "[" * 100_000, ":2: ", "too deep", "array of objects"),
    "deep line": _data("a.jsonl", GOOD + "[" * 100_000, ":2: ", "too deep", "mend or delete"),
    "endless number": _data("a.jsonl", '{"a": ' + "9" * 5000 + "}", ":1: ", "too long", "mend"),
    "utf-16": _data("a.jsonl", GOOD.encode("utf-16"), ":1:1: ", "not UTF-8 text", "as UTF-8"),
    "unknown columns": _data("a.jsonl", '{"x": 1, "y": 2}\n', ":1: ",
        "its columns (x, y) are of no known format", "alpaca: instruction"),
    "no row is whole": _data("a.jsonl", BAD * 12, ":10: ", "its columns (query)", "rename columns"),
    "unknown role": _data("a.jsonl", _turns(("alien", "a"), ("gpt", "b")), ":1: ",
        "turn 1 has the role 'alien'; known are system, human", "mend or delete"),
    "no assistant": _data("a.jsonl", _turns(("human", "a")), ":1: ",
        "no turn of the assistant", "mend or delete"),
    "strict": Broken("a.jsonl:4: ", "its columns (query)", "without `strict: true`",
        {"a.jsonl": GOOD * 3 + BAD}, "[a.jsonl]\n      strict: true"),
    "column to rename is not there": Broken("job.yaml:8:68",
        "train[0].columns.quesion: no row has a column 'quesion'", "did you mean 'question'?",
        {"a.jsonl": '{"question": "a", "answer": "b"}\n'},
        "[{path: a.jsonl, columns: {answer: response, quesion: query}}]"),
    "columns the wrong way round": Broken("job.yaml:8:48", "no row has a column 'query'",
        "write the file's name first: {question: query}; the rows have frage, response",
        {"a.jsonl": '{"frage": "a", "response": "b"}\n'},
        "[{path: a.jsonl, columns: {query: frage}}]"),
    "all rows held out": Broken("job.yaml:9:19", "validation takes all 3", "hold out fewer",
        train="[rows.jsonl]\n      validation: 3"),
    "the only row held out": Broken("job.yaml:9:19", "validation takes all 1", "give more rows",
        {"rows.jsonl": GOOD}, "[rows.jsonl]\n      validation: 0.02"),
    "nobody's name": Broken(DATASET, "{{NAME}} or {{AUTHOR}}", "add model_name and model_author",
        train="[self-cognition]"),
    "no template": Broken("job.yaml:9:22", "no file at 'chatml'", "the path of a file",
        train="[rows.jsonl]\n      chat_template: chatml"),
    "template's name too long": Broken("job.yaml:9:22", "File name too long", "permissions",
        train=f"[rows.jsonl]\n      chat_template: {'a' * 300}"),
    "broken template": Broken("t.jinja:3: ", "the chat template is not Jinja", "mend this line",
        {"t.jinja": "{% generation %}\n{% endgeneration %}\n{{ messages }"},
        "[rows.jsonl]\n      chat_template: t.jinja"),
    "empty template": Broken("t.jinja:1: ", "the chat template is empty", "write one",
        {"t.jinja": "\n"}, "[rows.jsonl]\n      chat_template: t.jinja"),
}  # fmt: skip

MODELS = {
    "missing": Broken(MODEL, "no model at './modle'", "did you mean './model'?", model="./modle"),
    "near a bundled one": Broken(MODEL, "no model at", "did you mean 'smollm2-135m-instruct'?",
        model="SmolLM2-135M-instruct"),
    "page of the hub": Broken(MODEL, "no model at", "write the hub id: Qwen/Qwen3-8B",
        model="https://huggingface.co/Qwen/Qwen3-8B/tree/main"),
    "shell variable": Broken(MODEL, "no model at '$MODEL'", "${env:NAME}", model="$MODEL"),
    "hub id, offline": Broken(MODEL, "'org/name' is not in the local cache", "unset HF_HUB_OFFLINE",
        model="org/name"),
    "file": Broken(MODEL, "is a file", "the folder that it lies in", model="./model/config.json"),
    "gguf": Broken(MODEL, "is a file", "in safetensors", {"m.gguf": b"GGUF"}, model="./m.gguf"),
    "name too long": Broken(MODEL, "File name too long", "check the path", model="a" * 300),
    "no config": Broken(MODEL, "config.json is missing", "save_pretrained wrote",
        {"model/config.json": None}),
    "config cut off": Broken(MODEL, "/model/config.json' is not JSON", "download the file again",
        {"model/config.json": '{"model_type": "ll'}),
    "no weights": Broken(MODEL, "no .safetensors file", "complete the download",
        {"model/model.safetensors": None}),
    "pickled weights": Broken(MODEL, "no .safetensors file", "convert pytorch_model.bin",
        {"model/model.safetensors": None, "model/pytorch_model.bin": b"x"}),
    "weights of no bytes": Broken(MODEL, "is no safetensors file", "download the file again",
        {"model/model.safetensors": b""}),
    "weights cut off": Broken(MODEL, "and its header promises", "complete the download",
        {"model/model.safetensors": _safetensors(cut=1)}),
    "pointer for weights": Broken(MODEL, "is a Git LFS pointer", "git lfs pull",
        {"model/model.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"}),
    "shard missing": Broken(MODEL, "lacks 1 of its weights files, such as b.safetensors",
        "complete the download",
        {"model/model.safetensors.index.json": '{"weight_map": {"w": "b.safetensors"}}'}),
    "index of nothing": Broken(MODEL, "names no weights files", "download the file again",
        {"model/model.safetensors.index.json": '{"weight_map": []}'}),
    "no tokenizer": Broken(MODEL, "a model without its tokenizer", "tokenizer.save_pretrained",
        {"model/tokenizer_config.json": None}),
    "tokenizer cut off": Broken(MODEL, "/model/tokenizer.json' is not JSON", "download",
        {"model/tokenizer.json": '{"version": "1'}),
    "no chat template": Broken(MODEL, "has no chat template", "use an instruct model",
        {"model/chat_template.jinja": None}),
    "adapter to train": Broken(MODEL, "'./adapter' is an adapter, and a full model is needed",
        "merge: {kind: merge, model: ./adapter}", model="./adapter"),
    "full model to merge": Broken(ADAPTER, "there is nothing to merge", "adapter_config.json",
        adapter="./model"),
    "name of a stage": Broken(ADAPTER, "no model at 'sft'", "write ${stages.sft.model}",
        adapter="sft"),
    "adapter without a base": Broken(ADAPTER, "names no base model", "base_model_name_or_path",
        {"adapter/adapter_config.json": "{}"}),
    "base gone": Broken(ADAPTER, "/adapter': no model at './gone'", "correct base_model_name",
        {"adapter/adapter_config.json": '{"base_model_name_or_path": "./gone"}'}),
    "base is the adapter": Broken(ADAPTER, "is an adapter itself: './adapter'", "correct base",
        {"adapter/adapter_config.json": '{"base_model_name_or_path": "./adapter"}'}),
    "no LoRA": Broken(ADAPTER, "is of type PROMPT_TUNING", "give a LoRA adapter",
        {"adapter/adapter_config.json":
            '{"base_model_name_or_path": "./model", "peft_type": "PROMPT_TUNING"}'}),
    "adapter cut off": Broken(ADAPTER, "and its header promises", "complete the download",
        {"adapter/adapter_model.safetensors": _safetensors(cut=2)}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))


def _write(folder: Path, changes: Mapping[str, str | bytes | None]) -> None:
    for name, content in {**FILES, **changes}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def _invoke(command: str, folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, [command, str(folder / "job.yaml"), *options])


def _assert_refused(broken: Broken, folder: Path) -> None:
    spec = SPEC.replace("[rows.jsonl]", broken.train).replace("./adapter", broken.adapter)
    _write(folder, {"job.yaml": spec.replace("./model", broken.model), **broken.files})
    before = sorted(folder.rglob("*"))
    result = _invoke("validate", folder)
    assert result.exit_code == 2, result.output
    place = f"{folder}/{broken.place}"
    told = [part for part in re.split(r"\n(?!  )", result.stderr) if part.startswith(place)]
    assert told, result.stderr
    assert broken.message in told[0]
    assert broken.remedy in told[0].partition("\n  fix: ")[2]
    assert "Traceback" not in result.output
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("broken", DATA.values(), ids=DATA.keys())
def test_a_broken_dataset_is_refused(broken: Broken, tmp_path: Path) -> None:
    _assert_refused(broken, tmp_path)


@pytest.mark.parametrize("broken", MODELS.values(), ids=MODELS.keys())
def test_a_broken_model_is_refused(broken: Broken, tmp_path: Path) -> None:
    _assert_refused(broken, tmp_path)


def test_bad_rows_among_good_ones_are_counted_and_ten_of_them_named(tmp_path: Path) -> None:
    _write(tmp_path, {"rows.jsonl": GOOD * 5 + BAD * 12})
    result = _invoke("validate", tmp_path)
    assert result.exit_code == 0
    first, *named, last = result.output.splitlines()
    assert first == "rows.jsonl: 12 of 17 rows can't be used"
    lines = [line.strip().split(":")[1] for line in named]
    assert lines == [str(number) for number in range(6, 16)]
    assert last.endswith("job.yaml: valid (2 stages: sft, merge)")


def test_what_is_whole_is_valid_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = CliRunner().invoke(cli, ["validate", "../job.yaml"])
    assert result.output == "../job.yaml: valid (2 stages: sft, merge)\n"


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"job.yaml": SPEC.replace("train:", "trian:")}, ()),
        ({"rows.jsonl": GOOD + "{"}, ()),
        ({"model/model.safetensors": b""}, ()),
        ({}, ("--storage", "s3://bucket/runs")),
        ({}, ("--set", "stages.sft.training.max_stepz=1")),
    ],
    ids=["spec", "data", "model", "storage", "setting"],
)
def test_a_refused_run_leaves_nothing(
    changes: Mapping[str, str | bytes | None],
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _write(tmp_path, changes)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = _invoke("run", tmp_path, *options)
    assert result.exit_code == 2, result.output
    assert sorted(tmp_path.rglob("*")) == before
