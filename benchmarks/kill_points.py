"""Is a training that was interrupted the same as one that was not? Kills it hundreds of times.

    python benchmarks/kill_points.py run  --state STATE [--points 216] [--minutes M]
    python benchmarks/kill_points.py page --state STATE [--write]   # docs/reliability.md

Each point is a training by `tasks.train` as a process of its own that gets INT, TERM or KILL, it
and its loader workers alike, at a random instant or at a place in it (`kill_traps.PLACES`); then
the same training again, which must end with the uninterrupted one's weights, bit for bit. What a
point showed is a line appended to STATE; one that has its line is not tried again. The processes
are forked from this one, where torch has been imported but not used, so that a start costs little.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from data_helpers import make_store  # noqa: E402

import tasks.train  # noqa: E402
from benchmarks.kill_traps import AMID_FILES, PLACES, count_places, set_trap  # noqa: E402
from benchmarks.run_and_page import add_line, read_lines, run_and_page  # noqa: E402
from components.files import is_whole  # noqa: E402
from components.training.settings import TrainSettings  # noqa: E402
from tasks.stage import main as stage_main  # noqa: E402

SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "KILL": signal.SIGKILL}
NUM_WORKERS = (0, 2)
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
PATIENCE = 300  # seconds until a process counts as hung
DETECTION = {
    **{"scale": [0.6, 1.0], "hsv": [0.02, 0.1, 0.1], "mosaic": 0.5, "mixup": 0.5, "degrees": 5},
    **{"multi_scale": 1, "multi_scale_every": 2, "plain_epochs": 1},
}
KINDS: dict[str, dict[str, Any]] = {
    "classification": {
        "backbone": "mobilenetv3_small_050",
        "scheduler": "plateau",
        "freeze_epochs": 1,
        "classifier": {"head_dropout": 0.2, "mixup_alpha": 0.5, "balanced_sampling": True},
    },
    "fcos": {
        "backbone": "mobilenetv3_small_050",
        "detector": {"fpn_channels": 32, "head_num_convs": 1},
        "augment": DETECTION,
    },
    "yolox": {"backbone": "yolox-nano", "augment": DETECTION, "scheduler": "yolox"},
}
TRAIN = {
    **{"epochs": 3, "batch_size": 4, "pretrained": False, "num_threads": 1, "ema_decay": 0.9},
    **{"warmup_epochs": 0, "average_best": 3},
}


@dataclass(frozen=True)
class Point:
    """One interruption.

    Attributes:
        kind: of model.
        num_workers: of the interrupted training; the one that goes on has the other number when
            `chain` is more than 1.
        number: name of the signal.
        place: where; `any` for a random instant.
        share: how far: of the uninterrupted training's time, or of the calls of that place.
        minutes: `train.checkpoint_minutes`.
        chain: interruptions in a row, at the same share of what is left.
    """

    kind: str
    num_workers: int
    number: str
    place: str
    share: float
    minutes: float
    chain: int = 1


def points(count: int, seed: int) -> list[Point]:
    """The points to try: first each place with each signal, model and number of workers."""
    rng = random.Random(seed)
    combos = [(kind, workers) for kind in KINDS for workers in NUM_WORKERS]
    forced = [
        # How often files are written hangs on the clock, unless a checkpoint is due at every step.
        Point(
            kind,
            workers,
            name,
            place,
            rng.random(),
            0 if place in AMID_FILES else rng.choice([0, 2]),
        )
        for place in PLACES
        for name in SIGNALS
        for kind, workers in combos
    ]
    rng.shuffle(forced)
    instants: list[Point] = []
    while len(instants) < max(count - len(forced), count // 4):
        for kind, workers in combos:
            for name in SIGNALS:
                minutes, chain = rng.choice([0, 2]), rng.choice([1, 1, 3])
                instants.append(Point(kind, workers, name, "any", rng.random(), minutes, chain))
    instants = rng.sample(instants, len(instants))[: max(count - len(forced), count // 4)]
    chosen = forced[: count - len(instants)] + instants
    return rng.sample(chosen, len(chosen))


def prepare(folder: Path) -> None:
    """Small prepared stores, one a task."""
    for task in ("classification", "detection"):
        if not (folder / task).exists():
            make_store(folder / task, task, num_images=40)


def workspace(folder: Path, data: Path, point: Point) -> Path:
    """A folder as `tasks.train` wants its working directory."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    task = "classification" if point.kind == "classification" else "detection"
    (folder / "data/prepared").symlink_to(data / task)
    write_params(folder, point, point.num_workers)
    return folder


def write_params(folder: Path, point: Point, num_workers: int) -> None:
    """The parameters of a training of this point."""
    task = "classification" if point.kind == "classification" else "detection"
    train = {**TRAIN, **KINDS[point.kind], "num_workers": num_workers}
    train["checkpoint_minutes"] = point.minutes
    if "allow_trivial" in TrainSettings.model_fields:
        train["allow_trivial"] = True  # six steps teach nothing
    tree = {"base": {"task": task, "data": "data/raw"}, "train": train}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))


