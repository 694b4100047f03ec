"""What a run teaches: what was learnt, which classes are weak, which setting would help most.

Rules over the figures of the run, each with the numbers it goes by; a rule without its numbers says
nothing. `gain` orders the suggestions: what the main figure would rise by if the gap that a rule
sees were closed. It is a bound to compare by, no promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from components.report.facts import Facts, main_metric

WEAK_GAP = 0.1  # of a class below the median class
RISING = 0.01  # of the validation figure in the last third of the epochs
OVERFIT = 1.15  # validation loss at the end, as a multiple of its least
SMALL_GAP = 0.15  # AP of small objects below that of large ones
INEXACT_GAP = 0.35  # AP50 above AP75
WIDE = 0.1  # of a 95 % interval
WAITING = 0.2  # share of the training time spent waiting for batches
FEW_IMAGES = 10_000  # below which pretrained weights help (He et al. 2019, arXiv:1811.08883)
MOST_WEAK = 3
OFTEN = 0.05  # share of a class's images that are taken for one other class


@dataclass(frozen=True)
class Suggestion:
    """A change of one setting.

    Attributes:
        setting: dotted key, and the change.
        why: the numbers that speak for it.
        gain: of the main figure, at most.
    """

    setting: str
    why: str
    gain: float


@dataclass(frozen=True)
class Advice:
    """What a run teaches.

    Attributes:
        learnt: sentences.
        weak: a sentence for each class that is behind the others.
        suggestions: the most promising first.
        other: what would help with something else than the main figure.
    """

    learnt: tuple[str, ...]
    weak: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]
    other: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """All of it as plain text."""
        first, *rest = [f"{s.setting}: {s.why}." for s in self.suggestions] or [""]
        lines = [*self.learnt, *self.weak]
        if first:
            lines.append(f"Most likely to help: {first}")
        else:
            lines.append("No single setting stands out from these figures.")
        return [*lines, *(f"Then: {text}" for text in rest), *self.other]


def advise(facts: Facts) -> Advice:
    """The advice that a run's figures support."""
    run = _Run.of(facts)
    rules: tuple[Callable[[_Run], Iterator[Suggestion]], ...] = (
        _more_epochs,
        _overfitting,
        _rare_classes,
        _small_objects,
        _pretrained,
    )
    found = [suggestion for rule in rules for suggestion in rule(run)]
    return Advice(
        tuple(_learnt(run)),
        tuple(_weak_sentences(run)),
        tuple(sorted(found, key=lambda suggestion: -suggestion.gain)),
        tuple(_other(run)),
    )


@dataclass(frozen=True)
class _Run:
    """The figures as the rules want them."""

    task: str
    main: str  # of the headline
    class_metric: str
    headline: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]
    per_class: Sequence[Mapping[str, Any]]
    confusion: Sequence[Sequence[int]]
    classes: Sequence[str]
    curves: Sequence[Mapping[str, float]]
    validated: str  # column of the curves
    train: Mapping[str, Any]
    parameters: Mapping[str, Any]
    split: str
    num_train: int
    train_counts: Mapping[str, int]

    @classmethod
    def of(cls, facts: Facts) -> _Run:
        monitor = str(facts.figures["train"].get("monitor", ""))
        return cls(
            facts.task,
            main_metric(facts.evaluation),
            "ap" if main_metric(facts.evaluation) == "map" else "f1",
            {k: v for k, v in facts.evaluation["headline"].items() if v is not None},
            facts.evaluation.get("intervals", {}),
            facts.evaluation["per_class"],
            facts.evaluation.get("confusion") or [],
            facts.evaluation["classes"],
            facts.curves,
            monitor.removeprefix("val/"),
            facts.figures["train"],
            dict(facts.parameters),
            facts.evaluation["split"],
            facts.images_per_split.get("train", 0),
            {name: row.get("train", 0) for name, row in facts.per_class_and_split.items()},
        )

    def column(self, name: str) -> list[float]:
        """A column of the curves without its gaps."""
        values = [row[name] for row in self.curves if name in row]
        return [value for value in values if value == value]

    def weak(self) -> list[Mapping[str, Any]]:
        """Classes clearly behind the median class, the weakest first."""
        rows = [row for row in self.per_class if row.get(self.class_metric) is not None]
        if len(rows) < 2:
            return []
        middle = median(row[self.class_metric] for row in rows)
        behind = [row for row in rows if row[self.class_metric] < middle - WEAK_GAP]
        return sorted(behind, key=lambda row: row[self.class_metric])

    def behind(self, row: Mapping[str, Any]) -> float:
        """How far a class is behind the median class."""
        values = [r.get(self.class_metric) for r in self.per_class]
        middle = median(value for value in values if value is not None)
        return float(middle - row[self.class_metric])


