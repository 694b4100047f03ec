"""Set values in the text of a parameter file; its comments and its layout stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from components.errors import ParamsError


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """The text of a parameter file with other values.

    A value is replaced where it stands; a key that is not there comes last in its section. Comments
    behind a value keep their column where there is room.

    Args:
        text: YAML; a mapping of sections. Its lines end in LF, or all in CRLF, and still do so.
        values: by dotted key, such as `train.lr`.

    Raises:
        ParamsError: a key leads through a value that is no section, or other values would change
            too.
    """
    has_crlf = "\r\n" in text
    text = text.replace("\r\n", "\n")
    for dotted, value in values.items():
        changed = _with_value(text, dotted, value)
        wanted = yaml.safe_load(shown(value))
        if _loaded(changed) != _with_leaf(yaml.safe_load(text), dotted.split("."), wanted):
            raise ParamsError(
                f"{dotted}: cannot be set without a change of other values, to which anchors (&) "
                "and aliases (*) may tie it; write out in the file what they stand for"
            )
        text = changed
    return text.replace("\n", "\r\n") if has_crlf else text


def shown(value: Any) -> str:
    """A value as it stands in a parameter file, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def _loaded(text: str) -> Any:
    """What YAML reads; None where it is none any more."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _with_leaf(tree: dict[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with another value; what an alias shares with another place is not changed there."""
    first, *rest = keys
    return {**tree, first: _with_leaf(tree.get(first) or {}, rest, value) if rest else value}


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
    start, end = key_node.end_mark.index, _end(text, node)
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
        has_comma = text[:place].rstrip().endswith(",")
        joint = "" if not mapping.value else " " if has_comma else ", "
        return text[:place] + joint + entry + text[place:]
    indent = " " * mapping.value[0][0].start_mark.column
    place = text.find("\n", _end(text, mapping))
    if place < 0:
        return f"{text}\n{indent}{entry}\n"
    return f"{text[:place]}\n{indent}{entry}{text[place:]}"


def _end(text: str, node: yaml.Node) -> int:
    """Where the text of a node ends; PyYAML counts what follows a block as part of it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end = int(node.end_mark.index)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return len(text[:end].rstrip())
    return end
