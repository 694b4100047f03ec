"""The page to review: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from components.report.advice import advise
from components.report.charts import (
    calibration_chart,
    confusion_chart,
    precision_recall_chart,
    training_charts,
)
from components.report.comparison import (
    data_changes,
    figure_changes,
    parameter_changes,
    same_images,
    verdict_of,
)
from components.report.facts import Facts, chosen_on_val, confusion_names, main_metric
from components.report.page_pictures import MAX_PICTURE_BYTES, with_pictures
from components.report.wording import format_figure, format_value, label, label_of

# What the kinds of a detector's errors are.
ERROR_MEANINGS = {
    "classification": "on an object, with another class's name",
    "localisation": "right class, but the box overlaps the object too little (0.1 to 0.5)",
    "both": "another class's name, and the box overlaps too little",
    "duplicate": "a second box on an object that was found",
    "background": "a box on nothing",
    "missed": "an object that no detection is about",
}
# Larger matrices are drawn, smaller ones are tables with numbers.
MAX_TABLE_CLASSES = 20
MAX_FINDINGS = 100

SPLITS = ("train", "val", "test")
# Of a detector's classes: what holds at one confidence threshold, in a table of its own.
POINT_COLUMNS = ("threshold", "precision", "recall", "f1", "num_false", "num_missed")
# Slices that the page shows before a reader asks for more.
NUM_SLICES = 8


def render_page(facts: Facts) -> str:
    """The page as HTML text; the same facts give the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        figure=format_figure,
        label=partial(label_of, facts.evaluation),
        value=format_value,
        code=_with_code,
    )
    return environment.get_template("page.html.j2").render(**_view(facts))


