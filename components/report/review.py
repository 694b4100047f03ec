"""What a reviewer of a retraining reads, top to bottom: as blocks that W&B's report shows.

It is made from the facts of the page, the gate's verdict, and what the champion was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.report.advice import advise
from components.report.facts import Facts
from components.report.model_card import escaped
from components.report.page import format_figure, format_value, label

MOST_ROWS = 10  # of a table
# In the order of the text; a stage's figure and what it is called.
_DATA = (
    ("validate", "num_images", "Images"),
    ("validate", "num_objects", "Objects"),
    ("validate", "num_classes", "Classes"),
    ("preprocess", "num_train", "Train"),
    ("preprocess", "num_val", "Val"),
    ("preprocess", "num_test", "Test"),
    ("validate", "num_warnings", "Warnings"),
    ("validate", "num_quarantined", "Left out"),
)
_UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class Before:
    """The champion's side of a retraining.

    Args:
        version: in the registry; empty: there was none.
        commit: that it is.
        figures: stage to its `metrics/<stage>.json`.
        parameters: (dotted key, value).
        merged: batches that the retraining made part of the data.
        refused: batch to the reason.
    """

    version: str = ""
    commit: str = ""
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parameters: Sequence[tuple[str, Any]] = ()
    merged: Sequence[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def review(
    facts: Facts, verdict: Mapping[str, Any], before: Before, links: Mapping[str, str], key: str
) -> dict[str, Any]:
    """The content of a report; the same facts give the same JSON.

    Args:
        facts: of the page.
        verdict: `reports/verdict.json`.
        before: what the champion was made from.
        links: title to place; one that begins with `wandb:` is in W&B's project.
        key: names the retraining, in the report's title.

    Returns:
        `title`, `description`, and `blocks`, of `kind` `heading` and `markdown` (`text`), `curves`
        (`panels` {title: names of metrics}) and `table` (`name` of a table of the run).
    """
    blocks: list[dict[str, Any]] = []
    sections = (
        ("Verdict", _verdict(verdict)),
        ("What changed", _changes(facts, verdict, before)),
        ("Against the champion" if before.version else "Figures", _metrics(verdict)),
        ("Training", _curves(facts)),
        ("Weak classes and slices", _weak(facts, verdict)),
        ("Worst mistakes", _pictures(facts)),
        ("Links", [_text("\n".join(f"- [{escaped(k)}]({v})" for k, v in links.items()))]),
    )
    for title, content in sections:
        found = list(content)
        if found:
            blocks += [{"kind": "heading", "text": title}, *found]
    return {
        "title": f"{facts.title}: {verdict['outcome']} ({key})"[:128],
        "description": _in_a_line(verdict),
        "blocks": blocks,
    }


def _text(text: str) -> dict[str, Any]:
    return {"kind": "markdown", "text": text}


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    lines = [columns, ["---"] * len(columns), *([escaped(cell) for cell in row] for row in rows)]
    return _text("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _in_a_line(verdict: Mapping[str, Any]) -> str:
    whole, metric = verdict["figures"]["all"], verdict["figures"]["metric"]
    text = f"{label(metric)} {_figure(whole['challenger'], metric)}"
    if whole["gain"] is None:
        return f"{verdict['outcome']}: {text}; the first model"
    low, high = whole["low"], whole["high"]
    interval = "" if low is None else f", {low:+.4f} to {high:+.4f}"
    return (
        f"{verdict['outcome']}: {text}, was {_figure(whole['champion'], metric)} "
        f"(gain {whole['gain']:+.4f}{interval}): {verdict['comparison']}"
    )


def _verdict(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield _text(f"**{escaped(_in_a_line(verdict))}**")
    if verdict["reasons"]:
        yield _text("\n".join(f"- failed: {escaped(reason)}" for reason in verdict["reasons"]))
    rules = verdict["rules"]
    shown = [rule for rule in rules if rule["outcome"] == "fail" or not rule["about"]]
    rows = [
        (
            rule["rule"],
            rule["about"],
            _UNKNOWN if rule["measured"] is None else f"{rule['measured']:.4g}",
            rule["limit"],
            rule["outcome"] + (f": {rule['note']}" if rule["note"] else ""),
        )
        for rule in shown
    ]
    yield _table(["Rule", "About", "Measured", "Limit", "Outcome"], rows)
    if hidden := len(rules) - len(shown):
        yield _text(f"{hidden} rules about single classes and slices passed or were not judged.")


def _changes(facts: Facts, verdict: Mapping[str, Any], before: Before) -> Iterator[dict[str, Any]]:
    figures = verdict["figures"]
    rows = []
    for stage, name, title in _DATA:
        old, new = before.figures.get(stage, {}).get(name), facts.figures[stage].get(name)
        if new is not None:
            rows.append((title, _number(old), _number(new), _difference(old, new)))
    print_before = (figures["champion"] or {}).get("data_fingerprint")
    rows.append(("Fingerprint", _short(print_before), _short(figures["data_fingerprint"]), ""))
    if facts.revision is not None:
        rows.append(("Code", _short(before.commit), _short(facts.revision.commit), ""))
    yield _table(["Data", before.version or "Before", "Now", "Change"], rows)
    words = [f"- merged: {escaped(name)}" for name in before.merged]
    words += [f"- refused: {escaped(name)}: {escaped(why)}" for name, why in before.refused.items()]
    drift = (figures["validation"] or {}).get("drift") or []
    words += [f"- drift: {escaped(check)}" for check in drift]
    if words:
        yield _text("\n".join(words))
    if before.parameters:
        old, new = dict(before.parameters), dict(facts.parameters)
        changed = [
            (key, format_value(old.get(key)), format_value(new.get(key)))
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        if changed:
            yield _table(["Parameter", before.version, "Now"], changed)


def _metrics(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    figures = verdict["figures"]
    new, old = figures["challenger"], figures["champion"] or {}
    rows: list[tuple[str, ...]] = []
    for name, value in new["headline"].items():
        known = old.get("headline", {}).get(name)
        rows.append(
            (label(name), _figure(known, name), _figure(value, name), _difference(known, value))
        )
    for name, title in (("latency_ms", "Latency, ms an image"), ("megabytes", "Size, MB")):
        known = old.get(name)
        shown = [_UNKNOWN if item is None else f"{item:.1f}" for item in (known, new[name])]
        rows.append((title, *shown, _difference(known, new[name])))
    yield _text(f"Both on the same {figures['all']['num_images']:,} images of {figures['split']}.")
    yield _table(["Figure", "Champion", "Challenger", "Change"], rows)


def _curves(facts: Facts) -> Iterator[dict[str, Any]]:
    names = list(dict.fromkeys(key for row in facts.curves for key in row))
    losses = [name for name in names if name.endswith("_loss")]
    metrics = [name for name in names if name not in (*losses, "epoch", "lr")]
    panels = {"Loss": losses, "Metric on val": metrics, "Learning rate": ["lr"]}
    kept = {title: found for title, found in panels.items() if set(found) & set(names)}
    if kept:
        yield {"kind": "curves", "panels": kept}


def _weak(facts: Facts, verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    figures = verdict["figures"]
    sentences = advise(facts).weak
    if sentences:
        yield _text("\n".join(f"- {escaped(sentence)}" for sentence in sentences))
    for title, entries in (("Class", figures["classes"]), ("Slice", figures["slices"])):
        rows = [
            (name, entry["num_images"], entry["champion"], entry["challenger"], entry["gain"])
            for name, entry in entries.items()
            if entry["challenger"] is not None
        ]
        rows.sort(key=lambda row: row[3])
        metric = figures["metric"]
        shown = [
            (name, f"{count:,}", _figure(old, metric), _figure(new, metric), _signed(gain))
            for name, count, old, new, gain in rows[:MOST_ROWS]
        ]
        if shown:
            yield _table([title, "Images", "Champion", "Challenger", "Change"], shown)


def _pictures(facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.evaluation["mistakes"]:
        yield {"kind": "table", "name": "worst_mistakes"}


def _figure(value: Any, name: str) -> str:
    return format_figure(value, name)


def _number(value: Any) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def _short(text: str | None) -> str:
    return text[:12] if text else _UNKNOWN


def _difference(old: Any, new: Any) -> str:
    if old is None or new is None:
        return ""
    return f"{new - old:+,}" if isinstance(new, int) else f"{new - old:+.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"
