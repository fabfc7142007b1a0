"""Looks at a model that a stage starts from."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from workloads.check import Findings, located
from workloads.models.resolve import ModelSource, read_json, resolve_model
from workloads.models.shape import shape_of

_PERMISSIONS = "check its permissions"


def check_model(
    loaded: LoadedSpec, stage: StagePlan, findings: Findings, field: str, model: str
) -> ModelSource | None:
    """Resolves a model that the stage takes unless another stage makes it.

    What is wrong with it is added to the findings, and its digest. `field` names it in the stage,
    such as `model` or `rewards[0].model`.
    """
    if field in stage.inputs:
        return None
    try:
        source = resolve_model(model, loaded.base_folders)
        check_weights(source)
        findings.digests[field] = source.digest()
        if field == "model":
            findings.shape = shape_of(source)
    except UserError as error:
        if model in loaded.spec.stages:
            reference = f"${{stages.{model}.model}}"
            error = UserError(error.message, f"for the model of that stage, write {reference}")
        findings.problems += located(loaded, stage, field, error)
        return None
    except OSError as error:
        unreadable = UserError(f"{error.filename!r} can't be read: {error.strerror}", _PERMISSIONS)
        findings.problems += located(loaded, stage, field, unreadable)
        return None
    return source


def check_full_model(
    loaded: LoadedSpec, stage: StagePlan, findings: Findings, field: str, model: str
) -> ModelSource | None:
    """As `check_model`, where an adapter will not do."""
    source = check_model(loaded, stage, findings, field, model)
    if source and source.is_adapter:
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.{field}",
                f"{model!r} is an adapter, and a full model is needed",
                f"add a stage and use its model: merge: {{kind: merge, model: {model}}}",
            )
        )
        return None
    return source


def check_context(
    loaded: LoadedSpec, stage: StagePlan, model: Path, tokens: int, findings: Findings, remedy: str
) -> None:
    """Prompt and completion, of `tokens` together, must fit into what the model can look at."""
    config = read_json(model / "config.json")
    positions = config.get("max_position_embeddings")
    # What stretches a model's positions is left to the engine, which knows by how much.
    stretched = config.get("rope_scaling") or config.get("rope_parameters", {}).get("factor")
    if isinstance(positions, int) and tokens > positions and not stretched:
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.dataset",
                f"prompt and completion may have {tokens:,} tokens together, and the model looks "
                f"at {positions:,}",
                remedy,
            )
        )


def check_weights(source: ModelSource) -> None:
    """Checks that the weights files of a folder are whole, by their headers alone.

    Raises:
        UserError: if one is cut off, or no safetensors at all.
    """
    if source.kind != "folder":
        return
    for path in sorted(Path(source.name).glob("*.safetensors")):
        try:
            size, expected = path.stat().st_size, _expected_size(path)
        except OSError as error:
            reason = f"{str(path)!r} can't be read: {error.strerror}"
            raise UserError(reason, _PERMISSIONS) from error
        if expected is None:
            raise UserError(f"{str(path)!r} is no safetensors file", "download the file again")
        if size != expected:
            reason = f"{str(path)!r} has {size:,} bytes, and its header promises {expected:,}"
            raise UserError(reason, "complete the download")


def _expected_size(path: Path) -> int | None:
    """The size that a safetensors file's header tells; None where there is no such header."""
    with path.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            reason = f"{str(path)!r} is a Git LFS pointer, and not the weights"
            raise UserError(reason, "run `git lfs pull` in its folder")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > path.stat().st_size:
            return None
        try:
            header = json.loads(stream.read(length))
            tensors = [part for name, part in header.items() if name != "__metadata__"]
            ends = [int(tensor["data_offsets"][1]) for tensor in tensors]
        except (ValueError, AttributeError, LookupError, TypeError):
            return None
    return 8 + length + max(ends, default=0)
