"""Set values in the text of a parameter file; its comments and its layout stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from components.errors import ParamsError


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """The text of a parameter file with other values.

    A value is replaced where it stands; a key that is not there comes last in its section. Comments
    behind a value keep their column where there is room.

    Args:
        text: YAML; a mapping of sections.
        values: by dotted key, such as `train.lr`.

    Raises:
        ParamsError: a key leads through a value that is no section.
    """
    for dotted, value in values.items():
        text = _with_value(text, dotted, value)
    return text


def shown(value: Any) -> str:
    """A value as it stands in a parameter file, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def _with_value(text: str, dotted: str, value: Any) -> str:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    keys = dotted.split(".")
    for depth, key in enumerate(keys):
        if not isinstance(node, yaml.MappingNode):
            raise ParamsError(f"{dotted}: {'.'.join(keys[:depth])} is no section of the file")
        found = next((pair for pair in node.value if pair[0].value == key), None)
        if found is None:
            missing: Any = value
            for inner in reversed(keys[depth + 1 :]):
                missing = {inner: missing}
            return _with_entry(text, node, f"{key}: {shown(missing)}")
        key_node, node = found
        if _is_empty(node) and depth + 1 < len(keys):
            for inner in reversed(keys[depth + 1 :]):
                value = {inner: value}
            break
    assert node is not None  # `key` has parts
    return _replaced(text, key_node, node, shown(value))


def _is_empty(node: yaml.Node) -> bool:
    """A section without keys: nothing, null or {}."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.tag).endswith(":null")
    return isinstance(node, yaml.MappingNode) and not node.value


def _replaced(text: str, key_node: yaml.Node, node: yaml.Node, new: str) -> str:
    """The text with `new` in place of what stands for `node`."""
    start, end = key_node.end_mark.index, _end(node)
    start = text.index(":", start) + 1
    old = text[start:end]
    # One space after the colon, or however many were there on the same line.
    gap = re.match(r"[ \t]*", old)
    new = (gap[0] if gap and gap[0] and gap[0] != old else " ") + new
    rest = text[end:]
    comment = re.match(r" +(?=#)", rest)
    if comment and "\n" not in old:
        width = max(1, len(old) + len(comment[0]) - len(new))
        rest = " " * width + rest[comment.end() :]
    return text[:start] + new + rest


def _with_entry(text: str, mapping: yaml.MappingNode, entry: str) -> str:
    """The text with one more entry at the end of a mapping."""
    if mapping.flow_style:
        place = mapping.end_mark.index - 1
        joint = ", " if mapping.value else ""
        return text[:place] + joint + entry + text[place:]
    indent = " " * mapping.value[0][0].start_mark.column
    place = text.find("\n", _end(mapping))
    if place < 0:
        return f"{text}\n{indent}{entry}\n"
    return f"{text[:place]}\n{indent}{entry}{text[place:]}"


def _end(node: yaml.Node) -> int:
    """Where the text of a node ends; PyYAML counts what follows a block as part of it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)
