"""A repository for sweeps: real parameters, and stages whose figures follow from them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from toy_repository import CODE, Toy

# train.lr decides: 0.5 fails, 0.25 hangs, and anything else is the score itself.
STAGE = """
import json, os, pathlib, sys, time
import yaml

stage = sys.argv[1]
params = yaml.safe_load(open("params.yaml"))
lr = params["train"]["lr"]
with open(os.environ["TOY_RUNS"], "a") as runs:
    runs.write(f"{stage} {lr}\\n")
print("working on", stage, flush=True)
if stage == "validate":
    assert list(pathlib.Path(params["base"]["data"]).glob("*.txt")), "no data"
if stage == "train":
    assert pathlib.Path("out/preprocess/packed.bin").read_bytes() == b"packed"
    pathlib.Path(".resume").mkdir(exist_ok=True)
    pathlib.Path(".resume/checkpoint").write_text("half done")
    if lr == 0.5:
        sys.exit("error: train: nothing was learnt")
    if lr == 0.25:
        print("hanging", flush=True)
        time.sleep(300)
out = pathlib.Path("out", stage)
out.mkdir(parents=True)
(out / "packed.bin").write_text("packed" if stage == "preprocess" else str(lr))
figures = dict(monitor="val/accuracy", best=lr, best_epoch=1, num_epochs=2, seconds=7.5)
figures["gpus"] = os.environ.get("CUDA_VISIBLE_DEVICES")
if stage == "evaluate":
    figures = dict(split="test", accuracy=1 - lr)
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path(f"metrics/{stage}.json").write_text(json.dumps(figures))
"""
NEEDS = {"validate": "data/raw", "preprocess": "out/validate", "train": "out/preprocess"}


def make_sweep_toy(root: Path, data: str = "data/raw") -> Toy:
    """A repository with one commit, untracked data, and parameters changed since the commit."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\nanalytics = false\ncheck_update = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    text = (CODE / "examples" / "digits-classification.yaml").read_text()
    text = text.replace("data: data/digits-classification", f"data: {data}")
    (root / "params.yaml").write_text(text)
    stages = {
        stage: {
            "cmd": f"python stage.py {stage}",
            "deps": ["stage.py", {**NEEDS, "validate": data}.get(stage, "out/train")],
            "params": ["base", *([stage] if stage == "train" else [])],
            "outs": [f"out/{stage}"],
            "metrics": [{f"metrics/{stage}.json": {"cache": False}}],
        }
        for stage in ("validate", "preprocess", "train", "evaluate")
    }
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (root / "stage.py").write_text(STAGE)
    (root / ".gitignore").write_text("/data\n/out\n/metrics\n/.resume\n/wandb\n")
    for command in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"),
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    (root / data).mkdir(parents=True)
    (root / data / "image.txt").write_text("an image")
    (root / "params.yaml").write_text(text.replace("patience: 0", "patience: 3"))
    return Toy(root)
