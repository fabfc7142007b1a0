"""From a job file to a `JobSpec`, with everything that is wrong reported at once."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from jobs.errors import Problem, SpecError, UserError
from jobs.load.interpolate import interpolate, stage_complaints
from jobs.load.literal_secrets import hide_secrets, masked
from jobs.load.loaded import LoadedSpec
from jobs.load.overrides import override
from jobs.load.tree import Document, KeyPath, value_at
from jobs.load.wording import problems_of
from jobs.load.yaml_tree import parse
from jobs.spec import JobSpec

__all__ = ["LoadedSpec", "load"]


def load(
    path: Path,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    named: Path | None = None,
) -> LoadedSpec:
    """Reads and checks a job file.

    Args:
        path: the file.
        overrides: `path=value` settings that win over the file, such as
            `stages.sft.training.learning_rate=1e-5`.
        environ: what `${env:X}` reads; the process's environment when absent.
        named: what to call the file, where it is a copy of one that the user named; relative paths
            are looked up beside it.

    Raises:
        UserError: if the file can't be read.
        SpecError: with everything that is wrong with the content.
    """
    text = read_text(path)
    path = named or path
    try:
        document = parse(text, str(path))
    except SpecError as error:
        raise SpecError([masked(problem) for problem in error.problems]) from error
    problems = document.problems + override(document, overrides)
    filled = interpolate(document, os.environ if environ is None else environ)
    secret_paths, secret_problems = hide_secrets(document, text, filled.broken)
    problems += filled.problems + secret_problems + _unknown_after(document)
    spec = _validated(document, filled.broken | secret_paths, problems)
    if problems or spec is None:
        raise SpecError([masked(problem) for problem in dict.fromkeys(problems)])
    return LoadedSpec(
        spec,
        path,
        text,
        document.value,
        document.positions,
        filled.environment,
        filled.env_paths,
        _base_folders(path),
    )


def _base_folders(path: Path) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys((str(path.resolve().parent), str(Path.cwd()))))
    except FileNotFoundError as error:
        message = "the current folder does not exist any more"
        raise UserError(message, "change to one that does: cd") from error


def _validated(document: Document, silent: set[KeyPath], problems: list[Problem]) -> JobSpec | None:
    """The spec; None where pydantic refused it, with the reasons added to `problems`."""
    if not isinstance(document.value, dict):
        problems.append(
            document.problem(
                (),
                "a job file is a mapping with the keys version, name and stages",
                "`raysmith init` writes a spec to start from",
            )
        )
        return None
    silent = silent | document.refused
    try:
        return JobSpec.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems += problems_of(details, document, silent)
    return None


def _unknown_after(document: Document) -> list[Problem]:
    """`after:` entries that name no stage."""
    stages = value_at(document.value, ("stages",))
    problems = []
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        after = value_at(stage, ("after",))
        for index, other in enumerate(after if isinstance(after, list) else ()):
            path = ("stages", name, "after", index)
            if not isinstance(other, str):
                continue
            for message, remedy in stage_complaints(document.value, path, other):
                problems.append(document.problem(path, message, remedy))
    return problems


def read_text(path: Path) -> str:
    """The text of a file that the user named.

    Raises:
        UserError: if it can't be read, or is no text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", _similar_file(path)) from error
    except IsADirectoryError as error:
        raise UserError(
            f"{path} is a folder", f"name a file: {_similar_file(path / 'x')}"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        reason = f"this is not UTF-8 text: {error.reason}"
        problem = Problem(reason, "save the file as UTF-8", file=str(path), line=line)
        raise SpecError([problem]) from error
    except OSError as error:
        raise UserError(
            f"{path} can't be read: {error.strerror}", "check the path and the file's permissions"
        ) from error


def _similar_file(path: Path) -> str:
    try:
        names = sorted(
            item.name
            for item in path.parent.iterdir()
            if item.suffix in (".yaml", ".yml") and not item.name.startswith(".")
        )
    except OSError:
        return f"the folder {path.parent} can't be read; check the path"
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"did you mean {path.parent / near[0]}?"
    if names:
        return f"{path.parent} holds {', '.join(names[:10])}"
    return "`raysmith init` writes a spec to start from"
