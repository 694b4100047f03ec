"""What has changed since the version before, and the verdict on the new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.report.facts import Facts, Previous, main_metric
from components.report.wording import format_figure, format_value, label_of

# Of these a smaller one is better.
LOWER_IS_BETTER = {"log_loss", "ece", "hamming_loss"}

Mood = Literal["fine", "warning", "error"]


@dataclass(frozen=True)
class Verdict:
    """What a reviewer reads first.

    Attributes:
        words: in a few words.
        mood: how good that is.
        sentences: what it goes by, the most important first.
        rules: of the gate, those that failed first; empty where it has not judged this model.
    """

    words: str
    mood: Mood
    sentences: tuple[str, ...]
    rules: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Change:
    """A figure now and in the version before.

    Attributes:
        name: of the figure.
        value, before: None where there is none.
        interval: of `value`.
        meaning: `better`, `worse`, or `within the interval`; empty where it cannot be told.
    """

    name: str
    value: float | None
    before: float | None
    interval: tuple[float, float] | None
    meaning: str

    @property
    def difference(self) -> str:
        """With its sign, as the page writes it."""
        if self.value is None or self.before is None:
            return format_figure(None, self.name)
        apart = self.value - self.before
        text = format_figure(abs(apart), self.name)
        if text == format_figure(0.0, self.name):
            return text
        return ("+" if apart > 0 else "\N{MINUS SIGN}") + text


def figure_changes(facts: Facts) -> dict[str, Change]:
    """Every headline figure, by name, against the version before."""
    before = facts.previous.figures.get("evaluate", {}) if facts.previous else {}
    headline = facts.evaluation["headline"]
    intervals = facts.evaluation.get("intervals", {})
    changes = {}
    for name in headline:
        value, old, interval = headline[name], before.get(name), intervals.get(name)
        changes[name] = Change(name, value, old, interval, _meaning(name, value, old, interval))
    return changes


def _meaning(name: str, value: Any, before: Any, interval: Any) -> str:
    if value is None or before is None or interval is None:
        return ""
    low, high = interval
    if low <= before <= high:
        return "within the interval"
    return "better" if (before < low) != (name in LOWER_IS_BETTER) else "worse"


def same_images(facts: Facts) -> bool | None:
    """Whether the version before was measured on the images of this one; None: not known."""
    if facts.previous is None:
        return None
    now, before = facts.figures["evaluate"], facts.previous.figures.get("evaluate", {})
    if any(now.get(name) != before.get(name) for name in ("split", "num_images")):
        return False
    return same_data(facts)


def same_data(facts: Facts) -> bool | None:
    """Whether the version before was made from the same data; None: not known."""
    before = facts.previous.profile.get("fingerprint") if facts.previous else None
    now = facts.profile.get("fingerprint")
    return now == before if now and before else None


def verdict_of(facts: Facts) -> Verdict:
    """The gate's verdict where it has judged this very model, else what the figures say."""
    if facts.verdict:
        return _gate_verdict(facts, facts.verdict)
    command = "python -m tasks.gate models/model.onnx CHAMPION.onnx"
    unjudged = f"The gate has not judged this model: `{command}` compares it with another one."
    name = main_metric(facts.evaluation)
    change = figure_changes(facts).get(name)
    if change is None or change.value is None:
        return Verdict("No figure", "error", ("The images measured hold no object.", unjudged))
    sentences = [_measured(facts, change)]
    if facts.previous is None:
        first = "There is no earlier version in git to compare with."
        return Verdict("First version", "fine", (*sentences, first, unjudged))
    words: dict[str, tuple[str, Mood]] = {
        "better": ("Better than the version before", "fine"),
        "worse": ("Worse than the version before", "error"),
        "within the interval": ("Not told apart from the version before", "warning"),
        "": ("Not compared with the version before", "warning"),
    }
    sentences += [*_since(facts, facts.previous, change), unjudged]
    return Verdict(*words[change.meaning], tuple(sentences))


