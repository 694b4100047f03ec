"""A repository to be retrained: real data, parameters and registry; stages and gate that are quick.

The model's quality is what `inputs/train.txt` says, plus a hundredth for each image. The gate
promotes what is better than the champion.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from PIL import Image
from toy_repository import CODE, Toy

from flows.dvc_stage import run_stage
from flows.flow_errors import StageFailed
from flows.retrain_run import locked, retrain_here
from flows.retrain_site import Site
from flows.retrain_steps import Retraining

STAGES = ("train", "export")  # each costs a second of DVC's
STAGE = """
import json, pathlib, sys, time

stage = sys.argv[1]
said = pathlib.Path(f"inputs/{stage}.txt").read_text().strip()
print("working on", stage, flush=True)
if said == "fail":
    sys.exit(f"error: {stage}: nothing was learnt")
if said == "hang":
    time.sleep(300)
images = sorted(pathlib.Path("data/raw").rglob("*.png"))
quality = len(images) / 100 + (float(said) if stage == "train" else 0)
out = pathlib.Path({"export": "models/model.onnx"}.get(stage, f"out/{stage}.txt"))
out.parent.mkdir(exist_ok=True)
before = {"export": "out/train.txt"}.get(stage)
out.write_text(pathlib.Path(before).read_text() if before else str(quality))
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path(f"metrics/{stage}.json").write_text(json.dumps(dict(accuracy=quality)))
"""
GATE = """
import json, pathlib, sys

PROMOTE, REFUSE = 0, 2

if __name__ == "__main__":
    new, *old = [float(pathlib.Path(name).read_text()) for name in sys.argv[1:]]
    better = new > (old[0] if old else 0.1)
    pathlib.Path("reports").mkdir(exist_ok=True)
    pathlib.Path("reports/verdict.json").write_text(json.dumps(dict(new=new, old=old)))
    print("gate:", "promote:" if better else "refuse:", f"accuracy {new:.2f}, was {old}")
    if not better:
        print("  failed: gain, low end")
    sys.exit(PROMOTE if better else REFUSE)
