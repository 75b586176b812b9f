"""YAML in and out: plain data, in which a key stands once and no alias blows up."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ..files import read_file
from ..messages import shortened, shown

MOST_BYTES = 2**18
MOST_NODES = 10_000  # with every alias written out; the largest study of the package has some hundreds
MOST_DEPTH = 100  # of lists and mappings in one another
MOST_DIGITS = 64  # of a number as it is written
_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "merge"))
_COLLECTIONS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("seq", "map"))


_INTEGER, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"
# Unlike in YAML 1.1, 1e-3 is a number; 010 and 1:30 are texts, not 8 and 90.
_NUMBERS = {
    _INTEGER: r"[-+]?(0|[1-9][0-9_]*|0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*)",
    _FLOAT: r"[-+]?(([0-9][0-9_]*\.[0-9_]*|[0-9]+(?=[eE])|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))"
    r"|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """Plain data. A key twice is an error, however it is written, and so is more than any settings hold, as
    soon as it is met."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.composed = 0
        self._checked: set[int] = set()

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level >= MOST_DEPTH:
            raise ValueError("the YAML text is nested too deeply")
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.composed += 1
        if self.composed > MOST_NODES:
            raise ValueError(f"the YAML text has more than {MOST_NODES} values")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Writes what `<<` names into the mapping; called for a mapping that is merged, too."""
        if id(node) not in self._checked:  # afterwards it holds keys of others beside its own
            self._checked.add(id(node))
            self._check_keys(node)
        super().flatten_mapping(node)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = key.tag if key.tag == _MERGE else self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                continue  # refused where the mapping is made
            if name in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"the key {shown(key.value)} stands twice in a mapping, line {line}")
            seen.add(name)


class _Dumper(yaml.SafeDumper):
    """Puts texts in quotation marks that `_Loader` would take for numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty for an empty one.

    Raises ValueError where it is no mapping, has a key twice, or is far larger than any settings are.
    """
    try:
        text = read_file(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"this is no text in UTF-8 (byte {error.start}): save it as such") from None
    values = parse_yaml(text)
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"the configuration must be a mapping of settings, got {shown(values)}")
    return values or {}


def parse_yaml(text: str) -> Any:
    """The value that a YAML text stands for. Raises ValueError as `load_yaml` does."""
    try:
        loader = _Loader(text)  # refuses control characters
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > MOST_NODES:
            raise ValueError(f"the YAML text has more than {MOST_NODES} values, aliases written out")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("the YAML text is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(shortened(str(error), 500)) from error
    except (KeyError, IndexError) as error:  # such as !!bool maybe
        raise ValueError("a value in the YAML text is not of the type that its tag says") from error


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node has with its aliases written out. Raises ValueError for one within itself."""
    is_scalar = isinstance(node, yaml.ScalarNode)
    where = f"in line {node.start_mark.line + 1} of the YAML text"
    if node.tag not in (_SCALARS if is_scalar else _COLLECTIONS):
        what = shown(node.value) if is_scalar else "what stands"
        raise ValueError(
            f"{what} {where} is read as {shortened(node.tag.rpartition(':')[2])}, which no setting is; "
            "put it in quotes if it is a text"
        )
    if is_scalar:
        if node.tag.endswith((":int", ":float")) and len(node.value) > MOST_DIGITS:
            raise ValueError(f"the number {shortened(node.value)} {where} is too long")
        if "\0" in node.value or not _is_unicode(node.value):
            raise ValueError(f"the text {shown(node.value)} {where} has characters that no text has")
        return 1
    if id(node) not in known:
        known[id(node)] = -1
        children = [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_written_out(child, known) for child in children)
    if known[id(node)] < 0:
        raise ValueError(f"an alias in line {node.start_mark.line + 1} of the YAML text stands within itself")
    return known[id(node)]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def dump_yaml(values: dict[str, Any]) -> bytes:
    """The YAML text of `values`, in their order, as `load_yaml` reads it."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode()
