"""Which figure fails which rule; that a verdict follows from its own text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gate_figures import ENTRY, figures

from components.gate.rules import replay, verdict
from components.gate.settings import GateSettings


def failed(settings: GateSettings | None = None, **changes: Any) -> list[str]:
    found = verdict(figures(**changes), settings or GateSettings())
    names = [f"{r['rule']}/{r['about']}" for r in found["rules"] if r["outcome"] == "fail"]
    assert (found["outcome"] == "refuse") == bool(names)
    assert len(found["reasons"]) == len(names)
    return names


def test_a_better_model_is_promoted():
    assert failed() == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"all__low": 0.0}, "gain of accuracy, low end/"),
        ({"all__low": -0.01}, "gain of accuracy, low end/"),
        ({"all__challenger_low": 0.0}, "accuracy, low end/"),
        ({"all__challenger_low": None}, "accuracy, low end/"),
        ({"trivial": 0.9}, "accuracy over the trivial model's/"),
        ({"classes__b__gain": -0.2, "classes__b__high": -0.01}, "gain of the class/b"),
        ({"slices__camera__gain": -0.2, "slices__camera__high": -0.01}, "gain of the slice/camera"),
        ({"challenger__latency_ms": 15.1}, "latency, in champion's/"),
        ({"challenger__megabytes": 7.6}, "size, in champion's/"),
        ({"parity__max_score_difference": 2e-4}, "parity with PyTorch/"),
        ({"parity__metric_pytorch": 0.902}, "parity with evaluate/"),
        ({"validation__num_errors": 1}, "validation errors/"),
        ({"validation__drift": ["drift-labels"]}, "drift since the accepted data/"),
        ({"challenger__lacks": ["c"]}, "classes known/c"),
        ({"known_classes": ENTRY | {"low": -0.2}}, "gain of accuracy on the champion's classes"),
    ],
)
def test_one_figure_too_bad_fails_one_rule(changes, rule):
    names = failed(**changes)
    assert len(names) == 1 and names[0].startswith(rule)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"min_gain": 0.01}, "gain of accuracy, low end/"),
        ({"floor": 0.86}, "accuracy, low end/"),
        ({"class_floor": 0.91}, "class floor/a"),
        ({"slice_floor": 0.91}, "slice floor/camera = 1"),
        ({"max_latency_ms": 9.9}, "latency (ms)/"),
        ({"max_megabytes": 4.9}, "size (MB)/"),
        ({"max_warnings": 2}, "validation warnings/"),
    ],
)
def test_a_limit_too_strict_fails_its_rule(settings, rule):
    assert failed(GateSettings(**settings))[0] == rule


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"min_gain": -0.02}, {"all__low": -0.01}),  # a loss that is tolerated
        ({}, {"classes__b__gain": -0.2, "classes__b__high": 0.01}),  # chance may explain it
        ({}, {"classes__b__gain": -0.09, "classes__b__high": -0.01}),  # small
        ({"class_floor": 0.95}, {"classes__a__num_images": 9, "classes__b__num_images": 9}),
        ({}, {"classes__b": ENTRY | {"challenger": None, "gain": None, "high": None}}),
        ({"max_drift": 1}, {"validation__drift": ["drift-labels"]}),
        ({}, {"parity": None, "validation": None}),
        ({}, {"known_classes": ENTRY | {"low": -0.05}}),
    ],
)
def test_what_is_allowed(settings, changes):
    assert failed(GateSettings(**settings), **changes) == []


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.1, "better"), (-0.1, -0.01, "worse"), (0, 0, "not told apart")],
)
def test_the_comparison_in_a_word(low, high, word):
    assert verdict(figures(all__low=low, all__high=high), GateSettings())["comparison"] == word


def test_without_a_champion_floors_alone_decide():
    alone = dict.fromkeys(("champion", "gain", "low", "high"))
    changes = {"champion": None, "all": ENTRY | alone, "classes": {"a": ENTRY | alone}}
    changes["slices"] = {}
    assert failed(**changes) == []
    assert failed(GateSettings(floor=0.9), **changes) == ["accuracy, low end/"]
    assert failed(GateSettings(class_floor=0.95), **changes) == ["class floor/a"]
    assert verdict(figures(**changes), GateSettings())["comparison"] == "no champion"


def test_a_verdict_is_the_same_again_from_its_own_text():
    tree = figures()
    tree["all"] |= {"gain": 1 / 3, "challenger": 2 / 3, "low": 0.012, "high": 0.088}
    first = verdict(tree, GateSettings(class_drop=0.12))
    again = replay(json.loads(json.dumps(first)))
    assert json.dumps(again) == json.dumps(first)
    first["figures"]["all"]["gains"] = "-0.100000 -0.200000 -0.300000"
    assert replay(first)["comparison"] == "worse"
