"""Record small runs as stages do: `python record_runs.py STAGE...`, in the folder to record in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from components.files import write_text
from components.tracking.record import Logged, Outputs, Picture
from tasks.layout import Layout
from tasks.tracked import recorded

BOX = {"label": "cat", "score": 0.75, "left": 0.1, "top": 0.2, "right": 0.5, "bottom": 0.6}
MISSED = {**BOX, "label": "dog", "score": None}


def outputs(stage: str) -> Outputs:
    """What the stage leaves."""
    for name in ("tables/images.csv", "trained/weights.bin", "model.onnx"):
        write_text(Path(name), f"content of {name}")
    write_text(Path("train.csv"), "epoch,train_loss,val/map,lr\n1,0.9,0.1,0.01\n2,0.7,0.2,0.02\n")
    data, weights, model = ("dataset", "data-1"), ("weights", "sha256-1"), ("onnx", "md5-1")
    pixels = np.full((40, 60, 3), 128, np.uint8)
    picture = Picture(pixels, "a/b.jpg", "two wrong", "why", {"false": [BOX], "missed": [MISSED]})
    blocks = [{"kind": "heading", "text": "Verdict"}, {"kind": "markdown", "text": "promote"}]
    review = {"title": "Nightly: promote (1)", "description": "better", "blocks": blocks}
    return {
        "validate": Outputs({data[0]: Logged("dataset", Path("tables"), data[1])}),
        "train": Outputs(
            {weights[0]: Logged("model", Path("trained"), weights[1])},
            uses=[data],
            curves=Path("train.csv"),
        ),
        "evaluate": Outputs(uses=[data, weights], pictures=[picture]),
        "export": Outputs(
            {model[0]: Logged("model", Path("model.onnx"), model[1])}, uses=[weights]
        ),
        "killed": Outputs(),
        "retrain": Outputs(
            {"verdict": Logged("verdict", Path("train.csv"), "retrain-1")},
            uses=[data, model],
            tables={"rules": (["rule", "outcome"], [["gain", "pass"]])},
            review=review,
        ),
    }[stage]


if __name__ == "__main__":
    said = json.loads(os.environ.get("TEST_CONFIG", "{}"))
    for stage in sys.argv[1:]:
        config = {"train": {"lr": 0.01}, "git_revision": "abc", "told": said}
        made = outputs(stage)
        with recorded(stage, "group-1", config, Layout(), lambda made=made: made) as finish:
            finish({"figure": 0.5})