_NAMES = {"map": "AP", "accuracy": "accuracy", "ap": "AP", "f1": "F1"}


def _learnt(run: _Run) -> Iterator[str]:
    values = run.column(run.validated)
    best_epoch, num_epochs = run.train.get("best_epoch"), run.train.get("num_epochs")
    if len(values) > 1 and best_epoch:
        name = _NAMES.get(run.validated, run.validated)
        yield (
            f"In {num_epochs} epochs validation {name} went from {values[0]:.3f} to "
            f"{max(values):.3f}, in epoch {best_epoch}."
        )
    value = run.headline.get(run.main)
    interval = run.intervals.get(run.main)
    if value is not None:
        text = f"On the {run.split} split {_NAMES[run.main]} is {value:.3f}"
        if interval:
            text += f", between {interval[0]:.3f} and {interval[1]:.3f} with 95 % confidence"
        yield text + "."
    if run.headline.get("map_50", 0) - run.headline.get("map_75", 1) > INEXACT_GAP:
        yield (
            f"Objects are found but framed inexactly: AP50 is {run.headline['map_50']:.3f}, AP75 "
            f"{run.headline['map_75']:.3f}."
        )


def _weak_sentences(run: _Run) -> Iterator[str]:
    for row in run.weak()[:MOST_WEAK]:
        name = row["class"]
        text = f"Weak: {name}, {_NAMES[run.class_metric]} {row[run.class_metric]:.3f}"
        if name in run.train_counts:
            unit = "images" if run.task == "classification" else "objects"
            text += f", {run.train_counts[name]:,} training {unit}"
        taken_for = _most_confused(run, name)
        if taken_for:
            text += f", most often taken for {taken_for[0]} ({taken_for[1]:.0%})"
        yield text + "."


def _most_confused(run: _Run, name: str) -> tuple[str, float] | None:
    if name not in run.classes or not run.confusion:
        return None
    actual = list(run.classes).index(name)
    row = list(run.confusion[actual])
    # A detector's last column are the objects that were missed: that is no class.
    named = zip(row, range(len(run.classes)), strict=False)
    wrong = [(count, place) for count, place in named if place != actual and count]
    if not wrong:
        return None
    count, place = max(wrong, key=lambda pair: pair[0])
    share = count / sum(row)
    return (run.classes[place], share) if share >= OFTEN else None


