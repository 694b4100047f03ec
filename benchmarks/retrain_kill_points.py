"""Does a retraining that is killed anywhere leave all in order, and does the next one complete?

    python benchmarks/retrain_kill_points.py run  --state STATE [--points 120] [--minutes M]
    python benchmarks/retrain_kill_points.py page --state STATE [--write]   # docs/reliability.md

Each point is `python -m flows.retrain` (or, for the worker's points, `python -m flows.serve`) with
a Prefect server, in a copy of a small repository (`tests/flows/retrain_repository.py`): git, DVC
with a remote, registry, batches and Prefect are the real ones, stages and gate are quick. One run
that nobody disturbs records every place (`retrain_kill_traps`); a point stops a process at one of
them, and there KILL goes to the flow, to the process itself, to all at once (as when the machine
goes down), to the worker or to the server. Then the state is looked at, and the next run must
complete with the undisturbed one's version. What a point showed is a line appended to STATE; one
that has its line is not tried again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "flows")]

from retrain_repository import RetrainToy, make_retrain_toy, retrained  # noqa: E402

from benchmarks.prefect_server import PrefectServer  # noqa: E402
from benchmarks.retrain_kill_traps import FOLDER, TRAP  # noqa: E402
from benchmarks.run_and_page import add_line, read_lines, run_and_page  # noqa: E402
from components.files import read_json, write_json  # noqa: E402
from flows.process_guard import GUARD_DEADLINE  # noqa: E402
from tasks.model_registry import Registry, Version, model_in  # noqa: E402
from tasks.repository import dvc, git  # noqa: E402

STEPS = (
    *("start", "merge", "data", "train", "export", "gate"),
    *("commit", "push", "register", "promote", "publish"),
)
EARLY = STEPS[:3]
PATIENCE = 600  # seconds until a run counts as hung
GIT_DELAYS = (0.0, 0.002, 0.005, 0.01)  # a git command takes a few milliseconds
TIDY_SECONDS = 3 * GUARD_DEADLINE  # the machine may be busy


@dataclass(frozen=True)
class Point:
    """One kill.

    Attributes:
        step: of the flow.
        process, occurrence, event: where: the so-many-th event of the so-many-th such process.
        target: who gets KILL: `flow`, `process` (that is there), `all`, `worker`, `server`.
        delay: seconds between the place and KILL: a git command has been started there.
    """

    step: str
    process: str
    occurrence: int
    event: int
    target: str
    delay: float = 0.0


def points(places: list[dict[str, Any]], count: int, seed: int) -> list[Point]:
    """The points to try: the same number in each step, of every kind of place there is."""
    rng = random.Random(seed)
    queues = []
    for step in STEPS:
        kinds: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for place in places:
            if place["step"] == step:
                about = place["what"] if place["kind"] == "start" else Path(place["what"]).suffix
                kinds.setdefault((place["process"], place["kind"], about), []).append(place)
        chosen = [rng.choice(group) for group in rng.sample(list(kinds.values()), len(kinds))]
        queues.append(iter(chosen))
    found: list[Point] = []
    while queues and len(found) < count:
        for queue in list(queues):
            try:
                place = next(queue)
            except StopIteration:
                queues.remove(queue)
                continue
            in_flow = place["process"] == "flow"
            targets = ["flow", "all", "all"] if in_flow else ["flow", "process", "all"]
            # A sixth of the points strikes what stands behind the flow.
            target = rng.choice(["worker", "server"] if rng.random() < 1 / 6 else targets)
            is_git = place["kind"] == "start" and place["what"].startswith("git")
            delay = rng.choice(GIT_DELAYS) if is_git and target == "all" else 0.0
            where = (place["step"], place["process"], place["occurrence"], place["event"])
            found.append(Point(*where, target, delay))
    return found[:count]


def prepare(base: Path, batch: bool) -> None:
    """The repository that a point begins with: a champion, and a better model to come.

    Args:
        base: folder for it and its remote.
        batch: whether a batch has arrived, too.
    """
    toy = make_retrain_toy(base / "repo")
    dvc(toy.root, "remote", "add", "--quiet", "-d", "store", "../remote")
    toy.git("commit", "-qam", "remote")
    assert retrained(toy)[0]["version"] == "v1.0.0"
    toy.commit("0.7")
    if batch:
        toy.batch("new", range(20, 22))
    # The user is at work, too.
    (toy.root / "new.txt").write_text("not tracked")
    (toy.root / "inputs/export.txt").write_text("changed, not committed")


class Place:
    """A copy of the repository with what surrounds it, for one point.

    Args:
        folder: to hold it.
        base: what to copy; None: it is there.
        server: URL of the Prefect server.
    """

    def __init__(self, folder: Path, base: Path | None, server: str) -> None:
        self.folder, self.toy = folder, RetrainToy(folder / "repo")
        if base is not None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(base, folder, symlinks=True)
        self.fresh()
        (folder / "site").mkdir(exist_ok=True)
        text = "from benchmarks.retrain_kill_traps import set_up\n\nset_up()\n"
        (folder / "site/sitecustomize.py").write_text(text)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PREFECT_"))},
            **{"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{ROOT}", FOLDER: str(folder)},
            **{"PREFECT_API_URL": server, "PREFECT_HOME": str(folder.parent / "prefect-client")},
            **{"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"},
            **{"WANDB_MODE": "offline", "DVC_SITE_CACHE_DIR": str(folder / "dvc-site")},
        }

    def fresh(self) -> None:
        """Forget what the processes of a run have left for the harness."""
        for name in ("struck", "go", "step", "events.jsonl", "struck.part"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "seen", ignore_errors=True)
        (self.folder / "seen").mkdir()

    def start(self, words: Sequence[str], trap: dict[str, Any] | None) -> subprocess.Popen[bytes]:
        """Start a module in the repository; what it prints goes to `log`.

        Args:
            words: module and arguments.
            trap: where to stop; an empty one: nowhere; None: nowhere, and all places are recorded.
        """
        env = self.env if trap is None else {**self.env, TRAP: json.dumps(trap)}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=self.toy.root,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def words(self) -> str:
        """What the commands have printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """Every process of this point, wherever it has gone to."""
        mark, found = f"{FOLDER}={self.folder}\0".encode(), []
        for process in psutil.process_iter():
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
                if mark in environment + b"\0" and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def kill_all(self) -> None:
        """End all processes of this point, as a machine that goes down does."""
        while processes := self.processes():
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in processes:
                    with _gone_already():
                        process.send_signal(number)

    def orphans(self) -> list[str]:
        """Processes that are still there when the guards have had their time."""
        deadline = time.monotonic() + TIDY_SECONDS
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [" ".join(_cmdline(process)[:8]) for process in left]