def _with_code(text: str) -> Markup:
    """Text for the page; what stands between back quotes becomes code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts)
    )


def _view(facts: Facts) -> dict[str, Any]:
    """What the template shows, in its order."""
    evaluation = facts.evaluation
    multi_label = bool(evaluation.get("multi_label", False))
    main = main_metric(evaluation)
    rows = _worst_first(evaluation["per_class"], "f1" if main == "accuracy" else "ap")
    train = facts.figures["train"]
    best_epoch = train.get("best_epoch")
    counts = evaluation.get("confusion")
    columns = _columns(rows)
    points = [name for name in POINT_COLUMNS if name in columns and facts.task == "detection"]
    slices = _slice_rows(evaluation, main)
    findings = facts.validation.get("findings", [])
    data_words, class_changes = data_changes(facts)
    changes = figure_changes(facts)
    return {
        "facts": facts,
        "evaluation": evaluation,
        "summary": _summary(facts),
        "advice": advise(facts),
        "main": main,
        "multi_label": multi_label,
        "verdict": verdict_of(facts),
        "checks": _checks(facts),
        "same_images": same_images(facts),
        "flattered": " measured here, which flatters it" if evaluation["split"] == "val" else "",
        "headline": sorted(changes.values(), key=lambda change: change.name != main),
        "chosen_on_val": chosen_on_val(evaluation),
        "data_words": data_words,
        "class_changes": class_changes,
        "parameter_changes": parameter_changes(facts),
        "splits": [name for name in SPLITS if name in facts.images_per_split],
        "class_rows": _class_rows(facts),
        "findings": findings[:MAX_FINDINGS],
        "num_findings": len(findings),
        "training": training_charts(facts.curves, best_epoch),
        "train": train,
        "per_class": rows,
        "per_class_columns": [name for name in columns if name not in points],
        "point_columns": points,
        "slices": slices[:NUM_SLICES],
        "more_slices": slices[NUM_SLICES:],
        "errors": [
            {**row, "meaning": ERROR_MEANINGS.get(row["kind"], "")}
            for row in evaluation.get("errors", [])
        ],
        "confusion": _confusion_rows(counts) if _fits_table(counts) else None,
        "confusion_chart": confusion_chart(counts) if counts and not _fits_table(counts) else None,
        "confusion_names": confusion_names(evaluation),
        "confusions": _frequent_confusions(counts or [], evaluation["classes"]),
        "precision_recall": precision_recall_chart(
            evaluation.get("precision_recall", {}),
            [row["class"] for row in rows],
            "Precision and recall" if multi_label else "Precision and recall at IoU 0.5",
        ),
        "calibration": calibration_chart(
            evaluation.get("calibration", []),
            ("probability", "share with the label", "labels")
            if multi_label
            else ("confidence", "accuracy", "images"),
            evaluation.get("temperature", {}).get("calibration_before", []),
        ),
        "temperature": evaluation.get("temperature"),
        "mistakes": with_pictures(evaluation["mistakes"], facts.pictures, MAX_PICTURE_BYTES),
        "suspects": with_pictures(
            evaluation.get("suspects", []), facts.pictures, MAX_PICTURE_BYTES // 2
        ),
        "export": _export_rows(facts),
        "files": _file_rows(facts.export),
        "provenance": _provenance_rows(facts),
    }


def _summary(facts: Facts) -> str:
    parameters = dict(facts.parameters)
    kind = "Image classifier" if facts.task == "classification" else "Object detector"
    if facts.evaluation.get("multi_label"):
        kind = "Image classifier for any number of labels"
    height, width = facts.prepared["image_size"]
    backbone = parameters.get("train.backbone")
    on = f" on {backbone}" if backbone else ""
    classes = len(facts.evaluation["classes"])
    return (
        f"{kind}{on}, {width} \N{MULTIPLICATION SIGN} {height} pixels, {classes} "
        f"{'class' if classes == 1 else 'classes'}; measured on "
        f"{facts.evaluation['num_images']:,} images of the {facts.evaluation['split']} split."
    )


def _checks(facts: Facts) -> list[dict[str, str]]:
    """What else speaks for the model or against it, a line each."""

    def count(number: int, unit: str) -> str:
        return f"{number:,} {unit}{'' if number == 1 else 's'}"

    found = []
    errors = facts.validation.get("num_errors", 0)
    warnings = facts.validation.get("num_warnings", 0)
    mood = "error" if errors else "warning" if warnings else "fine"
    text = f"validation ended with {count(errors, 'error')} and {count(warnings, 'warning')}"
    found.append({"mood": mood, "word": "data", "text": text})
    images = facts.figures["export"].get("num_parity_images")
    if images is not None:
        text = f"models/model.onnx gives what PyTorch gives, compared on {count(images, 'image')}"
        found.append({"mood": "fine", "word": "file", "text": text})
    for row in facts.export.get("formats", ()):
        if not row["published"]:
            text = f"{row['format']} is not published: {'; '.join(row['reasons'])}"
            found.append({"mood": "warning", "word": "file", "text": text})
    if facts.evaluation["split"] == "val":
        text = (
            f"measured on the validation images, by which {chosen_on_val(facts.evaluation)} were "
            "chosen: on new images the figures are likely to be lower"
        )
        found.append({"mood": "warning", "word": "figures", "text": text})
    return found


def _class_rows(facts: Facts) -> list[dict[str, Any]]:
    """Numbers of each class by split, and its length of bar: share of the most frequent class."""
    totals = {name: sum(row.values()) for name, row in facts.per_class_and_split.items()}
    most = max(totals.values(), default=0) or 1
    return [
        {"class": name, "counts": row, "total": totals[name], "share": totals[name] / most}
        for name, row in facts.per_class_and_split.items()
    ]


def _worst_first(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """Rows by ascending `key`; those without it at the end."""
    return sorted(rows, key=lambda row: (row.get(key) is None, row.get(key) or 0.0))


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every key of the rows, in the order they first appear, the class left out."""
    return [name for name in dict.fromkeys(key for row in rows for key in row) if name != "class"]


def _fits_table(counts: Sequence[Sequence[int]] | None) -> bool:
    return bool(counts) and len(counts or []) <= MAX_TABLE_CLASSES


def _confusion_rows(counts: Any) -> list[list[dict[str, Any]]]:
    """Cells with their count and their share of the actual class."""
    return [[{"count": n, "share": n / max(sum(row), 1)} for n in row] for row in counts]