def _more_epochs(run: _Run) -> Iterator[Suggestion]:
    values = run.column(run.validated)
    if len(values) < 3 or run.train.get("best_epoch") != run.train.get("num_epochs"):
        return
    before = max(values[: -max(1, len(values) // 3)])
    rise = values[-1] - before
    if rise > RISING:
        yield Suggestion(
            f"train.epochs above {run.train['num_epochs']}",
            f"the last epoch was the best, and the last third of them brought {rise:+.3f}",
            rise,
        )


def _overfitting(run: _Run) -> Iterator[Suggestion]:
    losses, values = run.column("val_loss"), run.column(run.validated)
    learnt = run.column("train_loss")
    best_epoch, num_epochs = run.train.get("best_epoch", 0), run.train.get("num_epochs", 0)
    if len(losses) < 4 or not values or best_epoch > 0.6 * num_epochs:
        return
    lowest = losses.index(min(losses))
    # Both losses rise where a training diverges.
    by_heart = len(learnt) == len(losses) and learnt[-1] < learnt[lowest]
    if by_heart and losses[-1] > OVERFIT * losses[lowest] > 0:
        change = (
            "train.augment.trivial_augment: true"
            if run.task == "classification"
            and not run.parameters.get("train.augment.trivial_augment")
            else "train.augment with a wider scale, or a smaller train.lr"
        )
        yield Suggestion(
            change,
            f"the training images are learnt by heart: since epoch {lowest + 1} validation loss "
            f"rose from {losses[lowest]:.3f} to {losses[-1]:.3f} and training loss fell from "
            f"{learnt[lowest]:.3f} to {learnt[-1]:.3f}; epoch {best_epoch} of {num_epochs} was the "
            "best",
            max(values) - values[-1] + 0.01,
        )


def _rare_classes(run: _Run) -> Iterator[Suggestion]:
    counts = [count for count in run.train_counts.values() if count]
    if not counts:
        return
    middle = median(counts)
    rare = [row for row in run.weak() if run.train_counts.get(row["class"], middle) < middle / 2]
    if not rare:
        return
    done = (
        run.parameters.get("train.classifier.balanced_sampling")
        or run.parameters.get("train.classifier.class_weights") == "balanced"
        if run.task == "classification"
        else run.parameters.get("train.detector.repeat_threshold")
    )
    names = ", ".join(str(row["class"]) for row in rare[:MOST_WEAK])
    numbers = ", ".join(str(run.train_counts[row["class"]]) for row in rare[:MOST_WEAK])
    if done:
        change = f"more training images with {names}"
    elif run.task == "classification" and run.main == "map":
        # An image of several classes is not of one rare class.
        change = "train.classifier.class_weights: balanced"
        if run.parameters.get("train.classifier.loss_fn") == "focal":
            change += " with loss_fn: cross_entropy"
    elif run.task == "classification":
        change = "train.classifier.balanced_sampling: true"
    else:
        share = max(run.train_counts[row["class"]] for row in rare) / max(1, run.num_train)
        change = f"train.detector.repeat_threshold: {min(1.0, 4 * share):.2g}"
    yield Suggestion(
        change,
        f"{names} {'is' if len(rare) == 1 else 'are'} weak and rare: "
        f"{numbers} in training, "
        f"{middle:g} in the median class",
        sum(run.behind(row) for row in rare) / len(run.classes),
    )


def _small_objects(run: _Run) -> Iterator[Suggestion]:
    small, large = run.headline.get("map_small", -1), run.headline.get("map_large", -1)
    if small >= 0 and large >= 0 and large - small > SMALL_GAP:
        yield Suggestion(
            "a larger preprocess.image_size",
            f"small objects are found worse than large ones: AP {small:.3f} against {large:.3f}",
            (large - small) / 3,
        )


def _pretrained(run: _Run) -> Iterator[Suggestion]:
    whole = str(run.parameters.get("train.backbone", "")).startswith("yolox-")
    if run.parameters.get("train.pretrained") is False and 0 < run.num_train < FEW_IMAGES:
        yield Suggestion(
            "train.pretrained: the path of published weights"
            if whole
            else "train.pretrained: true",
            f"the weights started from random, and {run.num_train:,} training images are few",
            max(0.0, 1 - run.headline.get(run.main, 1.0)) / 2,
        )


def _other(run: _Run) -> Iterator[str]:
    interval = run.intervals.get(run.main)
    if interval and interval[1] - interval[0] > WIDE:
        half = (interval[1] - interval[0]) / 2
        yield (
            f"The {run.split} split is small: differences below {half:.2f} "
            "cannot be told from chance. Label more images before comparing settings."
        )
    best, value = run.train.get("best"), run.headline.get(run.main)
    comparable = run.split == "test" and run.validated == run.main
    if comparable and interval and best is not None and value is not None and best > interval[1]:
        yield (
            f"Validation promised more ({best:.3f}) than the test split gives ({value:.3f}): "
            "the two differ, or too few validation images chose the epoch."
        )
    share = run.train.get("data_share")
    if share is not None and share > WAITING:
        number = run.parameters.get("train.num_workers", 0)
        more = "set by hand, above what auto chose," if number == "auto" else f"above {number}"
        yield (
            f"Training waited for images {share:.0%} of its time: train.num_workers {more} would "
            "make it faster."
        )
