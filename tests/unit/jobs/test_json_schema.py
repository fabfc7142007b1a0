"""The JSON Schema: it says what the classes say, and the committed file is up to date."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import jobs
from jobs.json_schema import SCHEMAS, json_schema

FOLDER = Path(jobs.__file__).parent


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_committed_schema_is_the_one_of_the_classes(kind: str) -> None:
    file = f"{kind}.schema.json"
    committed = (FOLDER / "schema" / file).read_text(encoding="utf-8")
    assert committed == json_schema(kind), f"raysmith schema {kind} --output jobs/schema/{file}"


def test_schemas_are_strict_and_have_defaults() -> None:
    training = json.loads(json_schema())["$defs"]["TrainingSpec"]
    assert training["additionalProperties"] is False
    assert training["properties"]["max_grad_norm"]["default"] == 1.0


@pytest.mark.parametrize("kind", SCHEMAS)
def test_fields_have_descriptions(kind: str) -> None:
    schema = json.loads(json_schema(kind))
    for name, definition in schema["$defs"].items():
        for field, content in definition["properties"].items():
            assert content.get("description"), f"{name}.{field} has no docstring"
            assert "\n" not in content["description"]


def test_editors_accept_an_example_and_refuse_a_typo() -> None:
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    example = yaml.safe_load((FOLDER / "examples" / "alpaca-lora.yaml").read_text("utf-8"))
    # PyYAML reads 1e-4 as text, by YAML 1.1.
    example["stages"]["sft"]["training"]["learning_rate"] = 1e-4
    jsonschema.validate(example, schema)
    example["stages"]["sft"]["training"]["learnign_rate"] = 1e-4
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example, schema)


@pytest.mark.parametrize("scheduler", ["asha", {"type": "asha", "grace_period": 2}])
def test_editors_accept_a_scheduler_and_its_name_alone(scheduler: object) -> None:
    schema = json.loads(json_schema())
    job = yaml.safe_load((FOLDER / "examples" / "sweep-lora.yaml").read_text("utf-8"))
    sweep = job["stages"]["sweep"]
    sweep["search_space"] = {"tuner.rank": {"choice": [4, "a", [8]]}}
    sweep["scheduler"] = scheduler
    jsonschema.validate(job, schema)
    sweep["scheduler"] = "ahsa"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, schema)
