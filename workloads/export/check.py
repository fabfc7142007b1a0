"""Looks at the model that an export stage is given, and whether its form can be made here."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.export import ExportSpec
from jobs.spec.fields import SECRET
from workloads.check import Findings, located
from workloads.export.forms import EXTRAS, GGUF_ARCHITECTURES, PACKAGES
from workloads.merge.check import check_adapter
from workloads.models.adapter import base_model
from workloads.models.check import check_model
from workloads.models.resolve import ModelSource, read_json

_TRUE = ("1", "true", "yes", "on")


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The model must be there, and what its form and destination need must be installed."""
    spec = stage.spec
    assert isinstance(spec, ExportSpec)
    findings = Findings()
    source = check_model(loaded, stage, findings, "model", spec.model)
    if source is not None:
        try:
            if source.is_adapter:
                check_adapter(Path(source.name), loaded.base_folders)
                source = base_model(Path(source.name), loaded.base_folders)
            _check_form(source, spec)
        except UserError as error:
            findings.problems += located(loaded, stage, "model", error)
    if spec.quantize:
        _check_package(loaded, stage, findings, "quantize.method", spec.quantize.method)
    if spec.push:
        _check_package(loaded, stage, findings, "push.to", spec.push.scheme)
        _check_push(loaded, stage, findings, spec)
    return findings


def _check_form(source: ModelSource, spec: ExportSpec) -> None:
    """Whether the model of a folder can be written as GGUF; of others it is known when loaded."""
    if source.kind != "folder":
        return
    config = read_json(Path(source.name, "config.json"))
    if "quantization_config" in config:
        raise UserError(
            f"the model in {source.name!r} is quantized already",
            "give the model that it was made of",
        )
    found = (config.get("architectures") or ["?"])[0]
    if spec.gguf_wanted and found not in GGUF_ARCHITECTURES:
        raise UserError(
            f"a {found} can't be written as GGUF",
            f"take `gguf` and `ollama` out; known are {', '.join(GGUF_ARCHITECTURES)}",
        )


def _check_package(
    loaded: LoadedSpec, stage: StagePlan, findings: Findings, field: str, need: str
) -> None:
    module = PACKAGES[need]
    if find_spec(module) is None:
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.{field}",
                f"{need!r} needs the package {module}, which is not installed",
                f"pip install 'raysmith[{EXTRAS[module]}]'",
            )
        )


def _check_push(loaded: LoadedSpec, stage: StagePlan, findings: Findings, spec: ExportSpec) -> None:
    push = spec.push
    assert push
    if push.scheme == "hf" and os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.push.to",
                "HF_HUB_OFFLINE is set, so nothing can be pushed to the hub",
                "unset HF_HUB_OFFLINE, or take `push` out",
            )
        )
    token = SECRET.match(push.token or "")
    if token and not os.environ.get(token["name"]):
        findings.notes.append(
            f"{stage.name}: {token['name']} is not set here; the workers need it to push"
        )
