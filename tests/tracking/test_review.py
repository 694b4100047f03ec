"""What a reviewer of a retraining reads: the same facts give the same JSON as in the golden file.

When the report is meant to change: `python tests/tracking/test_review.py` writes the file anew.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.report.facts import Facts, Revision
from components.report.review import Before, review

GOLDEN = Path(__file__).parent / "review.json"
LINKS = {"The model": "wandb:artifacts/model/onnx/md5-1", "The code": "https://example.org/code"}
FACTS = Facts(
    title="Blood cells, nightly",
    made_at="2026-11-21 23:00 UTC",
    task="detection",
    figures={
        "validate": {"num_images": 402, "num_objects": 2814, "num_classes": 3, "num_warnings": 2},
        "preprocess": {"num_train": 290, "num_val": 40, "num_test": 72},
        "train": {"best_epoch": 2, "num_epochs": 2, "best": 0.55, "monitor": "val/map"},
        "evaluate": {"map": 0.551},
        "export": {"megabytes": 13.6},
    },
    evaluation={
        "task": "detection",
        "split": "test",
        "num_images": 72,
        "classes": ["RBC", "WBC", "a|b *c*"],
        "headline": {"map": 0.551, "map_50": 0.8},
        "intervals": {"map": [0.5, 0.6]},
        "per_class": [
            {"class": "RBC", "num_objects": 300, "ap": 0.7},
            {"class": "WBC", "num_objects": 40, "ap": 0.6},
            {"class": "a|b *c*", "num_objects": 30, "ap": 0.2},
        ],
        "mistakes": [{"picture": "m.jpg", "path": "m.jpg", "title": "t", "detail": "d"}],
        "slices": [],
    },
    pictures={},
    validation={"findings": [], "num_warnings": 2},
    dataset={"fingerprint": "cd" * 32},
    prepared={"image_size": [240, 320], "fingerprint": "cd" * 32},
    images_per_split={"train": 290, "val": 40, "test": 72},
    per_class_and_split={"RBC": {"train": 900}, "WBC": {"train": 90}, "a|b *c*": {"train": 60}},
    curves=[{"epoch": 1.0, "train_loss": 0.9, "val/map": 0.1, "lr": 0.01}],
    parameters=[("train.epochs", 2), ("train.lr", 0.002)],
    revision=Revision("f" * 40),
)


def entry(challenger: float, champion: float | None, num_images: int = 30) -> dict[str, Any]:
    """Figures of a class, slice, or all."""
    gain = None if champion is None else round(challenger - champion, 6)
    bounds = {"low": None, "high": None}
    if gain is not None:
        bounds = {"low": round(gain - 0.02, 6), "high": round(gain + 0.02, 6)}
    both = {"num_images": num_images, "challenger": challenger, "champion": champion}
    return {**both, "gain": gain, **bounds}


def model(value: float) -> dict[str, Any]:
    """What the gate says of a model."""
    about = {"data_fingerprint": "ab" * 32, "megabytes": 13.6, "latency_ms": 21.5}
    return {**about, "headline": {"map": value, "map_50": value + 0.2}}


VERDICT: dict[str, Any] = {
    "outcome": "refuse",
    "comparison": "no worse",
    "reasons": ["class floor of a|b *c*: 0.2 is not >= 0.3"],
    "rules": [
        {"rule": "gain of map, low end", "about": "", "measured": 0.031, "limit": "> 0"}
        | {"outcome": "pass", "note": "the gain is +0.051"},
        {"rule": "class floor", "about": "a|b *c*", "measured": 0.2, "limit": ">= 0.3"}
        | {"outcome": "fail", "note": ""},
        {"rule": "class floor", "about": "RBC", "measured": 0.7, "limit": ">= 0.3"}
        | {"outcome": "pass", "note": ""},
    ],
    "figures": {
        "metric": "map",
        "split": "test",
        "data_fingerprint": "cd" * 32,
        "challenger": model(0.551),
        "champion": model(0.5),
        "all": entry(0.551, 0.5, 72),
        "classes": {"RBC": entry(0.7, 0.6), "a|b *c*": entry(0.2, 0.3), "WBC": entry(0.6, 0.6)},
        "slices": {"camera=2": entry(0.4, 0.45)},
        "validation": {"drift": ["drift-brightness"]},
    },
}
BEFORE = Before(
    version="v1.2.0",
    commit="e" * 40,
    figures={"validate": {"num_images": 380, "num_objects": 2600, "num_classes": 3}},
    parameters=[("train.epochs", 6), ("train.lr", 0.002)],
    merged=["may"],
    refused={"june": "12 images are broken"},
)


def made() -> dict[str, Any]:
    """The whole JSON that W&B is given."""
    from components.tracking.wandb_report import build, report_json

    content = review(FACTS, VERDICT, BEFORE, LINKS, "1a2b3c4d")
    report = build(content, "team", "cells", "retrain-1a2b3c4d", "https://wandb.example")
    return {"title": report.title, "description": report.description, "spec": report_json(report)}


@pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")  # wandb-workspaces
def test_the_report_is_as_in_the_golden_file() -> None:
    pytest.importorskip("wandb_workspaces")
    assert made() == json.loads(GOLDEN.read_text())


def texts(content: dict[str, Any]) -> dict[str, str]:
    """Section to its text."""
    found: dict[str, str] = {}
    for block in content["blocks"]:
        if block["kind"] == "heading":
            title = block["text"]
            found[title] = ""
        else:
            found[title] += block.get("text", json.dumps(block)) + "\n"
    return found


def test_a_reviewer_reads_what_was_decided_and_why() -> None:
    content = review(FACTS, VERDICT, BEFORE, LINKS, "1a2b3c4d")
    assert content["title"] == "Blood cells, nightly: refuse (1a2b3c4d)"
    assert "AP 0.551, was 0.500 (gain +0.0510, +0.0310 to +0.0710)" in content["description"]
    sections = texts(content)
    assert "failed: class floor of a\\|b \\*c\\*" in sections["Verdict"]  # a name breaks no table
    changed = sections["What changed"]
    assert "| Images | 380 | 402 | +22 |" in changed
    assert "merged: may" in changed and "refused: june: 12 images are broken" in changed
    assert "drift: drift-brightness" in changed
    assert "| train.epochs | 6 | 2 |" in changed and "train.lr" not in changed
    weak = sections["Weak classes and slices"]
    assert weak.index("a\\|b") < weak.index("WBC") < weak.index("RBC")
    assert "camera=2" in weak
    assert "worst_mistakes" in sections["Worst mistakes"]
    assert json.loads(sections["Training"])["panels"] == {
        "Loss": ["train_loss"],
        "Metric on val": ["val/map"],
        "Learning rate": ["lr"],
    }
    assert "[The code](https://example.org/code)" in sections["Links"]


def test_the_first_model_has_nothing_to_be_compared_with() -> None:
    alone = {key: dict(item) for key, item in (("a", entry(0.7, None)),)}
    figures = {**VERDICT["figures"], "champion": None, "all": entry(0.5, None), "classes": alone}
    figures |= {"slices": {}, "validation": None}
    verdict = {**VERDICT, "outcome": "promote", "reasons": [], "rules": [], "figures": figures}
    bare = replace(FACTS, curves=[], revision=None)
    bare = replace(bare, evaluation={**FACTS.evaluation, "mistakes": []})
    content = review(bare, verdict, Before(), {}, "1")
    assert content["description"] == "promote: AP 0.500; the first model"
    assert not {"Training", "Worst mistakes"} & set(texts(content))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(made(), indent=1) + "\n")
    sys.exit()
