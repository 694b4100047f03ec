"""Figures of a gate whose challenger is better, to be changed one by one."""

from __future__ import annotations

import json
from typing import Any

ENTRY = {"num_images": 50, "challenger": 0.9, "champion": 0.85, "gain": 0.05}
ENTRY |= {"low": 0.01, "high": 0.09, "challenger_low": 0.86, "challenger_high": 0.94}


def figures(**changes: Any) -> dict[str, Any]:
    """Figures that pass; a change is named by its path, such as `all__low`."""
    model = {"latency_ms": 10.0, "megabytes": 5.0, "lacks": []}
    tree: dict[str, Any] = {
        "metric": "accuracy",
        "trivial": 0.3,
        "all": ENTRY | {"gains": "0.010000 0.050000 0.090000"},
        "known_classes": None,
        "classes": {"a": dict(ENTRY), "b": dict(ENTRY)},
        "slices": {"camera = 1": dict(ENTRY)},
        "challenger": dict(model),
        "champion": dict(model),
        "parity": {
            "num_images": 9,
            "max_score_difference": 1e-6,
            "score_tolerance": 1e-4,
            "metric_onnx": 0.9,
            "metric_pytorch": 0.9,
        },
        "validation": {"num_errors": 0, "num_warnings": 3, "num_quarantined": 0, "drift": []},
    }
    tree = json.loads(json.dumps(tree))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = tree
        for name in parents:
            place = place[name.replace("camera", "camera = 1")]
        place[last] = value
    return tree
