"""Brings a model onto this machine: converts a bundled one, downloads one from the hub."""

from __future__ import annotations

import logging
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from jobs.spec.fields import SECRET
from storage.commit import begin, commit
from storage.committed import fetch, read_committed
from storage.durable import locked
from storage.manifest import Owner
from workloads.models.resolve import BUNDLED, ModelSource

log = logging.getLogger(__name__)


def localize(source: ModelSource, hub_token: str | None = None) -> str:
    """The folder on this machine that holds the model. Slow the first time, then at once.

    Processes of one machine wait for one another. `hub_token` is a `${secret:NAME}` reference,
    resolved in this process's environment.

    Raises:
        OSError: if the hub can't be reached or refuses.
    """
    if source.kind == "folder":
        fetch(Path(source.name))
        return source.name
    if source.kind == "bundled":
        return _convert(source.name)
    from huggingface_hub import snapshot_download

    secret = SECRET.match(hub_token or "")
    token = os.environ.get(secret["name"]) if secret else None
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    return snapshot_download(
        source.name, revision=source.revision, token=token, allow_patterns=patterns
    )


def cache_folder() -> Path:
    """Where converted models are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "raysmith" / "models"


def _convert(name: str) -> str:
    bundled = BUNDLED[name]
    release = version(bundled.distribution)
    folder = cache_folder() / f"{name}-{release}"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not read_committed(folder):
            log.info("converting the bundled model %s, once", name)
            owner = Owner(run_id="cache", stage=name, key=release, attempt=1)
            begin(folder, owner)
            _write_safetensors(bundled.package, bundled.file, folder)
            commit(folder, owner, {"type": "model"})
    return str(folder)


def _write_safetensors(package: str, file: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    source = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file, dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )  # fmt: skip
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
