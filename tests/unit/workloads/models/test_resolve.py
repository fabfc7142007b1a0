"""What a model's name stands for, what is said of those that stand for nothing, and digests."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from jobs.errors import UserError
from workloads.models.resolve import (
    ADAPTER_CONFIG,
    BUNDLED,
    ModelSource,
    adapter_base,
    resolve_model,
)

BUNDLED_NAME = "smollm2-135m-instruct"
ONLINE: dict[str, str] = {}


def _model(folder: Path, *weights: str, config: str = "config.json") -> Path:
    folder.mkdir(parents=True)
    (folder / config).write_text("{}")
    for name in weights:
        (folder / name).write_bytes(b"0")
    return folder


def _refusal(reference: str, base: Path, environ: dict[str, str] | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        resolve_model(reference, (str(base),), ONLINE if environ is None else environ)
    return caught.value


def test_a_folder_beside_the_spec_wins_over_the_hub(tmp_path: Path) -> None:
    folder = _model(tmp_path / "org" / "name", "model.safetensors")
    assert resolve_model("org/name", (str(tmp_path),)) == ModelSource("folder", str(folder))


def test_folders_are_looked_up_in_order_and_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _model(tmp_path / "a" / "m", "model.safetensors")
    second = _model(tmp_path / "b" / "m", "model.safetensors")
    bases = (str(tmp_path / "a"), str(tmp_path / "b"))
    assert resolve_model("m", bases).name == str(first)
    assert resolve_model(str(second), bases).name == str(second)
    monkeypatch.setenv("HOME", str(tmp_path / "b"))
    assert resolve_model("~/m", bases).name == str(second)


@pytest.mark.parametrize(
    ("reference", "revision"),
    [("org/name", None), ("org/na.me@v1", "v1"), ("o/n@refs/pr/1", "refs/pr/1")],
)
def test_a_hub_id_may_have_a_revision(tmp_path: Path, reference: str, revision: str | None) -> None:
    source = resolve_model(reference, (str(tmp_path),), ONLINE)
    assert source == ModelSource("hub", reference.partition("@")[0], revision)
    assert not source.is_adapter
    assert source.digest() == f"{source.name}@{revision or 'main'}"


def test_offline_the_hub_is_its_cache(tmp_path: Path) -> None:
    environ = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    refusal = _refusal("org/name@v1", tmp_path, environ)
    assert "'org/name' is not in the local cache" in refusal.message
    assert "HF_HUB_OFFLINE" in (refusal.remedy or "")
    (tmp_path / "hub" / "models--org--name").mkdir(parents=True)
    assert resolve_model("org/name@v1", (), environ) == ModelSource("hub", "org/name", "v1")


def test_a_bundled_name_is_the_hub_s_model_where_the_package_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = ModelSource("hub", BUNDLED[BUNDLED_NAME].hub_id)
    assert resolve_model(BUNDLED_NAME, (), ONLINE) == expected
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert resolve_model(BUNDLED_NAME, (), ONLINE) == ModelSource("bundled", BUNDLED_NAME)


@pytest.mark.parametrize("reference", ["smollm2-135m-instuct", "./nowhere", "/nowhere/at/all"])
def test_a_name_that_stands_for_nothing(tmp_path: Path, reference: str) -> None:
    refusal = _refusal(reference, tmp_path)
    assert refusal.message == f"no model at {reference!r}"
    assert f"bundled name: {BUNDLED_NAME}" in (refusal.remedy or "")
    near = "did you mean 'smollm2-135m-instruct'?"
    assert (near in (refusal.remedy or "")) == reference.startswith("smol")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    assert "is a file" in _refusal("model.gguf", tmp_path).message


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    assert "config.json is missing" in _refusal("m", tmp_path).message


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    _model(tmp_path / "m", "pytorch_model.bin")
    refusal = _refusal("m", tmp_path)
    assert "no .safetensors file" in refusal.message
    assert "convert pytorch_model.bin" in (refusal.remedy or "")
    _model(tmp_path / "n")
    assert "complete the download" in (_refusal("n", tmp_path).remedy or "")


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    folder = _model(tmp_path / "m", shards[0])
    weight_map = {f"layer.{n}": shard for n, shard in enumerate(shards)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    message = _refusal("m", tmp_path).message
    assert f"lacks 2 of its weights files, such as {shards[1]}" in message
    for shard in shards[1:]:
        (folder / shard).write_bytes(b"")
    assert resolve_model("m", (str(tmp_path),)).kind == "folder"
    index.write_text("{")
    assert "is not JSON" in _refusal("m", tmp_path).message
    index.write_text("[]")
    assert "holds no JSON object" in _refusal("m", tmp_path).message


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    folder = _model(tmp_path / "a", "adapter_model.safetensors", config=ADAPTER_CONFIG)
    assert resolve_model("a", (str(tmp_path),)).is_adapter
    with pytest.raises(UserError, match="names no base model"):
        adapter_base(folder)
    (folder / ADAPTER_CONFIG).write_text('{"base_model_name_or_path": "org/name"}')
    assert adapter_base(folder) == "org/name"


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m", "model.safetensors")
    source = ModelSource("folder", str(folder))
    digests = [source.digest()]

    def changed() -> bool:
        digests.append(source.digest())
        return digests[-1] not in digests[:-1]

    assert not changed()
    (folder / "config.json").write_text('{"a": 1}')
    assert changed()
    (folder / "model.safetensors").write_bytes(b"1")
    assert changed()
    (folder / "big.safetensors").write_bytes(bytes(2**20 + 1))
    assert changed()
    os.utime(folder / "big.safetensors", ns=(0, 1))
    assert changed()
    (folder / "_COMMITTED.json").write_text("{}")
    assert not changed()
