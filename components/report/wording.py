"""What figures are called on the page and in the model card, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def label(name: str) -> str:
    """What a figure is called on the page."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def label_of(evaluation: Mapping[str, Any], name: str) -> str:
    """The same, of a model: of several labels an image `map` is a mean over classes alone."""
    return "Mean AP" if name == "map" and evaluation.get("multi_label") else label(name)


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
