"""The page to review: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from components.report.advice import advise
from components.report.charts import (
    calibration_chart,
    confusion_chart,
    precision_recall_chart,
    training_charts,
)
from components.report.facts import Facts

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
# Pictures, before base64 adds a third.
MAX_PICTURE_BYTES = 2_500_000

SPLITS = ("train", "val", "test")
# What figures are called on the page, and how they are written.
LABELS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "top_3_accuracy": "Top-3 accuracy",
    "top_5_accuracy": "Top-5 accuracy",
    "auroc": "AUROC",
    "micro_f1": "Micro F1",
    "micro_precision": "Micro precision",
    "micro_recall": "Micro recall",
    "exact_match": "All labels right",
    "hamming_loss": "Labels wrong (Hamming)",
    "log_loss": "Log loss",
    "ece": "Calibration error",
    "map": "AP",
    "map_50": "AP50",
    "map_75": "AP75",
    "map_small": "AP small",
    "map_medium": "AP medium",
    "map_large": "AP large",
    "mar_1": "Recall, 1 box",
    "mar_10": "Recall, 10 boxes",
    "mar_100": "Recall, 100 boxes",
    "mar_small": "Recall, small",
    "mar_medium": "Recall, medium",
    "mar_large": "Recall, large",
    "class": "Class",
    "num_images": "Images",
    "num_objects": "Objects",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "ap": "AP",
    "ap_50": "AP50",
    "ap_75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar": "Recall",
    "recall_50": "Recall at IoU 0.5",
    "threshold": "Threshold",
    "num_false": "False",
    "num_missed": "Missed",
}
_PERCENT = {
    "accuracy",
    "balanced_accuracy",
    "top_3_accuracy",
    "top_5_accuracy",
    "ece",
    "exact_match",
    "hamming_loss",
}
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
    environment.filters.update(figure=format_figure, label=label, value=format_value)
    if facts.evaluation.get("multi_label"):
        # The mean over classes; a detector's AP is one over thresholds of overlap, too.
        environment.filters["label"] = lambda name: "Mean AP" if name == "map" else label(name)
    return environment.get_template("page.html.j2").render(**_view(facts))


def _view(facts: Facts) -> dict[str, Any]:
    """What the template shows, in its order."""
    evaluation = facts.evaluation
    multi_label = bool(evaluation.get("multi_label", False))
    main = "accuracy" if facts.task == "classification" and not multi_label else "map"
    rows = _worst_first(evaluation["per_class"], "f1" if main == "accuracy" else "ap")
    train = facts.figures["train"]
    best_epoch = train.get("best_epoch")
    counts = evaluation.get("confusion")
    columns = _columns(rows)
    points = [name for name in POINT_COLUMNS if name in columns and facts.task == "detection"]
    slices = _slice_rows(evaluation, main)
    findings = facts.validation.get("findings", [])
    return {
        "facts": facts,
        "evaluation": evaluation,
        "summary": _summary(facts),
        "advice": advise(facts),
        "main": main,
        "multi_label": multi_label,
        "headline": _headline(evaluation, main),
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
        "mistakes": _with_pictures(evaluation["mistakes"], facts.pictures, MAX_PICTURE_BYTES),
        "suspects": _with_pictures(
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


def _headline(evaluation: Mapping[str, Any], main: str) -> list[dict[str, Any]]:
    """Figures with their intervals, the main one first."""
    values = evaluation["headline"]
    names = sorted(values, key=lambda name: name != main)
    intervals = evaluation.get("intervals", {})
    return [
        {"name": name, "value": values[name], "interval": intervals.get(name)} for name in names
    ]


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
    pairs: list[dict[str, Any]] = [
        {"actual": classes[i], "predicted": classes[j], "count": n, "share": n / sum(row)}
        for i, row in enumerate(counts)
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:most]


def _slice_rows(evaluation: Mapping[str, Any], main: str) -> list[dict[str, Any]]:
    """Slices, the worst first; `below` where even the interval's upper end is below the whole."""
    whole = evaluation["headline"].get(main)
    return [
        {**row, "below": whole is not None and row.get("high", whole) < whole}
        for row in evaluation.get("slices", [])
    ]


def _with_pictures(
    entries: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes], budget: int
) -> list[dict[str, Any]]:
    """Entries with their pictures inside, `budget` bytes in all."""
    smaller = shrink_pictures([pictures[entry["picture"]] for entry in entries], budget)
    shown = []
    for entry, (data, width, height) in zip(entries, smaller, strict=True):
        source = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
        shown.append({**entry, "source": source, "width": width, "height": height})
    return shown


def shrink_pictures(
    pictures: Sequence[bytes], budget: int = MAX_PICTURE_BYTES
) -> list[tuple[bytes, int, int]]:
    """Pictures as JPEG whose sizes sum up to `budget` bytes at most, or as small as is readable.

    Args:
        pictures: encoded in any format Pillow reads.
        budget: bytes.

    Returns:
        For each picture: JPEG bytes, width, height (pixels).
    """
    encoded: list[tuple[bytes, int, int]] = []
    for max_side, quality in ((960, 82), (720, 76), (560, 68), (420, 60), (320, 50)):
        encoded = [_as_jpeg(picture, max_side, quality) for picture in pictures]
        if sum(len(data) for data, _, _ in encoded) <= budget:
            break
    return encoded


def _as_jpeg(picture: bytes, max_side: int, quality: int) -> tuple[bytes, int, int]:
    with Image.open(io.BytesIO(picture)) as opened:
        if opened.format == "JPEG" and max(opened.size) <= max_side and max_side == 960:
            return picture, opened.width, opened.height
        image = opened.convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue(), image.width, image.height


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


def label(name: str) -> str:
    """What a figure is called on the page."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def format_figure(value: Any, name: str) -> str:
    """A figure as the page writes it: accuracies in percent, other shares with three decimals."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if name in _PERCENT else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def format_value(value: Any) -> str:
    """A parameter or a number as the page writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    return str(value)
