"""`python -m tasks.review`: what a retraining leaves for W&B of what the stages left."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from test_review import VERDICT, entry
from tracked_workspace import CODE, inspected, python, runs

from components.files import write_json
from components.tracking.plan import read_plan

CANARY = "https://reader:canary42@data.example/set"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a champion, v1.0.0, and the outputs of a retraining since."""
    root = tmp_path_factory.mktemp("retrained").resolve() / "repo"
    code = (
        "import sys, yaml; from pathlib import Path; from report_workspace import write_workspace\n"
        "params, layout = write_workspace(Path(sys.argv[1]), 'detection', num_mistakes=2)\n"
        "tree = params.model_dump(mode='json', by_alias=True)\n"
        f"tree['base']['data'] = {CANARY!r}\n"
        "Path(sys.argv[1], 'params.yaml').write_text(yaml.safe_dump(tree))"
    )
    made = python(CODE / "tests" / "report", "-c", code, str(root))
    assert made.returncode == 0, made.stdout
    figures = VERDICT["figures"] | {"slices": {"camera=2": entry(0.4, 0.45)}}
    write_json(root / "reports" / "verdict.json", VERDICT | {"figures": figures})
    for name, tree in {
        "dvc.yaml": {"artifacts": {"model": {"path": "models/model.onnx"}}},
        "dvc.lock": {"stages": {"export": {"outs": [{"path": "models/model.onnx", "md5": "0ld"}]}}},
    }.items():
        (root / name).write_text(yaml.safe_dump(tree))
    new = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(new.replace("epochs: 30", "epochs: 7", 1))

    def git(*words: str) -> None:
        named = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
        subprocess.run(named, cwd=root, check=True, capture_output=True)

    git("init", "-q")
    git("add", "-f", "dvc.yaml", "dvc.lock", "params.yaml", "metrics")
    git("commit", "-qm", "champion")
    git("tag", "-a", "model@v1.0.0", "-m", "first")
    (root / "params.yaml").write_text(new)
    return root


@pytest.mark.slow
def test_a_retraining_is_recorded_whole(root: Path) -> None:
    context = {"champion": "v1.0.0", "merged": ["may"], "refused": {"june": "broken"}}
    write_json(root / "context.json", context)
    done = python(root, "-m", "tasks.review", "context.json", WANDB_RUN_GROUP="night")
    assert (done.returncode, done.stdout) == (0, "")
    plan = read_plan(runs(root)[0])
    assert plan is not None and plan.review is not None
    # Made from what it is about: killed after this, a retraining records the same run again.
    assert re.fullmatch("retrain-[0-9a-f]{8}", plan.id)
    md5 = hashlib.md5(b"not a real model").hexdigest()
    assert plan.uses == [
        ("dataset", "data-" + "ab12" * 4),
        ("onnx", f"md5-{md5}"),
        ("onnx", "md5-0ld"),  # the champion's
    ]
    assert plan.logs == [("verdict", plan.id)]
    text = str(plan.review)
    assert "| Data | v1.0.0 | Now | Change |" in text
    assert "merged: may" in text and "refused: june: broken" in text
    assert f"wandb:artifacts/model/onnx/md5-{md5}" in text and "wandb:groups/night" in text
    run = inspected(runs(root)[0])
    assert run["summary"]["outcome"] == "refuse"
    assert (run["summary"]["champion/map"], run["summary"]["challenger/map"]) == (0.5, 0.551)
    tables = {name.rpartition("-")[2] for name in run["artifacts"]}
    assert {"rules", "classes", "slices", "worst_mistakes", "verdict"} <= tables
    assert {"epoch", "train_loss", "val_map"} <= {key for row in run["history"] for key in row}
    for path in (root / "wandb").rglob("*"):
        assert not path.is_file() or b"canary42" not in path.read_bytes(), path


def test_without_a_verdict_it_says_what_is_missing(tmp_path: Path) -> None:
    example = CODE / "examples" / "digits-detection.yaml"
    (tmp_path / "params.yaml").write_text(example.read_text())
    done = python(tmp_path, "-m", "tasks.review")
    assert done.returncode == 1
    assert "error: review: not recorded with W&B: " in done.stdout
    assert "verdict.json: no such file" in done.stdout
    assert python(tmp_path, "-m", "tasks.review", WANDB_MODE="disabled").returncode == 0
    assert not (tmp_path / "wandb").exists()