"""
# What is not a stub is the real one.
PACKAGE = f"__path__.append({str(CODE / 'tasks')!r})\n"


def picture(path: Path, seed: int, label: int) -> None:
    """Write an image that is like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.effect_noise((40, 40), 60 + 30 * label).rotate(seed)
    image.putpixel((seed % 40, seed // 40 % 40), 255 * label)
    image.convert("RGB").save(path)


def fill(folder: Path, numbers: range) -> None:
    """Images of two classes, a folder each."""
    for number in numbers:
        for label, name in enumerate(("no", "yes")):
            picture(folder / name / f"{number}.png", number, label)


@dataclass
class RetrainToy(Toy):
    """With git at hand."""

    def copied(self, folder: Path) -> RetrainToy:
        """The same in another folder, with a clean tree."""
        root = folder.resolve() / "repo"
        shutil.copytree(self.root, root, symlinks=True)
        toy = RetrainToy(root)
        toy.git("reset", "-q", "--hard")
        return toy

    def git(self, *words: str) -> str:
        """What git prints."""
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, train: str) -> None:
        """Commit another quality of the training."""
        self.tell("train", train)
        self.git("commit", "-qm", train, "--", "inputs")

    def batch(self, name: str, numbers: range) -> Path:
        """A batch that arrives."""
        folder = self.root / "data" / "incoming" / name
        fill(folder, numbers)
        return folder

    def shorten(self) -> None:
        """Let commands that are run here know the two stages alone; commits that."""
        layout = (CODE / "tasks" / "layout.py").read_text().splitlines()
        stages = [f"STAGES = {STAGES!r}" if x.startswith("STAGES = ") else x for x in layout]
        (self.root / "tasks" / "layout.py").write_text("\n".join(stages))
        self.git("add", "tasks")
        self.git("commit", "-qm", "two stages", "--", "tasks")

    def traces(self) -> list[str]:
        """What a retraining must not leave: worktrees, locks of git, records of work half done."""
        found = self.git("worktree", "list", "--porcelain").split("\n\n")[1:]
        found += [str(p) for p in (self.root / ".git").rglob("*.lock")]
        found += [str(p) for p in (self.root / ".dvc/tmp/retrain").glob("tree/*")]
        return found + [str(p) for p in (self.root / ".dvc/tmp/retrain").glob("decided.json")]


def make_retrain_toy(root: Path) -> RetrainToy:
    """A repository with one commit and four images, tracked by DVC."""
    (root / ".dvc").mkdir(parents=True)
    (root / "inputs").mkdir()
    (root / "tasks").mkdir()
    toy = RetrainToy(root)
    stages = {}
    for stage in STAGES:
        toy.tell(stage, "0.5" if stage == "train" else "ok")
        stages[stage] = {
            "cmd": f"python stage.py {stage}",
            "deps": ["stage.py", f"inputs/{stage}.txt", "data/raw"],
            "outs": ["models/model.onnx" if stage == "export" else f"out/{stage}.txt"],
            "metrics": [{f"metrics/{stage}.json": {"cache": False}}],
        }
    stages["export"]["deps"].append("out/train.txt")
    example = (CODE / "examples" / "digits-classification.yaml").read_text()
    files = {
        ".dvc/config": "[core]\nanalytics = false\ncheck_update = false\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": "/out\n/models\n/data/?*\n!/data/*.dvc\n/reports/incoming\n/wandb\n",
        ".dvcignore": (CODE / ".dvcignore").read_text(),
        "params.yaml": example.replace("data: data/digits-classification", "data: data/raw"),
        "dvc.yaml": json.dumps(
            {"stages": stages, "artifacts": {"model": {"path": "models/model.onnx"}}}
        ),
        "stage.py": STAGE,
        "tasks/__init__.py": PACKAGE,
        "tasks/gate.py": GATE,
    }
    for name, text in files.items():
        (root / name).write_text(text)
    fill(root / "data" / "raw", range(2))
    toy.git("init", "-q", "-b", "main")
    toy.git("config", "user.name", "t")
    toy.git("config", "user.email", "t@t")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data/raw"], cwd=root, check=True)
    toy.git("add", "-A")
    toy.git("commit", "-qm", "start")
    return toy


class PlainSteps:
    """Runs steps without Prefect, and dies at one of them if told so."""

    def __init__(self, die_at: str = "") -> None:
        self.rows: list[tuple[str, str, str]] = []
        self._die_at = die_at

    def begin(self, site: Site) -> None:
        pass

    def do(self, name: str, work: Callable[..., tuple[str, str]]) -> None:
        if name == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.rows.append((name, *work(print)))

    def stage(self, name: str, retraining: Retraining) -> str:
        def on_line(line: str) -> None:
            print(line)
            if name == self._die_at and line.startswith("working on"):
                os.kill(os.getpid(), signal.SIGKILL)

        options = {**retraining.options, "on_line": on_line}
        outcome = run_stage(name, retraining.tree, **options).outcome
        self.rows.append((name, outcome, ""))
        return outcome


class FailingSteps(PlainSteps):
    """One step fails, as the flow's do."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    def do(self, name: str, work: Callable[..., tuple[str, str]]) -> None:
        if name == self._step:
            raise StageFailed(name, "failed", 0.0)
        super().do(name, work)


@contextmanager
def short() -> Iterator[None]:
    """Let the pipeline have two stages."""
    with (
        patch("flows.retrain_run.STAGES", STAGES),
        patch("flows.retrain_site.STAGES", STAGES),
    ):
        yield


def retrained(toy: RetrainToy) -> tuple[dict[str, Any], dict[str, str]]:
    """Retrain here; gives the result, and the outcome of each step."""
    steps = PlainSteps()
    with locked(toy.root), short():
        result = retrain_here(toy.root, steps, False, None, False)
    return result, {name: outcome for name, outcome, _ in steps.rows}


def failed_at(toy: RetrainToy, step: str) -> None:
    """Retrain here; a step fails."""
    with locked(toy.root), short(), pytest.raises(StageFailed, match=f"{step}: failed"):
        retrain_here(toy.root, FailingSteps(step), False, None, False)


def started(toy: RetrainToy, die_at: str = "") -> subprocess.Popen[str]:
    """Retrain in a process of its own, which kills itself at a step if told so."""
    code = (
        "import sys; from pathlib import Path; import retrain_repository as r\n"
        "with r.locked(Path()), r.short():\n"
        "    r.retrain_here(Path.cwd(), r.PlainSteps(sys.argv[1]), False, None, False)"
    )
    places = [CODE, *Path(__file__).parents[:2]]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, die_at], cwd=toy.root, env=env, **pipes)


def killed_at(toy: RetrainToy, step: str) -> None:
    """Retrain in a process that is killed at a step."""
    with started(toy, step) as process:
        output, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, (process.returncode, output, errors)


class Killed(BaseException):
    """Stands for KILL."""


def killed_before_it_forgets(toy: RetrainToy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retrain, killed when all is in place, while the record of what was decided still stands."""

    def killed(root: Path, name: str) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("flows.retrain_run.drop_record", killed)
        retrained(toy)


def params(toy: RetrainToy, values: Mapping[str, str]) -> None:
    """Change parameters, and commit that."""
    path = toy.root / "params.yaml"
    text = path.read_text()
    for old, new in values.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    toy.git("commit", "-qm", "params", "--", "params.yaml")
