"""YAML text as a tree of values, with the place of every value and key kept.

Scalars follow YAML 1.2's core schema, so that `1e-4` is a number and `no` is text. What YAML
allows and a job file has no use for (duplicate keys, keys that are not text, tags) is refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from jobs.errors import Problem, SpecError
from jobs.load.tree import Document, KeyPath, Position, Positions, Value, problem_at

_PLAIN_TAG = "!plain"
_TEXT_TAG = "tag:yaml.org,2002:str"
_COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_MERGE_KEY = "<<"
_MAX_NODES = 100_000
_MAX_DEPTH = 50
_TOO_DEEP = (f"more than {_MAX_DEPTH} levels of nesting", "take levels out; no spec needs as many")
_MAX_SHOWN_KEYS = 5
_MAX_DIGITS = 300

_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLS = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def scalar(text: str) -> Value:
    """The value of an unquoted scalar, by YAML 1.2's core schema."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, base=0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Marks unquoted scalars instead of guessing their types by YAML 1.1."""

    yaml_implicit_resolvers = {None: [(_PLAIN_TAG, re.compile(""))]}


def parse(text: str, file: str, root: Any = None) -> Document:
    """The tree of a YAML text. What is wrong without being a syntax error is in `problems`.

    `root` is the spec class that the file is to be; a job file when None.

    Raises:
        SpecError: if the text is not YAML, or is empty.
    """
    try:
        _check_depth(text, file)
        top = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SpecError([_syntax_problem(error, text, file)]) from error
    if top is None:
        raise SpecError(
            [Problem("the file is empty", "`raysmith init` writes a spec to start from", file=file)]
        )
    return _Builder(file, root).document(top)


def _check_depth(text: str, file: str) -> None:
    """Refuses deep nesting before it is composed: the C library would overflow its stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            mark = event.start_mark
            place = Position(file, mark.line + 1, mark.column + 1) if mark else Position(file)
            raise SpecError([problem_at(place, (), *_TOO_DEEP)])


class _Builder:
    """Walks composed nodes once, collecting values, places and problems."""

    def __init__(self, file: str, root: Any) -> None:
        self.file = file
        self.root = root
        self.positions = Positions({}, {})
        self.plain: set[KeyPath] = set()
        self.problems: list[Problem] = []
        self.refused: set[KeyPath] = set()
        self.open: list[Node] = []
        self.count = 0

    def document(self, top: Node) -> Document:
        self.positions.values[()] = Position(self.file, 1, 1)
        value = self.build(top, ())
        return Document(value, self.positions, self.plain, self.problems, self.refused, self.root)

    def build(self, node: Node, path: KeyPath) -> Value:
        self.count += 1
        if refusal := self.refusal(node):
            # The path to here may be as long as the file.
            raise SpecError([problem_at(self.place(node), path[:_MAX_SHOWN_KEYS], *refusal)])
        if path:
            is_text = isinstance(node, ScalarNode) and node.value
            place = None if is_text else self.positions.keys.get(path)
            self.positions.values[path] = place or self.place(node)
        self.open.append(node)
        value = self.content(node, path)
        self.open.pop()
        return value

    def refusal(self, node: Node) -> tuple[str, str] | None:
        """Why a node can't be walked, and what to do about it."""
        if node in self.open:
            return "an anchor that contains itself", "write the values out instead of using anchors"
        if self.count > _MAX_NODES:
            return (
                f"too many values: more than {_MAX_NODES:,}",
                "write fewer; each use of an anchor counts",
            )
        # Anchors nest deeper than the text does.
        return _TOO_DEEP if len(self.open) == _MAX_DEPTH else None

    def content(self, node: Node, path: KeyPath) -> Value:
        if node.tag not in (_PLAIN_TAG, _TEXT_TAG, *_COLLECTION_TAGS):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self.report(node, path, f"the tag {tag} is not allowed", "remove the tag")
            self.refused.add(path)
            return None
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag == _PLAIN_TAG:
            self.plain.add(path)
            return scalar(node.value)
        return node.value

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        own: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                merged = {**self.merge(value_node, path), **merged}
                continue
            key = self.key(key_node, path)
            if key is None:
                continue
            here = (*path, key)
            if key in own:
                first = self.positions.keys[here].line
                self.report(
                    key_node,
                    here,
                    f"'{key}' stands here twice, first in line {first}",
                    "remove one of the two",
                )
                continue
            self.positions.forget(here)
            self.positions.keys[here] = self.place(key_node)
            own[key] = self.build(value_node, here)
        return {**{key: merged[key] for key in merged if key not in own}, **own}

    def merge(self, node: Node, path: KeyPath) -> dict[str, Value]:
        """The keys that `<<:` brings in. Keys of the mapping itself win, wherever they stand."""
        if isinstance(node, SequenceNode):
            parts = [self.merge(item, path) for item in reversed(node.value)]
            return {key: value for part in parts for key, value in part.items()}
        if not isinstance(node, MappingNode):
            self.report(node, path, "`<<` needs a mapping", "write `<<: *anchor`")
            return {}
        known = Positions(dict(self.positions.values), dict(self.positions.keys))
        merged = self.mapping(node, path)
        self.positions.values.update(known.values)
        self.positions.keys.update(known.keys)
        return merged

    def key(self, node: Node, path: KeyPath) -> str | None:
        if isinstance(node, ScalarNode) and node.tag in (_PLAIN_TAG, _TEXT_TAG):
            key = scalar(node.value) if node.tag == _PLAIN_TAG else node.value
            if isinstance(key, str):
                return key
            self.report(
                node,
                path,
                f"the key {node.value or '(empty)'} is not text",
                f'put it in quotes: "{node.value}"',
            )
            return None
        self.report(node, path, "a key must be text", "write `key: value`")
        return None

    def report(self, node: Node, path: KeyPath, message: str, remedy: str) -> None:
        self.problems.append(problem_at(self.place(node), path, message, remedy))

    def place(self, node: Node) -> Position:
        return Position(self.file, node.start_mark.line + 1, node.start_mark.column + 1)