class _gone_already:
    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, psutil.Error | ProcessLookupError)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return [Path(word).name for word in process.cmdline()]
    except psutil.Error:
        return []


def production(root: Path) -> Version | None:
    """The version in production."""
    return Registry(root).in_stage()


def whole_outputs(root: Path, commit: str, store: Path) -> list[str]:
    """What a commit names and a DVC store (cache or remote) has not, or has damaged."""
    wrong = []
    lock = yaml.safe_load(git(root, "show", f"{commit}:dvc.lock"))
    data = yaml.safe_load(git(root, "show", f"{commit}:data/raw.dvc"))
    outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
    wanted = [out["md5"] for out in [*outs, *data["outs"]] if out.get("cache", True)]
    metrics = {out["md5"] for out in outs if out["path"].startswith("metrics/")}
    for md5 in [name for name in wanted if name not in metrics]:
        path = store / "files/md5" / md5[:2] / md5[2:]
        if not path.exists():
            wrong.append(f"{md5} of {commit[:7]} is not in {store.name}")
            continue
        content = path.read_bytes()
        if hashlib.md5(content).hexdigest() != md5.removesuffix(".dir"):
            wrong.append(f"{md5} of {commit[:7]} is damaged in {store.name}")
        elif md5.endswith(".dir"):
            for item in json.loads(content):
                inner = store / "files/md5" / item["md5"][:2] / item["md5"][2:]
                if not inner.exists():
                    wrong.append(f"{item['relpath']} of {commit[:7]} is not in {store.name}")
    return wrong


def standing(place: Place) -> dict[str, Any]:
    """What must be the same after all as after a run that nobody disturbed."""
    root = place.toy.root
    version = production(root)
    assert version is not None
    registry = Registry(root)
    model = model_in(
        registry.at(version.commit, "dvc.yaml"), registry.at(version.commit, "dvc.lock"), "it"
    )
    return {
        "versions": [found.name for found in registry.versions()],
        "production": version.name,
        "model": model[1],
        "data": registry.at("retrain", "data/raw.dvc")["outs"][0]["md5"],
        "user": f"{git(root, 'status', '--porcelain')}\n{git(root, 'rev-parse', 'HEAD')}\n",
    }