class Training:
    """`tasks.train` in a forked process, in a session of its own.

    Args:
        folder: working directory; what it prints goes to `log` there.
        before, after: called in the process first and, if it was not killed, last.
    """

    def __init__(
        self,
        folder: Path,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ):
        self.log = folder / "log"
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become_training(folder, self.log, before, after)

    def signal(self, number: int) -> None:
        """To the process and all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def ended(self) -> int | None:
        """The exit status as a shell gives it, or None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            if time.monotonic() - self.started > PATIENCE:
                self.signal(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"a training hangs; its last words: {self.words()[-500:]}")
            return None
        self.seconds = time.monotonic() - self.started
        self.signal(signal.SIGKILL)  # workers whose owner was killed
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code

    def wait(self, until: float = float("inf")) -> int | None:
        """As `ended`, but waits so many seconds after the start."""
        while True:
            status = self.ended()
            if status is not None or time.monotonic() - self.started > until:
                return status
            time.sleep(0.002)

    def words(self) -> str:
        """What it said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _become_training(
    folder: Path, log: Path, before: Callable[[], None], after: Callable[[], None]
) -> None:
    status = 1
    try:  # from the first line on: nothing may get back into the harness, whenever the signal comes
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        # A harness that is killed leaves no training behind.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder)
        before()
        status = stage_main("train", None, tasks.train.train, [], tasks.train.finish)
    except SystemExit as end:
        status = int(end.code or 0)
    except KeyboardInterrupt:
        status = 130  # as a shell tells of it
    except BaseException:  # noqa: BLE001 - this process must not return into the harness
        import traceback

        traceback.print_exc()
    finally:
        after()
        gc.collect()  # loaders end their workers
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def outcome(folder: Path) -> dict[str, str]:
    """SHA-256 of what a training leaves."""
    files = {"weights": "models/trained/weights.safetensors", "curves": "plots/train.csv"}
    return {
        name: hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for name, file in files.items()
    }


def uninterrupted(work: Path, data: Path, point: Point) -> dict[str, Any]:
    """What a training without interruption gives: its outcome, seconds and calls by place."""
    folder = workspace(work / "whole", data, point)
    counts: dict[str, int] = {}

    def counting() -> None:
        nonlocal counts
        counts = count_places()

    def tell() -> None:
        (folder / "places.json").write_text(json.dumps(counts))

    training = Training(folder, counting, tell)
    if training.wait() != 0:
        raise RuntimeError(training.words())
    places = json.loads((folder / "places.json").read_text())
    return {"outcome": outcome(folder), "seconds": training.seconds, "places": places}


def attempt(work: Path, data: Path, point: Point, whole: dict[str, Any]) -> dict[str, Any]:
    """Interrupt a training and let it go on.

    Returns:
        `status` (exit statuses), `checkpoints` found after each interruption, and `wrong`, a list
        of what is not as it must be.
    """
    folder = workspace(work / "cut", data, point)
    wrong, statuses, found = [], [], []
    for turn in range(point.chain):
        if point.place == "any":
            training = Training(folder)
            status = training.wait(0.97 * point.share * whole["seconds"] * (1 - turn / 4))
            if status is None:
                training.signal(SIGNALS[point.number])
        else:
            call = int(point.share * whole["places"][point.place])
            number = SIGNALS[point.number]
            training = Training(folder, partial(set_trap, point.place, call, number))
            status = None
        status = training.wait() if status is None else status
        statuses.append(status)
        # A signal behind the last step may come when there is nothing left to stop.
        if status not in (0, 128 + SIGNALS[point.number]):
            wrong.append(f"exit status {status}: {training.words()[-1500:]}")
        files = list(folder.glob(".resume/*/[0-9]*.ckpt"))
        found.append(len(files))
        for file in files:
            if not is_whole(file, file.name.split("-")[0] + "-", ".ckpt"):
                wrong.append(f"{file.name} is damaged")
        if point.chain > 1:
            write_params(folder, point, NUM_WORKERS[turn % 2])
    training = Training(folder)
    status = training.wait()
    if status != 0 or "damaged" in training.words():
        wrong.append(f"went on with status {status}: {training.words()[-1500:]}")
    elif outcome(folder) != whole["outcome"]:
        wrong.append("other weights, or other curves")
    if (folder / ".resume").exists() or list(folder.glob("**/.*.part")):
        wrong.append("leftovers: " + ", ".join(map(str, folder.glob("**/.*"))))
    return {"status": statuses, "checkpoints": found, "wrong": wrong}


def run(args: argparse.Namespace) -> int:
    """Try the points that have no line yet; 1 if any showed something wrong."""
    started = time.monotonic()
    done = {json.dumps(line["point"]) for line in read_lines(args.state)}
    todo = [p for p in points(args.points, args.seed) if json.dumps(asdict(p)) not in done]
    os.environ["WANDB_MODE"] = "disabled"
    failures = 0
    with tempfile.TemporaryDirectory(prefix="kill-points-") as name:
        work, data = Path(name), Path(name) / "stores"
        prepare(data)
        wholes: dict[tuple[str, int, float], dict[str, Any]] = {}
        for number, point in enumerate(todo):
            if time.monotonic() - started > 60 * args.minutes:
                print(f"{len(todo) - number} points are left for another time")
                break
            combo = (point.kind, point.num_workers, point.minutes)
            if combo not in wholes:
                wholes[combo] = uninterrupted(work, data, point)
            whole = wholes[combo]
            for other in wholes:
                if other[0] == point.kind and wholes[other]["outcome"] != whole["outcome"]:
                    raise RuntimeError(f"{point.kind}: the number of workers changes the weights")
            result = attempt(work, data, point, whole)
            failures += bool(result["wrong"])
            line = {"point": asdict(point), **result, "sha256": whole["outcome"]["weights"]}
            add_line(args.state, line)
            shown = "  ".join(str(value) for value in asdict(point).values())
            print(f"{number + 1}/{len(todo)}  {shown}  {result}", flush=True)
    return 1 if failures else 0


def main() -> int:
    """Command line; see the module's text."""
    parser, running = run_and_page(__doc__, "docs/reliability.md")
    running.add_argument("--points", type=int, default=216)
    running.add_argument("--seed", type=int, default=0, help="of places and instants")
    args = parser.parse_args()
    if args.command == "run":
        return run(args)
    from benchmarks.kill_points_page import write_page

    write_page(read_lines(args.state), args.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
