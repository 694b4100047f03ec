"""What the page is made from; `tasks/report.py` gathers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Revision:
    """The code of the run.

    Args:
        commit: full hash.
        branch: its name; empty when no branch is checked out.
        changed: paths that differ from the commit, outputs of the stages left out.
    """

    commit: str
    branch: str = ""
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Previous:
    """The version before: a retraining's champion; else the last commit with other figures.

    Args:
        commit: full hash.
        made_at: when it was committed, for people.
        subject: first line of its message.
        figures: stage to its `metrics/<stage>.json`, of those that are in the commit.
        profile: `reports/profile.json`; empty when it is not in the commit.
        parameters: (dotted key, value) of the parameter file.
        version: in the registry, of a champion; else empty.
    """

    commit: str
    made_at: str
    subject: str
    figures: Mapping[str, Mapping[str, Any]]
    profile: Mapping[str, Any] = field(default_factory=dict)
    parameters: Sequence[tuple[str, Any]] = ()
    version: str = ""

    @property
    def name(self) -> str:
        """For the running text."""
        return f"{self.version or self.commit[:8]} of {self.made_at}"

    @property
    def role(self) -> str:
        """What it is to the version at hand."""
        return "the champion" if self.version else "the version before"


@dataclass(frozen=True)
class Facts:
    """All that the page shows.

    Args:
        title: the page's headline.
        made_at: when the page was made, for people.
        task: `classification` or `detection`.
        figures: stage to its `metrics/<stage>.json`.
        evaluation: `reports/evaluation/details.json`.
        pictures: name to bytes of the pictures the evaluation names.
        validation: `reports/validation.json`.
        dataset: `data/tables/dataset.json`.
        prepared: `data/prepared/dataset.json`.
        images_per_split: split to number of images.
        per_class_and_split: class to split to number of images (classification) or objects.
        curves: rows of `plots/train.csv`; empty when there is none.
        parameters: (dotted key, value) of the parameter file.
        versions: package to version.
        machine: name of a fact to its value.
        export: `reports/export.json`.
        model_sha256: of the ONNX file; empty when there is none.
        revision: None when the folder is no git repository.
        profile: `reports/profile.json`, what the data is like.
        previous: None when no earlier version is in git, or a retraining has no champion.
        verdict: `reports/verdict.json`; empty when the gate has not judged this very model.
        merged: batches that a retraining made part of the data.
        refused: batch to the reason.
    """

    title: str
    made_at: str
    task: str
    figures: Mapping[str, Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    pictures: Mapping[str, bytes]
    validation: Mapping[str, Any]
    dataset: Mapping[str, Any]
    prepared: Mapping[str, Any]
    images_per_split: Mapping[str, int]
    per_class_and_split: Mapping[str, Mapping[str, int]]
    curves: Sequence[Mapping[str, float]] = ()
    parameters: Sequence[tuple[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    model_sha256: str = ""
    revision: Revision | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    previous: Previous | None = None
    verdict: Mapping[str, Any] = field(default_factory=dict)
    merged: Sequence[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def main_metric(evaluation: Mapping[str, Any]) -> str:
    """The headline figure that decides."""
    one_label = evaluation["task"] == "classification" and not evaluation.get("multi_label")
    return "accuracy" if one_label else "map"


def confusion_names(evaluation: Mapping[str, Any]) -> list[str]:
    """Names of the rows of the confusion matrix; a detector's last one is the background."""
    classes = list(evaluation["classes"])
    counts = evaluation.get("confusion") or []
    return [*classes, "(background)"] if len(counts) > len(classes) else classes


def chosen_on_val(evaluation: Mapping[str, Any]) -> str:
    """What was chosen by the validation images, in words."""
    if evaluation["task"] == "detection":
        return "the best epoch and the threshold of each class"
    if evaluation.get("multi_label"):
        return "the best epoch, the temperature and the threshold of each class"
    return "the best epoch and the temperature"
