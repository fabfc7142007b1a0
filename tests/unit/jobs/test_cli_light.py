"""The commands that start nothing: validate, plan, schema, init."""

import errno
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.cli import cli
from jobs.plan.resolve import Plan


def _run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    assert _run("init", file).exit_code == 0
    return file


@pytest.fixture
def own(spec: Path) -> Path:
    """The spec with a model and a dataset of its own, beside it."""
    folder = spec.parent
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "model" / "tokenizer_config.json").write_text("{}")
    (folder / "model" / "chat_template.jinja").write_text("")
    rows = [{"query": "Who are you?", "response": "{{NAME}}."}, {"query": "alone"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = spec.read_text().replace("smollm2-135m-instruct", "./model")
    spec.write_text(text.replace("[self-cognition]", "[rows.jsonl]"))
    return spec


def test_validate_says_what_the_job_does(own: Path) -> None:
    result = _run("validate", own)
    first, second, last = result.output.splitlines()
    assert first == "rows.jsonl: 1 of 2 rows can't be used"
    assert second.startswith(f"  {own.parent / 'rows.jsonl'}:2: its columns (query)")
    assert last == f"{own}: valid (2 stages: sft -> merge)"
    assert result.exit_code == 0


def test_validate_reports_what_the_check_finds(own: Path) -> None:
    (own.parent / "model" / "model.safetensors").unlink()
    lines = own.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "model: ./model" in text)
    result = _run("validate", own, "--set", "stages.sft.dataset.strict=true")
    assert result.exit_code == 2
    assert f"{own}:{line}:12: stages.sft.model: " in result.stderr
    assert f"{own.parent / 'rows.jsonl'}:2: its columns (query)" in result.stderr
    assert "\n  fix: complete the download" in result.stderr
    assert result.stderr.endswith("2 problems\n")


def test_plan_prints_a_table_or_json(spec: Path, tmp_path: Path) -> None:
    table = _run("plan", spec, "--storage", str(tmp_path / "runs"))
    assert table.exit_code == 0
    assert f"storage {tmp_path / 'runs'}" in table.output
    lines = table.output.splitlines()
    assert [line.split()[-1] for line in lines[4:6]] == ["run", "run"]
    assert not (tmp_path / "runs").exists()
    text = _run("plan", spec, "--json", "--set", "seed=7", "--storage", tmp_path / "runs").output
    assert Plan.from_json(text).seed == 7
    nexts = [stage["next"] for stage in json.loads(text)["stages"]]
    assert nexts == [{"action": "run", "run": None, "step": None}] * 2


def test_plan_explains_one_value(spec: Path) -> None:
    path = "stages.sft.training.warmup_ratio"
    text = _run("plan", spec, "--explain", path).output
    assert text.startswith(f"{path} = 0.05\n  derived: 0.05 when neither")
    content = json.loads(_run("plan", spec, "--explain", "seed", "--json").output)
    assert content["value"] == 42
    assert content["layer"] == "spec"


def test_schema_is_written_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    assert _run("schema", "--check", file).exit_code == 1
    assert _run("schema", "--output", file).exit_code == 0
    assert file.read_text() == _run("schema").output
    assert _run("schema", "--check", file).exit_code == 0
    file.write_text(file.read_text().replace("adam", "eve"))
    stale = _run("schema", "--check", file)
    assert stale.exit_code == 1
    assert f"raysmith schema job --output {file}" in stale.stderr


def test_init_keeps_an_existing_file(spec: Path) -> None:
    spec.write_text("mine")
    refused = _run("init", spec)
    assert refused.exit_code == 2
    assert spec.read_text() == "mine"
    assert _run("init", spec, "--force").exit_code == 0
    assert _run("plan", spec).exit_code == 0


def test_a_wrong_argument_exits_with_2() -> None:
    assert _run("plan").exit_code == 2
    assert _run("plna").exit_code == 2
    assert _run("plan", "nowhere.yaml").exit_code == 2


def test_help_lists_the_exit_codes() -> None:
    text = _run("--help").output
    assert "Exit codes" in text
    assert "130" in text


def test_a_bug_says_that_it_is_one(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("jobs.plan.policy.resolve", fail)
    result = _run("plan", spec)
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code == 1
    assert "this is a bug in raysmith" in result.stderr


def test_a_reader_that_has_enough_is_no_bug(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("jobs.plan.policy.resolve", fail)
    result = _run("plan", spec)
    assert (result.exit_code, result.stderr) == (1, "")
