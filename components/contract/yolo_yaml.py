"""A YOLO `data.yaml`, parsed so that hostile content costs nothing.

Every scalar is read as the text that stands there, so that a class may be called `no` or `1`.
Tags, anchors and aliases (of which YAML bombs are made) and repeated keys are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from components.contract.pixels import ImageError, read_bytes
from components.errors import DataError

MAX_BYTES = 128_000
_MAX_DEPTH = 8


class _TextLoader(yaml.SafeLoader):
    """A safe loader that makes only text, lists and objects."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own name and form)

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {_MAX_DEPTH} deep{_place(event.start_mark)}")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError(f"anchors and aliases are not read{_place(event.start_mark)}")
        tag = getattr(event, "tag", None)
        if tag:
            raise yaml.YAMLError(
                f"tags such as {tag[:60]!r} are not read{_place(event.start_mark)}"
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"a key that is not text{_place(key.start_mark)}")
            if key.value in seen:
                raise yaml.YAMLError(
                    f"the key {key.value[:60]!r} is given twice{_place(key.start_mark)}"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file; all scalars are text.

    Raises:
        DataError: it is missing, too large, not YAML, or holds what is not read.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
        content = yaml.load(text, _TextLoader)
    except ImageError as fault:
        raise DataError(fault.reason) from None
    except UnicodeDecodeError as fault:
        raise DataError(f"not UTF-8 text: {fault.reason}") from None
    except RecursionError:
        raise DataError("not valid YAML: nested too deep") from None
    except (yaml.YAMLError, ValueError) as fault:
        raise DataError(f"not valid YAML: {fault}") from None
    if not isinstance(content, dict):
        raise DataError("must be an object with keys such as train, val, names")
    return content


def _place(mark: Any) -> str:
    return f" (line {mark.line + 1})"
