"""What Prefect's page is told of a retraining."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from flows.retrain_artifacts import changes, comparison_svg, verdict_markdown


def test_changes_against_the_champion() -> None:
    now = {"train": {"best": 0.75, "monitor": "val/map"}, "evaluate": {"accuracy": 0.9, "new": 1}}
    before = {"train": {"best": 0.5, "monitor": "val/map"}, "evaluate": {"accuracy": 0.9, "old": 2}}
    rows = [tuple(row.values()) for row in changes(now, before)]
    assert rows == [
        ("train", "best", "0.5", "0.75", "0.25"),
        ("train", "monitor", "val/map", "val/map", ""),
        ("evaluate", "accuracy", "0.9", "0.9", "0"),
        ("evaluate", "new", "", "1", ""),
        ("evaluate", "old", "2", "", ""),
    ]
    assert [row["before"] for row in changes({"train": {"best": 0.75}}, {})] == [""]


def entry(challenger: float | None, champion: float | None) -> dict[str, Any]:
    return {"challenger": challenger, "champion": champion}


def verdict(champion: float | None) -> dict[str, Any]:
    rule = {"rule": "gain, low end", "about": "a|b", "measured": 0.1, "limit": None}
    return {
        "outcome": "refuse",
        "comparison": "worse",
        "reasons": ["class floor (cat): 0.1\nis below 0.2"],
        "rules": [{**rule, "outcome": "fail"}],
        "figures": {
            "metric": "accuracy",
            "all": entry(0.5, champion),
            "classes": {f"<class {i}>": entry(0.25, champion) for i in range(30)},
        },
    }


def test_verdict_in_words() -> None:
    lines = verdict_markdown(verdict(0.6)).splitlines()
    assert lines[0] == "# refuse: worse"
    assert lines[2] == "- class floor (cat): 0.1 is below 0.2"
    assert lines[-1] == "| gain, low end | a\\|b | 0.1 |  | fail |"


@pytest.mark.parametrize(("champion", "bars"), [(0.6, 42), (None, 21), (float("nan"), 21)])
def test_picture(champion: float | None, bars: int) -> None:
    root = ElementTree.fromstring(comparison_svg(verdict(champion)))
    found = root.findall("{http://www.w3.org/2000/svg}rect")[1:]
    assert len(found) == bars
    widths = {float(bar.attrib["width"]) for bar in found}
    assert {150.0, 75.0} <= widths
    assert all(0 <= width <= 300 for width in widths)
    assert "<class 0>" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