def _frequent_confusions(
    counts: Sequence[Sequence[int]], classes: Sequence[str], most: int = 8
) -> list[dict[str, Any]]:
    """Pairs of classes; a detector's background, the last one of `counts`, is none."""
    pairs: list[dict[str, Any]] = [
        {"actual": actual, "predicted": predicted, "count": n, "share": n / sum(row)}
        for actual, row in zip(classes, counts, strict=False)
        for predicted, n in zip(classes, row, strict=False)
        if actual != predicted and n
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:most]


def _slice_rows(evaluation: Mapping[str, Any], main: str) -> list[dict[str, Any]]:
    """Slices, the worst first; `below` where even the interval's upper end is below the whole."""
    whole = evaluation["headline"].get(main)
    return [
        {**row, "below": whole is not None and row.get("high", whole) < whole}
        for row in evaluation.get("slices", [])
    ]


def _export_rows(facts: Facts) -> list[tuple[str, str]]:
    figures = facts.figures["export"]
    words = {
        "megabytes": ("Size", "{:.1f} MB"),
        "latency_ms_p50": ("Latency, median", "{:.1f} ms an image"),
        "latency_ms_p95": ("Latency, 95th percentile", "{:.1f} ms an image"),
        "num_parity_images": ("Compared with PyTorch on", "{:,} images"),
        "max_score_difference": ("Largest difference of a score", "{:.1e}"),
        "min_iou": ("Smallest overlap of equal boxes", "{:.6f}"),
    }
    rows = [("File", "models/model.onnx")]
    for name, value in figures.items():
        title, pattern = words.get(name, (label(name), "{}"))
        if value is not None:
            rows.append((title, pattern.format(value)))
    if facts.model_sha256:
        rows.append(("SHA-256", facts.model_sha256))
    return rows


# Of a file: key, title, pattern.
_FILE_FIGURES = (
    ("metric", "", "{:.4f}"),
    ("megabytes", "Size, MB", "{:.1f}"),
    ("latency_ms_p50", "1 image, ms, median", "{:.1f}"),
    ("latency_ms_p95", "95th percentile", "{:.1f}"),
    ("latency_ms_p50_batch_8", "8 images, ms, median", "{:.1f}"),
    ("latency_ms_p95_batch_8", "95th percentile", "{:.1f}"),
    ("images_per_second", "Images a second", "{:.1f}"),
    ("peak_memory_mb", "Peak memory, MB", "{:.0f}"),
)


def _file_rows(export: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table of the model's files: titles, and for each its cells and why it is not there."""
    if not export:
        return None
    titles = [title or label(export["metric"]) for _, title, _ in _FILE_FIGURES]
    rows = []
    for row in export["formats"]:
        cells = [
            "\N{EN DASH}" if row.get(key) is None else pattern.format(row[key])
            for key, _, pattern in _FILE_FIGURES
        ]
        where = row["file"] if row["published"] else "not published"
        rows.append(
            {"format": row["format"], "where": where, "cells": cells, "reasons": row["reasons"]}
        )
    torch_metric = export["pytorch"]
    return {
        "titles": titles,
        "rows": rows,
        "num_images": export["num_images"],
        "split": export["split"],
        "pytorch": "undefined" if torch_metric is None else f"{torch_metric:.4f}",
    }


def _provenance_rows(facts: Facts) -> list[tuple[str, str]]:
    train = facts.figures["train"]
    revision = facts.revision
    if revision is None:
        code = [("Git revision", "not a git repository")]
    else:
        shown = ", ".join(revision.changed[:8])
        more = f" and {len(revision.changed) - 8} more" if len(revision.changed) > 8 else ""
        on = f" ({revision.branch})" if revision.branch else ""
        code = [
            ("Git revision", revision.commit + on),
            ("Uncommitted changes", shown + more if shown else "none"),
        ]
    rows = [
        *code,
        ("Data fingerprint", str(facts.dataset.get("fingerprint", ""))),
        ("Prepared data fingerprint", str(facts.prepared.get("fingerprint", ""))),
        ("Seed", str(dict(facts.parameters).get("base.seed", ""))),
        ("Training time", _duration(train["seconds"]) if "seconds" in train else ""),
        ("Parameters of the model", format_value(train.get("num_parameters", ""))),
        *facts.machine.items(),
        ("Page made", facts.made_at),
    ]
    return [(name, value) for name, value in rows if value]


def _duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s` or `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
