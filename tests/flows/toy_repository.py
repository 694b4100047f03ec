"""A toy repository with the real stage names, whose stages do what a test tells them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from waiting import wait_until

from tasks.layout import STAGES

CODE = Path(__file__).parents[2]

# A stage does what its input file says.
STAGE = """
import json, pathlib, signal, subprocess, sys, time

def main(stage, mode, *rest):
    if mode == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)
    if mode == "child":
        time.sleep(300)
    print("working on", stage, flush=True)
    if mode == "fail":
        sys.exit(f"error: {stage}: params.yaml: 1 error\\n  train.lr = -1: must be above 0")
    if mode == "crash":
        raise RuntimeError("a defect")
    if mode == "hang":
        start = [sys.executable, __file__, stage]
        subprocess.Popen([*start, "child", *rest])
        subprocess.Popen([*start, "child", *rest], start_new_session=True)
        if "stubborn" in rest:
            subprocess.Popen([*start, "stubborn", *rest], start_new_session=True)
        print("hanging", flush=True)
        time.sleep(300)
    if mode == "leave":
        subprocess.Popen([sys.executable, __file__, stage, "child"], start_new_session=True)
    pathlib.Path("out").mkdir(exist_ok=True)
    pathlib.Path("metrics").mkdir(exist_ok=True)
    pathlib.Path(f"out/{stage}.txt").write_text(mode)
    figures = dict(
        num_images=12, num_classes=2, num_errors=0, num_warnings=1, num_quarantined=0,
        num_train=8, num_val=2, num_test=2, best_epoch=9, num_epochs=10,
        monitor="val/map", best=0.7123, map=0.5, map_50=0.8, split="test", megabytes=1.5,
        latency_ms_p50=3.0, num_parity_images=4,
        page="reports/index.html",
    )
    pathlib.Path(f"metrics/{stage}.json").write_text(json.dumps(figures))

if len(sys.argv) > 2:
    main(*sys.argv[1:])
else:
    main(sys.argv[1], *pathlib.Path(f"inputs/{sys.argv[1]}.txt").read_text().split())
"""


@dataclass
class Toy:
    """A repository in `root` whose stages do what they are told."""

    root: Path

    def tell(self, stage: str, mode: str) -> None:
        """Change the input of a stage: `ok`, `fail`, `crash`, `hang`, `leave`."""
        (self.root / "inputs" / f"{stage}.txt").write_text(mode)

    def processes(self) -> list[psutil.Process]:
        """Every process at work in the repository, a flow's own included, except this one."""
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.pid != os.getpid()
                    and process.status() != psutil.STATUS_ZOMBIE
                    and Path(process.cwd()).is_relative_to(self.root)
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def commands(self) -> list[list[str]]:
        """What the processes at work here have been called with."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):  # it may end this very moment
                found.append(process.cmdline())
        return found

    def runs(self, word: str) -> bool:
        """Whether a process at work here has been called with a word."""
        return any(word in words for words in self.commands())

    def wait_until(self, true: Callable[[], object]) -> None:
        """Wait for something to come true; where it does not, say what is at work."""
        wait_until(true, self.commands)


def make_toy(root: Path) -> Toy:
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\nanalytics = false\ncheck_update = false\n")
    (root / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n")
    (root / "inputs").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    toy = Toy(root)
    stages = {}
    for stage in STAGES:
        toy.tell(stage, "ok")
        stages[stage] = {
            "cmd": f"python stage.py {stage}",
            "deps": ["stage.py", f"inputs/{stage}.txt"],
            "outs": [f"out/{stage}.txt"],
            "metrics": [{f"metrics/{stage}.json": {"cache": False}}],
        }
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (root / "stage.py").write_text(STAGE)
    return toy


@dataclass
class Command:
    """Runs `python -m flows.pipeline` in a toy repository."""

    toy: Toy
    server: str | None

    def start(self, *args: str) -> subprocess.Popen[str]:
        env = dict(os.environ)
        env.pop("PREFECT_API_URL", None)
        if self.server is not None:
            env["PREFECT_API_URL"] = self.server
        return subprocess.Popen(
            [sys.executable, "-m", "flows.pipeline", *args],
            cwd=self.toy.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        with self.start(*args) as process:
            output, errors = process.communicate(timeout=600)
        return subprocess.CompletedProcess(args, process.returncode, output, errors)
