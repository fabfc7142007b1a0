"""The interpolations of a job file: which exist, where each may stand, and what becomes of it.

${env:NAME}           read when the spec is read, and recorded
${secret:NAME}        read on the worker, never recorded; only in fields made for secrets
${stages.NAME.model}  what another stage leaves; only as the whole of a stage's or reward's `model`
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.errors import Problem
from jobs.load.spec_types import field_at, is_secret
from jobs.load.tree import Document, KeyPath, Value, child, dotted, leaves, replace
from jobs.load.yaml_tree import scalar
from jobs.spec.fields import REFERENCE, SECRET

OUTPUTS = ("model", "dataset")
"""What a stage can be asked for."""

_INTERPOLATION = re.compile(r"\$\{(?P<body>[^{}\n]*)\}")
_UNCLOSED = re.compile(r"\$\{(env:|secret:|stages\.|run\.)[^{}\n]*(?!\})$", re.MULTILINE)
_STAGE = r"stages\.[^.]+\.(trial\.)?"
_TAKES_A_MODEL = re.compile(_STAGE + r"((rewards\[\d+\]\.)?model|(models|adapters)\.[^.]+)")
_TAKES_ROWS = re.compile(_STAGE + r"dataset\.[a-z]+\[\d+\](\.path)?")
_COUNT = re.compile(r"#\d+$")
_ENV = re.compile(r"env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_KNOWN = "${env:NAME}, ${secret:NAME} and ${stages.NAME.model}"


@dataclass
class Interpolated:
    """What interpolating a document came to. The document's values are replaced in place."""

    environment: dict[str, str] = field(default_factory=dict)
    """The environment variables that were read, and what they held."""
    env_paths: dict[KeyPath, str] = field(default_factory=dict)
    """The values that came from the environment, as they were written."""
    broken: set[KeyPath] = field(default_factory=set)
    """The values with problems, about which nothing more needs saying."""
    problems: list[Problem] = field(default_factory=list)


def interpolate(document: Document, environ: Mapping[str, str]) -> Interpolated:
    """Replaces `${env:…}` by its value, and checks every other interpolation's place."""
    result = Interpolated()
    for path, value in list(leaves(document.value)):
        if isinstance(value, str) and "${" in value:
            _one_value(document, path, value, environ, result)
    return result


def _one_value(
    document: Document, path: KeyPath, text: str, environ: Mapping[str, str], result: Interpolated
) -> None:
    problems = [
        document.problem(path, message, remedy)
        for message, remedy in _complaints(document, path, text, environ)
    ]
    result.problems.extend(problems)
    if problems:
        result.broken.add(path)
        return
    names = [match["name"] for match in map(_ENV.fullmatch, _bodies(text)) if match]
    if not names:
        return
    result.environment.update({name: environ[name] for name in names})
    result.env_paths[path] = text
    replace(document.value, path, _substitute(text, environ, path in document.plain))


def _substitute(text: str, environ: Mapping[str, str], is_plain: bool) -> Value:
    filled = _INTERPOLATION.sub(lambda match: environ[match["body"].removeprefix("env:")], text)
    is_whole = _INTERPOLATION.fullmatch(text) is not None
    return scalar(filled) if is_whole and is_plain else filled


def _bodies(text: str) -> list[str]:
    return [match["body"] for match in _INTERPOLATION.finditer(text)]


def _complaints(
    document: Document, path: KeyPath, text: str, environ: Mapping[str, str]
) -> list[tuple[str, str]]:
    if _UNCLOSED.search(text):
        return [("an interpolation without its closing brace", "end it with '}'")]
    found = []
    for body in _bodies(text):
        if body.startswith("env:"):
            found += _env_complaints(body, text, environ, path in document.plain)
        elif body.startswith("secret:"):
            found += _secret_complaints(document, path, body, text)
        elif body.startswith("stages."):
            found += _stage_complaints(document, path, body, text)
        elif body.startswith("run."):
            found.append(
                (
                    f"${{{body}}} has no use in this version: no field takes it",
                    "remove it; a run's folder already carries its id",
                )
            )
        else:
            found.append((f"unknown interpolation ${{{body}}}", _known_near(body)))
    return found


