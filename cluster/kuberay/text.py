"""YAML of documents, and of specs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from jobs.load.yaml_tree import scalar


class _Dumper(yaml.SafeDumper):
    """Writes strings so that every reader of YAML, ours too, takes them for strings."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Writes what is there twice, twice."""
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    if "\n" in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    style = None if scalar(text) == text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def to_yaml(content: Any) -> str:
    """One document, keys in the order that they have."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def to_documents(documents: Iterable[Mapping[str, Any]]) -> str:
    """Documents behind one another, as `kubectl apply` takes them."""
    return "---\n".join(to_yaml(dict(document)) for document in documents)