def _measured(facts: Facts, change: Change) -> str:
    text = (
        f"{label_of(facts.evaluation, change.name)} is {format_figure(change.value, change.name)}"
    )
    if change.interval:
        low, high = (format_figure(end, change.name) for end in change.interval)
        text += f" ({low} to {high})"
    split, count = facts.evaluation["split"], facts.evaluation["num_images"]
    return f"{text} on {count:,} images of the {split} split."


def _since(facts: Facts, previous: Previous, change: Change) -> Iterator[str]:
    if change.before is None:
        yield f"Version {previous.name} has no such figure."
        return
    where = {
        "better": "below the interval",
        "worse": "above the interval",
        "within the interval": "within the interval, so the difference may be chance",
        "": "and no interval was asked for",
    }[change.meaning]
    yield (
        f"It was {format_figure(change.before, change.name)} in {previous.name}: {where} "
        f"({change.difference})."
    )
    same = same_images(facts)
    if same is None:
        yield f"Whether on the same images is not known: {previous.name} has no data profile."
    elif not same:
        yield "The two were measured on different images, so the figures compare only by and large."


def _gate_verdict(facts: Facts, verdict: Mapping[str, Any]) -> Verdict:
    figures = verdict["figures"]
    whole, metric = figures["all"], figures["metric"]
    promoted = verdict["outcome"] == "promote"
    name = label_of(facts.evaluation, metric)
    count = f"{whole['num_images']:,} images of the {figures['split']} split"
    sentence = f"{name} is {format_figure(whole['challenger'], metric)} on {count}"
    if whole["gain"] is None:
        sentences = [f"{sentence}. There was no champion to compare with."]
    else:
        gain = f"{whole['gain']:+.4f} ({whole['low']:+.4f} to {whole['high']:+.4f})"
        sentences = [
            f"{sentence}; the champion's is {format_figure(whole['champion'], metric)} on the same "
            f"ones. The gain is {gain}, by a paired bootstrap: {verdict['comparison']}."
        ]
    failed = [f"Failed: {reason}." for reason in verdict["reasons"]]
    order = ("fail", "not judged", "pass")
    rules = sorted(verdict["rules"], key=lambda rule: order.index(rule["outcome"]))
    words = "The gate promotes it" if promoted else "The gate refuses it"
    return Verdict(words, "fine" if promoted else "error", (*sentences, *failed), tuple(rules))


def parameter_changes(facts: Facts) -> list[tuple[str, str, str]]:
    """Dotted key, value before and value now, of each parameter that is another one."""
    if facts.previous is None:
        return []
    now, before = dict(facts.parameters), dict(facts.previous.parameters)
    keys = [*now, *(key for key in before if key not in now)]
    nothing = "not there"
    return [
        (
            key,
            format_value(before[key]) if key in before else nothing,
            format_value(now[key]) if key in now else nothing,
        )
        for key in keys
        if key not in now or key not in before or now[key] != before[key]
    ]


def data_changes(facts: Facts) -> tuple[str, dict[str, int]]:
    """How the data differs from that of the version before.

    Returns:
        A sentence, and of each class that has other numbers of objects the change; both empty
        where the version before says nothing.
    """
    if facts.previous is None or not facts.previous.profile:
        return "", {}
    now, before = facts.profile, facts.previous.profile
    since = f"since {facts.previous.name}"
    if same_data(facts):
        return f"The data has not changed {since}.", {}
    parts = [
        f"{now.get(key, 0) - before.get(key, 0):+,} {unit}"
        for key, unit in (("num_images", "images"), ("num_objects", "labelled objects"))
        if not (key == "num_objects" and facts.task == "classification")
    ]
    labels, old = now.get("labels", {}), before.get("labels", {})
    changes = {
        name: labels.get(name, 0) - old.get(name, 0)
        for name in [*labels, *(n for n in old if n not in labels)]
        if labels.get(name, 0) != old.get(name, 0)
    }
    text = f"The data has changed {since}: {', '.join(parts)}"
    gone = [name for name in old if name not in labels]
    new = [name for name in labels if name not in old]
    if new:
        text += f"; new classes: {', '.join(new)}"
    if gone:
        text += f"; classes that are gone: {', '.join(gone)}"
    return text + ".", changes