def _known_near(body: str) -> str:
    """What somebody meant who wrote `${MODEL}` or `${sft.model}`."""
    first = body.split(".")[0]
    if re.fullmatch(r"[A-Za-z_]\w*", body):
        return f"write ${{env:{body}}} for an environment variable; there are {_KNOWN}"
    if body.endswith(".model") and body.count(".") == 1:
        return f"write ${{stages.{first}.model}}"
    if near := difflib.get_close_matches(first, ["stages"], n=1):
        return f"did you mean ${{{near[0]}{body.removeprefix(first)}}}?"
    return f"there are {_KNOWN}"


def _env_complaints(
    body: str, text: str, environ: Mapping[str, str], is_plain: bool
) -> list[tuple[str, str]]:
    match = _ENV.fullmatch(body)
    if not match:
        named = re.match(r"env:\w+(?=:?-)", body)
        remedy = f"there are no defaults: write ${{{named[0]}}}" if named else "write ${env:NAME}"
        return [(f"${{{body}}} names no environment variable", remedy)]
    name = match["name"]
    if name not in environ:
        near = difflib.get_close_matches(name, environ, n=1, cutoff=0.8)
        hint = f" (or did you mean {near[0]}?)" if near else ""
        return [(f"the environment variable {name} is not set", f"export {name}=…{hint}")]
    if "${" in environ[name]:
        return [
            (
                f"the environment variable {name} holds an interpolation; they do not nest",
                f"write the interpolation into the spec, in the place of ${{{body}}}",
            )
        ]
    if not environ[name] and is_plain and text == f"${{{body}}}":
        return [(f"the environment variable {name} is empty", f"export {name}=…")]
    return []


def _secret_complaints(
    document: Document, path: KeyPath, body: str, text: str
) -> list[tuple[str, str]]:
    if not SECRET.match(f"${{{body}}}"):
        return [(f"${{{body}}} names no secret", "write ${secret:NAME}")]
    field = field_at(document.value, path, document.root)
    if field is None or not is_secret(field):
        return [
            (
                f"${{{body}}} may not stand here: this field is recorded",
                "secrets go only into fields made for them, such as hub_token",
            )
        ]
    if text != f"${{{body}}}":
        return [(f"${{{body}}} must be the whole value", f"write just ${{{body}}}")]
    return []


def _stage_complaints(
    document: Document, path: KeyPath, body: str, text: str
) -> list[tuple[str, str]]:
    whole = f"${{{body}}}"
    place = dotted(path)
    if not (_TAKES_A_MODEL.fullmatch(place) or _TAKES_ROWS.fullmatch(place)):
        remedy = "only a stage's `model` or dataset, an adapter, or a reward's model can be so"
        return [(f"{whole} may not stand here", remedy)]
    if (_COUNT.sub("", text) if _TAKES_ROWS.fullmatch(place) else text) != whole:
        return [(f"{whole} must be the whole value", f"write just {whole}")]
    match = REFERENCE.match(whole)
    if not match:
        return [(f"{whole} does not name a stage and its output", "write ${stages.NAME.model}")]
    return stage_complaints(document.value, path, match["stage"]) or _output_complaints(
        match["stage"], match["output"], "dataset" if _TAKES_ROWS.fullmatch(place) else "model"
    )


def stage_complaints(tree: Value, path: KeyPath, stage: str) -> list[tuple[str, str]]:
    """What is wrong with naming `stage` at a path inside another stage: message and remedy."""
    stages = child(tree, "stages")
    names = list(stages) if isinstance(stages, dict) else []
    if stage == path[1]:
        others = ", ".join(name for name in names if name != stage)
        return [
            (
                f"the stage '{stage}' refers to itself",
                f"name another stage: {others}" if others else "name a model instead",
            )
        ]
    if stage not in names:
        near = difflib.get_close_matches(stage, [name for name in names if name != path[1]], n=1)
        remedy = f"did you mean '{near[0]}'?" if near else f"the stages are {', '.join(names)}"
        return [(f"there is no stage '{stage}'", remedy)]
    return []


def _output_complaints(stage: str, output: str, fits: str) -> list[tuple[str, str]]:
    if output == fits:
        return []
    reason = f"a {fits} is needed here, and no {output}"
    if output not in OUTPUTS:
        reason = f"the stage '{stage}' has no output '{output}': there are {' and '.join(OUTPUTS)}"
    return [(reason, f"write ${{stages.{stage}.{fits}}}")]
