"""Every manifest that we ship or render holds against KubeRay's schemas and rules."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay.rules import violations
from tests.unit.cluster.kuberay import crd

ROOT = Path(__file__).parents[4]
MANIFESTS = sorted((ROOT / "tests" / "golden").glob("*.manifests.yaml"))

has_schemas = pytest.mark.skipif(
    not crd.FOLDER.is_dir(), reason="KubeRay's resource definitions are not beside the project"
)


def documents(file: Path) -> list[dict[str, Any]]:
    found = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    return [document for document in found if document["kind"].startswith("Ray")]


def test_there_are_manifests_of_each_kind() -> None:
    kinds = {document["kind"] for file in MANIFESTS for document in documents(file)}
    assert kinds == {"RayJob", "RayService", "RayCluster"}


@has_schemas
@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_the_manifest_fits_the_schema(file: Path) -> None:
    assert [c for document in documents(file) for c in crd.complaints(document)] == []


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_the_manifest_keeps_the_rules(file: Path) -> None:
    assert violations(documents(file)) == []


@has_schemas
@pytest.mark.parametrize(("field", "value"), [("submisionMode", "HTTPMode"), ("backoffLimit", "3")])
def test_the_schema_finds_what_is_wrong(field: str, value: str) -> None:
    job = next(d for file in MANIFESTS for d in documents(file) if d["kind"] == "RayJob")
    broken = copy.deepcopy(job)
    broken["spec"][field] = value
    assert len(crd.complaints(broken)) == 1