def _is_merge(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == _PLAIN_TAG and node.value == _MERGE_KEY


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    start = getattr(error, "context_mark", None)
    mark = getattr(error, "problem_mark", None) or start
    if start and "end of stream" in reason:
        mark = start
    if mark is None:
        offset = getattr(error, "position", 0)
        before = text[:offset]
        line, column = before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1
        return Problem(f"this is not YAML: {reason}", "remove it", "", file, line, column)
    lines = text.splitlines()
    source = lines[mark.line] if mark.line < len(lines) else ""
    remedy = _syntax_remedy(reason, source)
    return Problem(f"this is not YAML: {reason}", remedy, "", file, mark.line + 1, mark.column + 1)


def _syntax_remedy(reason: str, source: str) -> str:
    if "${" in source and ("{" in source.replace("${", "") or "[" in source):
        return 'inside { } and [ ], put interpolations in quotes: "${stages.sft.model}"'
    if "end of stream" in reason:
        return "close the quote that begins here"
    if "\t" in source:
        return "indent with spaces, not with tabs"
    if "<document start>" in reason:
        return "a job file is one mapping, of `key: value` lines; something else stands above"
    if "document" in reason:
        return "keep one job to a file: remove the `---` in the middle"
    if "expected ':'" in reason:
        return "put a space after each colon: `key: value`; look at the line before, too"
    if "alias" in reason or "anchor" in reason or "alphabetic or numeric" in reason:
        return "define the anchor (&name) before it is used, or put text with * or & in quotes"
    if "mapping values are not allowed" in reason:
        return "check the indentation, and put text that contains ': ' in quotes"
    if "cannot start any token" in reason:
        return "put text that begins with @, ` or % in quotes"
    if "unknown escape" in reason:
        return "use single quotes where a backslash stands for itself"
    return "check the indentation, brackets and quotes in this line and the one before"
