"""The model card: what the model is for, what it was made of, how good it is, and where it fails.

Mitchell et al. 2019, Model Cards for Model Reporting. It is made from the facts of the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from components.report.advice import advise
from components.report.facts import Facts, chosen_on_val, main_metric
from components.report.page import SPLITS
from components.report.wording import format_figure, label_of

MOST_CLASSES = 30  # in a table
FEW = 20  # images or objects of a class, below which its figures say little
WIDE = 0.1  # of a 95 % interval
SMALL_GAP = 0.15  # AP of small objects below that of large ones
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~#$])")


def render_model_card(facts: Facts) -> str:
    """The card as Markdown; the same facts give the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # not HTML: the filter `md` escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        figure=format_figure, label=partial(label_of, facts.evaluation), md=escaped
    )
    return environment.get_template("model_card.md.j2").render(**_view(facts))


def escaped(value: Any) -> str:
    """Text as Markdown that shows just that text, on one line."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def _view(facts: Facts) -> dict[str, Any]:
    evaluation, parameters = facts.evaluation, dict(facts.parameters)
    multi_label = bool(evaluation.get("multi_label", False))
    detection = facts.task == "detection"
    main = main_metric(evaluation)
    rows = _worst_first(evaluation["per_class"], "f1" if main == "accuracy" else "ap")
    totals = {name: sum(row.values()) for name, row in facts.per_class_and_split.items()}
    frequent = sorted(totals, key=lambda name: -totals[name])[:MOST_CLASSES]
    kept = [name for name in facts.per_class_and_split if name in frequent]  # the model's order
    height, width = facts.prepared["image_size"]
    return {
        "facts": facts,
        "kind": _kind(detection, multi_label),
        "purpose": "find objects" if detection else "tell what is shown",
        "multi_label": multi_label,
        "classes": evaluation["classes"],
        "backbone": parameters.get("train.backbone", ""),
        "height": height,
        "width": width,
        "letterbox": facts.prepared.get("resize") == "letterbox",
        "output": _output(detection, multi_label),
        "megabytes": facts.figures["export"].get("megabytes"),
        "weights_license": _weights_license(parameters),
        "data_license": _data_license(facts.validation),
        "split_source": facts.prepared.get("split_source"),
        "num_images": sum(facts.images_per_split.values()),
        "quarantined": facts.figures["validate"].get("num_quarantined", 0),
        "splits": [name for name in SPLITS if name in facts.images_per_split],
        "unit": "objects" if detection else "images",
        "class_rows": [(name, facts.per_class_and_split[name]) for name in kept],
        "num_more_classes": len(totals) - len(kept),
        "headline": _headline(evaluation, main),
        "weak": [sentence.removeprefix("Weak: ") for sentence in advise(facts).weak],
        "columns": [name for name in dict.fromkeys(key for row in rows for key in row)
                    if name != "class"],
        "worst": rows[:MOST_CLASSES],
        "num_more_rows": max(0, len(rows) - MOST_CLASSES),
        "limits": list(_limits(facts, main)),
        "provenance": _provenance(facts),
    }  # fmt: skip


def _kind(detection: bool, multi_label: bool) -> str:
    if detection:
        return "object detection"
    return "classification, any number of labels" if multi_label else "classification, one class"


def _output(detection: bool, multi_label: bool) -> str:
    if detection:
        return "boxes with class and score, overlaps already suppressed"
    return "a probability for each class" + ("" if multi_label else "; they sum to one")


def _weights_license(parameters: Mapping[str, Any]) -> str:
    stated = parameters.get("export.license") or "not stated (export.license in params.yaml)"
    begun = parameters.get("train.pretrained")
    if not begun:
        return f"{stated}; trained from random weights"
    source = parameters.get("train.backbone") if begun is True else begun
    return f"{stated}; training began with published weights ({source}), whose terms count too"


def _data_license(validation: Mapping[str, Any]) -> str:
    stated = validation.get("license") or {}
    if not stated:
        return "not stated in the data folder"
    return "; ".join(f"{name}: “{words}”" for name, words in stated.items())


def _headline(evaluation: Mapping[str, Any], main: str) -> list[dict[str, Any]]:
    values, intervals = evaluation["headline"], evaluation.get("intervals", {})
    rows = []
    for name in sorted(values, key=lambda name: name != main):
        if values[name] is None:
            continue
        bounds = intervals.get(name)
        rows.append(
            {
                "name": name,
                "value": format_figure(values[name], name),
                "interval": bounds and [format_figure(bound, name) for bound in bounds],
            }
        )
    return rows


def _worst_first(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: (row.get(key) is None, row.get(key) or 0.0))


def _limits(facts: Facts, main: str) -> Iterator[str]:
    """What the figures do not say, or what they say against the model."""
    evaluation = facts.evaluation
    headline = {k: v for k, v in evaluation["headline"].items() if v is not None}
    split, num_images = evaluation["split"], evaluation["num_images"]
    if split != "test":
        yield (
            f"The figures are of the {split} split, by which {chosen_on_val(evaluation)} were "
            "chosen, too: on new images they are likely to be lower."
        )
    bounds = evaluation.get("intervals", {}).get(main)
    if bounds and bounds[1] - bounds[0] > WIDE:
        yield (
            f"With {num_images:,} images, differences below {(bounds[1] - bounds[0]) / 2:.2f} "
            "cannot be told from chance."
        )
    rows = evaluation["per_class"]
    unit = "objects" if any("num_objects" in row for row in rows) else "images"
    few = [escaped(row["class"]) for row in rows if (row.get(f"num_{unit}") or 0) < FEW]
    if few:
        shown = ", ".join(few[:8]) + (f" and {len(few) - 8} more" if len(few) > 8 else "")
        yield f"Measured on fewer than {FEW} {unit} each, and so hardly known: {shown}."
    small, large = headline.get("map_small", -1), headline.get("map_large", -1)
    if small >= 0 and large - small > SMALL_GAP:
        yield f"Small objects are found worse than large ones: AP {small:.3f} against {large:.3f}."
    if headline.get("ece", 0) > 0.05:
        yield (
            f"A confidence is {100 * headline['ece']:.1f} percentage points off on average: "
            "do not take it for the chance of being right."
        )
    warnings = facts.figures["validate"].get("num_warnings", 0)
    if warnings:
        yield (
            f"The data's validation ended with {warnings:,} warning{'s' if warnings > 1 else ''}; "
            "see `reports/validation.html`."
        )
    yield (
        "Other cameras, places, seasons or ways of taking pictures than those of the data are "
        "untested."
    )


def _provenance(facts: Facts) -> list[tuple[str, str]]:
    parameters, train = dict(facts.parameters), facts.figures["train"]
    revision = facts.revision
    code = "not a git repository"
    if revision is not None:
        number = len(revision.changed)
        changed = f", with {number} uncommitted change{'s'[: number - 1]}" if number else ""
        code = revision.commit + changed
    rows = [
        ("Code", code),
        ("Data fingerprint", facts.dataset.get("fingerprint", "")),
        ("Backbone", parameters.get("train.backbone", "")),
        ("Epochs", f"{train.get('num_epochs', '')}, the best was {train.get('best_epoch')}"),
        ("Seed", parameters.get("base.seed", "")),
        ("Training time", f"{train['seconds']:,.0f} s" if "seconds" in train else ""),
        ("Equal to PyTorch on", f"{facts.figures['export'].get('num_parity_images')} images"),
        *facts.machine.items(),
        *((name, facts.versions[name]) for name in ("timmflow", "torch", "timm", "onnxruntime")
          if name in facts.versions),
        ("Made", facts.made_at),
    ]  # fmt: skip
    return [(str(name), str(value)) for name, value in rows if value != ""]
