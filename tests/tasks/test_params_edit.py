"""Values are set in the text of a parameter file, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from components.errors import ParamsError
from tasks.params_edit import with_values

FILES = [Path("params.yaml"), *sorted(Path("examples").glob("*.yaml"))]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("a:\n  b: 1   # x\n", {"a.b": 22}, "a:\n  b: 22  # x\n"),
        ("a:\n  b: 1 # x\n", {"a.b": 12345}, "a:\n  b: 12345 # x\n"),
        ("a: {b: 1, c: 2}  # x\n", {"a.b": 3, "a.d": 4}, "a: {b: 3, c: 2, d: 4}  # x\n"),
        ("a:\n  b: {}   # x\n", {"a.b.c": 1}, "a:\n  b: {c: 1} # x\n"),
        ("a:\n  b:   # x\nc: 1\n", {"a.b": 2}, "a:\n  b: 2 # x\nc: 1\n"),
        ("a:\n\nc: 1\n", {"a.b": 2}, "a: {b: 2}\n\nc: 1\n"),
        ("a:\n  - 1\n  - 2  # x\nb: 3\n", {"a": [4, 5]}, "a: [4, 5]  # x\nb: 3\n"),
        ("a:\n  b: 1  # x\n\nc: 2\n", {"a.d": None}, "a:\n  b: 1  # x\n  d: null\n\nc: 2\n"),
        ("a:\n  b: 1", {"c.d": 1.5}, "a:\n  b: 1\nc: {d: 1.5}\n"),
        ("a: 'x'\n", {"a": "y: z"}, "a: 'y: z'\n"),
        ("a: 1\n", {"a": 1e-5}, "a: 1.0e-05\n"),
        ("a: [[1, 2], 3]\n", {"a": True}, "a: true\n"),
        (
            "a:\n  b:\n    c: 1 # x\nd: 1\n",
            {"a.e": "no"},
            "a:\n  b:\n    c: 1 # x\n  e: 'no'\nd: 1\n",
        ),
        ('"a":\n  "b" : 1 # x\n', {"a.b": 2}, '"a":\n  "b" : 2 # x\n'),
        ("a:\n  b: |\n    x\n    y\n\n  c: 1\n", {"a.b": "z"}, "a:\n  b: z\n\n  c: 1\n"),
        ("a:\n  b: >-\n    x\nc: 1\n", {"a.d": 2}, "a:\n  b: >-\n    x\n  d: 2\nc: 1\n"),
        ("a: {b: 1,}\n", {"a.c": 2}, "a: {b: 1, c: 2}\n"),
        ("a:\r\n  b: 1 # x\r\n", {"a.b": 2, "a.c": 3}, "a:\r\n  b: 2 # x\r\n  c: 3\r\n"),
    ],
)
def test_replaced_where_it_stands(text: str, values: dict[str, object], expected: str) -> None:
    assert with_values(text, values) == expected


def test_a_value_is_no_section() -> None:
    with pytest.raises(ParamsError, match=r"a\.b\.c: a\.b is no section"):
        with_values("a:\n  b: 1\n", {"a.b.c": 2})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param("a:\n  b: &x 1\n  c: *x\n", "a.b", id="the anchor of another"),
        pytest.param("a:\n  b: &x 1\n  c: *x\n", "a.c", id="the alias of another"),
        pytest.param("a: &x\n  b: 1\nc: *x\n", "c.b", id="in an alias of a section"),
        pytest.param("a: &x\n  b: 1\nc: *x\n", "c.d", id="new in an alias of a section"),
        pytest.param("a: &x\n  b: 1\nc:\n  <<: *x\n", "c.d", id="behind an alias"),
    ],
)
def test_a_value_that_others_hang_on_is_refused(text: str, key: str) -> None:
    with pytest.raises(ParamsError, match=f"{key}: cannot be set without a change of other"):
        with_values(text, {key: 2})


@pytest.mark.parametrize("name", FILES, ids=lambda path: path.name)
def test_shipped_files_keep_every_other_line(name: Path) -> None:
    text = (ROOT / name).read_text()
    values = {"train.lr": 0.125, "preprocess.image_size": [32, 64], "train.augment.color": 0.5}
    changed = with_values(text, values)
    tree = yaml.safe_load(text)
    tree["train"]["lr"], tree["preprocess"]["image_size"] = 0.125, [32, 64]
    tree["train"]["augment"]["color"] = 0.5
    assert yaml.safe_load(changed) == tree
    pairs = zip(text.splitlines(), changed.splitlines(), strict=False)
    others = [(old, new) for old, new in pairs if old != new]
    assert len(changed.splitlines()) - len(text.splitlines()) + len(others) <= 3
    # Comments stay in their columns.
    for old, new in others:
        if old.lstrip().startswith(("lr:", "color:")):
            assert old.partition("#")[2] == new.partition("#")[2]
            assert old.find("#") == new.find("#")
