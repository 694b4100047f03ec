"""The rules by which a challenger replaces the champion. Pure: figures in, verdict out.

Where the data has classes that the champion does not know, it loses there whatever the challenger
does. The gain must then hold on all classes, and on those that the champion knows the challenger
must not lose more than `class_drop`, by the lower end of the interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from components.files import rounded
from components.gate.figures import gain_interval
from components.gate.settings import GateSettings

Outcome = Literal["pass", "fail", "not judged"]

_DIGITS = 6  # of every figure, before it is judged: so that a verdict follows from its own text


@dataclass(frozen=True)
class Rule:
    """A rule and how it went.

    Args:
        rule: its name.
        about: the class or slice it is about; empty for the whole.
        measured: what it looks at; None where there is nothing to look at.
        limit: what `measured` must be, such as `> 0.1`; empty where nothing is asked.
        outcome: only `fail` refuses.
        note: why it was not judged, or what `measured` hides.
    """

    rule: str
    about: str
    measured: float | None
    limit: str
    outcome: Outcome
    note: str = ""


def verdict(figures: dict[str, Any], settings: GateSettings) -> dict[str, Any]:
    """Judge.

    Args:
        figures: of `tasks.gate`: `compare`'s and those about files, validation and parity.
        settings: the rules' limits.

    Returns:
        `format`, `outcome` (`promote` or `refuse`), `comparison` (`better`, `worse`, `not told
        apart`, `no champion`), `reasons` (the rules that failed, in words), `rules`, `settings`,
        `figures`. It is the same again when it is made of its own `figures` and `settings`.
    """
    figures = rounded(figures, _DIGITS)
    rules = [*_metric_rules(figures, settings), *_file_rules(figures, settings)]
    rules += _data_rules(figures, settings)
    failed = [rule for rule in rules if rule.outcome == "fail"]
    return {
        "format": 1,
        "outcome": "refuse" if failed else "promote",
        "comparison": _comparison(figures["all"]),
        "reasons": [in_words(rule) for rule in failed],
        "rules": [asdict(rule) for rule in rules],
        "settings": settings.model_dump(mode="json"),
        "figures": figures,
    }


def replay(old: dict[str, Any]) -> dict[str, Any]:
    """A verdict made again from its own figures and settings; the gain's interval from the gains.

    Args:
        old: the verdict; `format` 1.
    """
    figures = old["figures"]
    settings = GateSettings.model_validate(old["settings"])
    whole = dict(figures["all"])
    if "gains" in whole:
        whole |= gain_interval(whole["gains"], settings.confidence)
    return verdict({**figures, "all": whole}, settings)


def in_words(rule: Rule) -> str:
    """A rule in a line."""
    about = f" ({rule.about})" if rule.about else ""
    found = "nothing" if rule.measured is None else f"{rule.measured:.4g}"
    note = f"; {rule.note}" if rule.note else ""
    return f"{rule.rule}{about}: {found}, must be {rule.limit}{note}"


def _comparison(whole: dict[str, Any]) -> str:
    if whole["gain"] is None:
        return "no champion"
    if whole["low"] > 0:
        return "better"
    return "worse" if whole["high"] < 0 else "not told apart"


def _above(
    name: str, measured: float | None, limit: float, about: str = "", note: str = ""
) -> Rule:
    good = measured is not None and measured > limit
    return Rule(name, about, measured, f"> {limit:g}", "pass" if good else "fail", note)


def _at_most(
    name: str, measured: float | None, limit: float | None, about: str = "", note: str = ""
) -> Rule:
    if measured is None or limit is None:
        return Rule(name, about, measured, "", "not judged", note or "any is allowed")
    return Rule(
        name, about, measured, f"<= {limit:g}", "pass" if measured <= limit else "fail", note
    )


def _metric_rules(figures: dict[str, Any], settings: GateSettings) -> Iterator[Rule]:
    whole, metric = figures["all"], figures["metric"]
    yield _above(f"{metric}, low end", whole["challenger_low"], settings.floor)
    yield _above(
        f"{metric} over the trivial model's",
        None if whole["challenger"] is None else whole["challenger"] - figures["trivial"],
        0.0,
        note=f"the trivial model has {figures['trivial']:.4g}",
    )
    if figures["champion"] is not None:
        yield _above(
            f"gain of {metric}, low end",
            whole["low"],
            settings.min_gain,
            note="" if whole["gain"] is None else f"the gain is {whole['gain']:+.4g}",
        )
    known = figures["known_classes"]
    if known is not None:
        yield _above(
            f"gain of {metric} on the champion's classes, low end",
            known["low"],
            -settings.class_drop,
            note="the data has classes that the champion does not know",
        )
    limits = {
        "class": (settings.class_floor, settings.class_drop),
        "slice": (settings.slice_floor, settings.slice_drop),
    }
    for kind, group in (("class", figures["classes"]), ("slice", figures["slices"])):
        floor, drop = limits[kind]
        for name, entry in group.items():
            yield from _part_rules(kind, name, entry, floor, drop, settings.min_images)
    for name in figures["challenger"]["lacks"]:
        yield Rule("classes known", name, 0.0, ">= 1", "fail", "the challenger does not know it")


def _part_rules(
    kind: str, name: str, entry: dict[str, Any], floor: float, drop: float, fewest: int
) -> Iterator[Rule]:
    """A floor, and with a champion a largest fall, of a class or slice."""
    count, value, gain = entry["num_images"], entry["challenger"], entry["gain"]
    few = "" if count >= fewest else f"{count} images are too few to judge"
    if value is None:
        yield Rule(f"{kind} floor", name, None, "", "not judged", "no image of it")
        return
    outcome: Outcome = "pass" if value >= floor else "fail"
    yield Rule(f"{kind} floor", name, value, f">= {floor:g}", "not judged" if few else outcome, few)
    if gain is None:
        return
    by_chance = entry["high"] is None or entry["high"] >= 0
    outcome = "pass" if gain >= -drop or by_chance else "fail"
    note = "no more than chance explains" if gain < -drop and by_chance else ""
    rule = f"gain of the {kind}"
    yield Rule(rule, name, gain, f">= {-drop:g}", "not judged" if few else outcome, few or note)


def _file_rules(figures: dict[str, Any], settings: GateSettings) -> Iterator[Rule]:
    challenger, champion = figures["challenger"], figures["champion"]
    for name, key, ratio, most in (
        ("latency", "latency_ms", settings.max_latency_ratio, settings.max_latency_ms),
        ("size", "megabytes", settings.max_size_ratio, settings.max_megabytes),
    ):
        unit = {"latency_ms": "ms", "megabytes": "MB"}[key]
        yield _at_most(f"{name} ({unit})", challenger[key], most)
        if champion is not None:
            share = round(challenger[key] / champion[key], _DIGITS)
            note = f"{challenger[key]:.4g} {unit}, was {champion[key]:.4g}"
            yield _at_most(f"{name}, in champion's", share, ratio, note=note)
    parity = figures["parity"]
    if parity is None:
        note = "the challenger is not this workspace's model"
        yield Rule("parity with PyTorch", "", None, "", "not judged", note)
        return
    note = f"largest difference of a score on {parity['num_images']} images"
    most = parity["score_tolerance"]
    yield _at_most("parity with PyTorch", parity["max_score_difference"], most, note=note)
    apart = abs(parity["metric_onnx"] - parity["metric_pytorch"])
    note = f"{figures['metric']} was {parity['metric_pytorch']:.4g}"
    apart = round(apart, _DIGITS)
    yield _at_most("parity with evaluate", apart, settings.parity_tolerance, note=note)


def _data_rules(figures: dict[str, Any], settings: GateSettings) -> Iterator[Rule]:
    found = figures["validation"]
    if found is None:
        yield Rule("validation", "", None, "", "not judged", "there is no report of it")
        return
    yield _at_most("validation errors", found["num_errors"], 0)
    yield _at_most("validation warnings", found["num_warnings"], settings.max_warnings)
    note = ", ".join(found["drift"])
    if len(found["drift"]) > settings.max_drift:
        note += "; if that is as it should be: python -m tasks.accept"
    yield _at_most(
        "drift since the accepted data", len(found["drift"]), settings.max_drift, note=note
    )