def faults(place: Place, champions: Sequence[str]) -> list[str]:
    """What is not in order right after a kill; the next run has not begun."""
    root = place.toy.root
    wrong = [f"orphan: {words}" for words in place.orphans()]
    version = production(root)
    if version is None or version.name not in champions:
        wrong.append(f"champion: {version and version.name}, not {' or '.join(champions)}")
    for found in Registry(root).versions():
        wrong += whole_outputs(root, found.commit, place.folder / "remote")
    for path in (root / ".dvc/tmp").glob("*.lock"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wrong.append(f"lock: {path.name} is held")
    damaged = subprocess.run(
        ["git", "fsck", "--connectivity-only", "--no-dangling"], cwd=root, capture_output=True
    )
    if damaged.returncode != 0:
        wrong.append(f"git fsck: {damaged.stderr.decode()[-300:]}")
    return wrong


def wait(process: subprocess.Popen[bytes], place: Place) -> int:
    """Exit status of a command.

    Raises:
        TimeoutError: it hangs; all processes of the point are ended.
    """
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        place.kill_all()
        raise TimeoutError(f"hangs: {place.words()[-500:]}") from None


def strike(
    place: Place, point: Point, server: PrefectServer, process: subprocess.Popen[bytes]
) -> dict[str, Any] | None:
    """Wait for the trap, and kill; None: the run ended before it got there."""
    started = time.monotonic()
    while not (place.folder / "struck").exists():
        if time.monotonic() - started > PATIENCE:
            raise TimeoutError(f"never got there: {place.words()[-500:]}")
        # A worker does not end, but it has nothing to do any more.
        idle = (place.toy.root / ".dvc/tmp/retrain/done.json").exists() and _promoted(place)
        if process.poll() is not None or (point.target == "worker" and idle):
            return None
        time.sleep(0.05)
    struck: dict[str, Any] = read_json(place.folder / "struck")
    if point.delay:
        (place.folder / "go").touch()
        time.sleep(point.delay)
    if point.target == "all":
        place.kill_all()
    elif point.target == "server":
        server.kill()
    else:
        names: dict[str, tuple[str, ...]] = {}
        names["flow"] = ("flows.retrain", "prefect.engine", "prefect.flow_engine")
        names["worker"] = ("flows.serve",)
        for process in place.processes():
            if point.target == "process":
                hit = process.pid == struck["pid"]
            else:
                hit = any(word in names[point.target] for word in _cmdline(process))
            if hit:
                with _gone_already():
                    process.kill()
    (place.folder / "go").touch()
    return struck


def _promoted(place: Place) -> bool:
    tag = "model#production#2"
    worktrees = place.toy.root / ".dvc/tmp/retrain/tree"  # the folder itself stays, empty
    promoted = (place.toy.root / ".git/refs/tags" / tag).exists()
    return promoted and not list(worktrees.glob("*"))


def attempt(
    place: Place, point: Point, server: PrefectServer, whole: dict[str, Any]
) -> dict[str, Any]:
    """Kill a retraining at a point, look, and let the next one run.

    Returns:
        `reached`, `what` was about to happen, `status` of the killed run and of the next one, and
        `wrong`, a list of what is not as it must be.
    """
    served = point.target == "worker"
    words = ["flows.serve", "--every", "4"] if served else ["flows.retrain", "--quiet"]
    trap = {"process": point.process, "occurrence": point.occurrence, "event": point.event}
    wrong: list[str] = []
    process = place.start(words, trap)
    struck = strike(place, point, server, process)
    if struck is None and served:
        process.terminate()
    if point.target == "server":
        # It comes back after a while, as a service manager would have it.
        time.sleep(2)
        server.start()
    status = wait(process, place)
    # Where the flow outlives the kill (a server's, or what it does again), it may well complete.
    # So it may after a worker's, which it learns of a moment later.
    late = STEPS.index(point.step) >= STEPS.index("promote") or status == 0 or struck is None
    late = late or (served and STEPS.index(point.step) >= STEPS.index("push"))
    wrong += faults(place, ["v1.0.0", "v1.1.0"] if late else ["v1.0.0"])
    place.kill_all()
    place.fresh()
    if served:
        process = place.start(words, {})
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None and not _promoted(place):
            time.sleep(0.5)
        process.terminate()
        second = wait(process, place)
        # TERM may come before it serves, where the version was there already.
        if second not in (143, -signal.SIGTERM):
            wrong.append(f"the next worker ended with {second}")
    else:
        second = wait(place.start(words, {}), place)
        if second != 0:
            wrong.append(f"the next run ended with status {second}")
    wrong += [f"orphan: {name}" for name in place.orphans()]
    if (now := standing(place)) != whole:
        wrong.append(f"other outcome: {now}, not {whole}")
    wrong += [f"left: {name}" for name in place.toy.traces()]
    locks = place.toy.root / ".dvc/tmp/rwlock"
    if locks.exists() and any(read_json(locks).values()):
        wrong.append("DVC's rwlock has entries")
    wrong += faults(place, ["v1.1.0"])
    result = {"reached": struck is not None, "what": (struck or {}).get("what", "")}
    if wrong:
        wrong.append(place.words()[-2500:])
    return {**result, "status": [status, second], "wrong": wrong}


def record(base: Path, batch: bool, url: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run that nobody disturbs: what it leads to, and all places there were in it."""
    if not (base / "whole.json").exists():
        shutil.rmtree(base, ignore_errors=True)
        prepare(base, batch)
        place = Place(base.with_name("whole"), base, url)
        if wait(place.start(["flows.retrain", "--quiet"], None), place) != 0:
            raise RuntimeError(place.words())
        places = [json.loads(x) for x in (place.folder / "events.jsonl").read_text().splitlines()]
        write_json(base / "places.json", places)
        write_json(base / "whole.json", standing(place))
    return read_json(base / "whole.json"), read_json(base / "places.json")


def run(args: argparse.Namespace) -> int:
    """Try the points that have no line yet; 1 if any showed something wrong."""
    started = time.monotonic()
    done = {json.dumps(line["point"]) for line in read_lines(args.state)}
    work = args.work or Path(tempfile.mkdtemp(prefix="retrain-kill-points-"))
    work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "DO_NOT_TRACK": "1"}
    server = PrefectServer(work / "server")
    lock = threading.Lock()
    failures: list[Point] = []

    def try_one(number: int, point: Point) -> None:
        if time.monotonic() - started > 60 * args.minutes:
            return
        folder = work / f"point-{number}"
        own = server
        try:
            # A worker's schedule stays with its server, and would start runs for points to come.
            if point.target in ("server", "worker"):
                shutil.copytree(base_home, folder.with_name(f"server-{number}"), dirs_exist_ok=True)
                own = PrefectServer(folder.with_name(f"server-{number}"))
            kind = "batch" if point.step in EARLY else "plain"
            place = Place(folder, bases[kind], own.url)
            try:
                result = attempt(place, point, own, known[kind][0])
            except (TimeoutError, RuntimeError) as error:
                place.kill_all()
                result = {"reached": True, "what": "", "status": [], "wrong": [str(error)]}
        finally:
            if own is not server:
                own.kill()
                shutil.rmtree(own.home, ignore_errors=True)
        with lock:
            if result["wrong"]:
                failures.append(point)
            else:
                shutil.rmtree(folder)
            add_line(args.state, {"point": asdict(point), **result})
            shown = "  ".join(str(value) for value in asdict(point).values())
            print(f"{number + 1}/{len(todo)}  {shown}  {result}", flush=True)

    try:
        bases = {"batch": work / "with-batch", "plain": work / "without-batch"}
        known = {name: record(base, name == "batch", server.url) for name, base in bases.items()}
        # A batch costs a run as much as all else; only the first steps need one.
        places = [place for place in known["batch"][1] if place["step"] in EARLY]
        places += [place for place in known["plain"][1] if place["step"] not in EARLY]
        base_home = work / "server-base"
        if not base_home.exists():
            PrefectServer(base_home).kill()
        todo = [
            p
            for p in points(places, args.points, args.seed)
            if json.dumps(asdict(p)) not in done and p.step in (args.step or STEPS)
        ]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(try_one, range(len(todo)), todo))
    finally:
        server.kill()
        if not args.work and not failures:
            shutil.rmtree(work)
    return 1 if failures else 0


def main() -> int:
    """Command line; see the module's text."""
    parser, running = run_and_page(__doc__, "docs/reliability.md")
    running.add_argument("--points", type=int, default=120)
    running.add_argument("--seed", type=int, default=0, help="of places and targets")
    running.add_argument("--jobs", type=int, default=1, help="points at a time")
    running.add_argument("--step", nargs="*", choices=STEPS, help="only these")
    running.add_argument("--work", type=Path, help="folder that keeps the prepared repository")
    args = parser.parse_args()
    if args.command == "run":
        return run(args)
    from benchmarks.retrain_kill_page import write_section

    write_section(read_lines(args.state), args.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
