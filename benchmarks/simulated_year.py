"""A year of scheduled retraining in an hour: 52 batches, good and bad, and what became of them.

    python benchmarks/simulated_year.py run   --work FOLDER [--weeks 52] [--minutes M]
    python benchmarks/simulated_year.py check --work FOLDER      # makes versions again, from tags
    python benchmarks/simulated_year.py page  --work FOLDER [--write]      # docs/simulated-year.md

The scheduler (`flows.serve --every`) and Prefect's server (on loopback) are the real ones, and so
are batches' checks, `validate`, `preprocess`, gate, registry, git and DVC with a remote. Only the
model is small: a linear classifier of handwritten digits, fitted within a second, written as ONNX.
Each week a batch arrives; the next scheduled run deals with it; an operator takes a refused batch
away. 400 images that no run sees measure the champion after every week. Weeks that are done stand
in FOLDER/weeks.jsonl, versions that were made again in FOLDER/versions.jsonl; the commands go on
behind them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.prefect_server import PrefectServer  # noqa: E402
from benchmarks.run_and_page import add_line, read_lines, run_and_page  # noqa: E402
from components.contract.accepted_splits import AcceptedSplits  # noqa: E402
from components.files import read_json  # noqa: E402
from tasks.model_registry import Registry, Version  # noqa: E402
from tasks.repository import dvc, git  # noqa: E402

BOUND = 0.03  # the champion's accuracy on the hidden images never falls by more in a week
EVERY_SECONDS = 10
PATIENCE = 1800
STOP_SECONDS = 60
WEEKS, VERSIONS = "weeks.jsonl", "versions.jsonl"
SIZE = 32
NUM_HIDDEN, NUM_TEST, NUM_VAL, NUM_FIRST, NUM_BATCH = 400, 300, 60, 80, 15
NUM_LEAKING = 4
# Of the images gathered so far: a worse batch of a fixed size costs less the more there are.
WORSE_SHARE = 0.25
# What is not good, by week; `worse` passes all checks of the data. Of a leaking batch, images of
# the test split are left out, and the others are taken.
_REFUSED = ("corrupt", "mislabelled", "drifted")
BAD = {
    **dict.fromkeys((4, 17, 30, 43), "corrupt"),
    **dict.fromkeys((7, 21, 38), "mislabelled"),
    **dict.fromkeys((10, 26, 47), "drifted"),
    **dict.fromkeys((2, 19, 35, 50), "leaking"),
    **dict.fromkeys((13, 32), "nothing"),
    **dict.fromkeys((6, 40), "worse"),
}
SEVERITY = {
    "contradictory-labels": "error",
    "contradictory-across-splits": "error",
    "near-duplicate-across-splits": "off",  # digits of 8 x 8 pixels look alike
    "drift-brightness": "error",
    "class-rare": "off",
}
LEARN = """
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from components.data.store import PreparedStore

store = PreparedStore.open(Path("data/prepared"))


def pixels(split):
    rows = store.rows(split)
    x = np.stack([store.image(row) for row in rows]).mean(-1).reshape(len(rows), -1) / 255
    return x, np.array([store.label(row) for row in rows])


x, y = pixels("train")
num_classes = len(store.info.classes)
weights, bias = np.zeros((x.shape[1], num_classes)), np.zeros(num_classes)
for _ in range(300):
    scores = x @ weights + bias
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    slope = (chances - np.eye(num_classes)[y]) / len(y)
    weights -= 0.1 * (x.T @ slope + 1e-3 * weights)
    bias -= 0.1 * slope.sum(0)
x, y = pixels("val")
accuracy = float(((x @ weights + bias).argmax(1) == y).mean())
Path("metrics").mkdir(exist_ok=True)
Path("metrics/train.json").write_text(json.dumps({"accuracy": round(accuracy, 4)}))
Path("models").mkdir(exist_ok=True)
weights, bias = weights.round(6).astype(np.float32), bias.round(6).astype(np.float32)
np.save("models/weights.npy", np.vstack([weights, bias]))
constants = {
    "weights": weights,
    "bias": bias,
    "shape": np.array([0, -1], dtype=np.int64),
    "axes": np.array([3], dtype=np.int64),
    "scale": np.array(1 / 255, dtype=np.float32),
}
nodes = [
    helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMean", ["values", "axes"], ["grey"], keepdims=0),
    helper.make_node("Reshape", ["grey", "shape"], ["flat"]),
    helper.make_node("Mul", ["flat", "scale"], ["scaled"]),
    helper.make_node("Gemm", ["scaled", "weights", "bias"], ["logits"]),
    helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
]
size = list(store.info.image_size)
images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *size, 3])
result = helper.make_tensor_value_info(
    "probabilities", TensorProto.FLOAT, ["batch", num_classes]
)
parts = [numpy_helper.from_array(value, name) for name, value in constants.items()]
graph = helper.make_graph(nodes, "linear", [images], [result], parts)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
about = {
    "task": "classification",
    "classes": json.dumps(list(store.info.classes)),
    "image_size": json.dumps(size),
    "resize": "crop",
    "crop_fraction": "1.0",
}
helper.set_model_props(model, about)
onnx.save(model, "models/model.onnx")
# What evaluate and export would have found, for the gate's parity rules.
x, y = pixels("test")
chosen = (x @ weights + bias).argmax(1)
tested = {"split": "test", "num_images": len(y), "accuracy": float((chosen == y).mean())}
Path("metrics/evaluate.json").write_text(json.dumps(tested))
megabytes = Path("models/model.onnx").stat().st_size / 1e6
exported = {"megabytes": megabytes, "num_parity_images": len(y), "max_score_difference": 0.0}
Path("metrics/export.json").write_text(json.dumps(exported))
print(f"train: {len(store.rows('train'))} images, accuracy {accuracy:.3f} on val")
"""
STAGES = ("validate", "preprocess", "train")
TRAIN: dict[str, Any] = {
    "cmd": "python learn.py",
    "deps": ["learn.py", "data/prepared"],
    "outs": ["models/model.onnx", "models/weights.npy"],
    "metrics": [
        {f"metrics/{name}.json": {"cache": False}} for name in ("train", "evaluate", "export")
    ],
}


@dataclass(frozen=True)
class Digits:
    """Handwritten digits in an order of chance, dealt out to what needs some."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @classmethod
    def load(cls) -> Digits:
        """scikit-learn's, 32 pixels wide."""
        from sklearn.datasets import load_digits

        found = load_digits()
        order = np.random.default_rng(0).permutation(len(found.target))
        small = (found.images[order] * 15.9).astype(np.uint8)
        large = small.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)
        return cls(large, found.target[order])

    def part(self, name: str, week: int = 0) -> range:
        """Which images a part has: `hidden`, `test`, `val`, `first`, or a week's `batch`."""
        sizes = {"hidden": NUM_HIDDEN, "test": NUM_TEST, "val": NUM_VAL, "first": NUM_FIRST}
        start = 0
        for part, size in sizes.items():
            if part == name:
                return range(start, start + size)
            start += size
        return range(start + NUM_BATCH * (week - 1), start + NUM_BATCH * week)

    def write(self, folder: Path, numbers: Sequence[int], labels: Sequence[int] = ()) -> None:
        """Images as files, a folder a class; with other labels where some are given."""
        for number, label in zip(numbers, labels or self.labels[list(numbers)], strict=True):
            place = folder / str(label) / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.images[number]).convert("RGB").save(place)


def kind_of(week: int) -> str:
    """What arrives in a week."""
    return BAD.get(week, "good")


def gathered(week: int) -> int:
    """Training images before a week, when all batches have become what they must."""
    taken = [before for before in range(1, week) if kind_of(before) in ("good", "leaking")]
    return NUM_FIRST + NUM_BATCH * len(taken)


def arrive(digits: Digits, week: int, incoming: Path) -> None:
    """Let the batch of a week arrive, unless it has, as a person would: copied, then renamed."""
    kind, rng = kind_of(week), random.Random(week)
    if kind == "nothing" or (incoming / f"week-{week:02}").exists():
        return
    draft, numbers = incoming / f".week-{week:02}", list(digits.part("batch", week))
    train = draft / "train"
    if kind == "drifted":
        pale = Digits((digits.images // 8 + 200).astype(np.uint8), digits.labels)
        pale.write(train, numbers)
    elif kind == "worse":  # each labelled as the digit after it
        numbers = list(range(len(digits.labels))[-round(WORSE_SHARE * gathered(week)) :])
        digits.write(train, numbers, [(int(digits.labels[n]) + 1) % 10 for n in numbers])
    else:
        digits.write(train, numbers)
    if kind == "mislabelled":  # images that are there, with other labels
        known = list(digits.part("first"))[:4]
        digits.write(train, known, [(int(digits.labels[n]) + 1) % 10 for n in known])
    if kind == "leaking":
        digits.write(train, list(digits.part("test"))[:NUM_LEAKING])
    if kind == "corrupt":
        victim = rng.choice(sorted(train.rglob("*.png")))
        victim.write_bytes(victim.read_bytes()[:90])
    draft.rename(incoming / f"week-{week:02}")


def stages() -> dict[str, Any]:
    """Of the year's `dvc.yaml`: this repository's own, but for `train`.

    They do not depend on the code, which lies beside the year's repository and stays as it is.
    """
    own = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    found = {name: own[name] for name in STAGES if name != "train"}
    for stage in found.values():
        code = ("tasks/", "components/")
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith(code)]
    return {**found, "train": TRAIN}


def prepare(root: Path, digits: Digits) -> None:
    """The repository at the beginning of the year: no version yet."""
    (root / "tasks").mkdir(parents=True)
    code = (ROOT / "tasks" / "layout.py").read_text().splitlines(keepends=True)
    names = f"STAGES = {STAGES!r}\n"
    layout = "".join(names if line.startswith("STAGES = ") else line for line in code)
    params = yaml.safe_load((ROOT / "examples/digits-classification.yaml").read_text())
    params["base"]["data"] = "data/raw"
    params["validate"] |= {"severity": SEVERITY, "num_workers": 1}
    params["preprocess"] |= {"image_size": SIZE, "num_workers": 1}
    params["gate"] |= {"min_gain": -0.03, "max_latency_ratio": 100, "class_drop": 0.2}
    files = {
        "tasks/__init__.py": f"__path__.append({str(ROOT / 'tasks')!r})\n",
        "tasks/layout.py": layout,
        "learn.py": LEARN,
        "params.yaml": yaml.safe_dump(params, sort_keys=False),
        "dvc.yaml": yaml.safe_dump(
            {"stages": stages(), "artifacts": {"model": {"path": "models/model.onnx"}}}
        ),
        ".gitignore": (ROOT / ".gitignore").read_text(),
        ".dvcignore": (ROOT / ".dvcignore").read_text(),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    AcceptedSplits().save(root / "accepted/splits.csv")
    for name in ("train", "val", "test"):
        digits.write(root / "data/raw" / name, digits.part("first" if name == "train" else name))
    (root / "data/incoming").mkdir()
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "year")
    git(root, "config", "user.email", "year@localhost")
    dvc(root, "init", "-q")
    dvc(root, "config", "core.analytics", "false")
    dvc(root, "remote", "add", "-q", "-d", "store", "../remote")
    dvc(root, "add", "-q", "data/raw")
    python(root, "tasks.validate")
    python(root, "tasks.accept")
    shutil.rmtree(root / "data/tables")
    git(root, "add", "-A", "--", ".")
    git(root, "commit", "-qm", "start")


def environment() -> dict[str, str]:
    """Of what runs our code: no account, nothing of the user's, this code."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PREFECT_"))}
    quiet = {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "WANDB_MODE": "disabled"}
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**kept, **quiet, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": here}


def python(root: Path, *words: str) -> str:
    """What a module prints."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment())
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def scheduler(
    root: Path, url: str, home: Path, *words: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`flows.serve` for the length of a block.

    Args:
        root: the repository.
        url: of Prefect's server.
        home: folder of Prefect's files, and of the log `serve.log`.
        words: of its command line, beside the schedule.
        variables: on top of `environment()`.
    """
    env = {**environment(), "PREFECT_API_URL": url, "PREFECT_HOME": str(home), **variables}
    env["PREFECT_RUNNER_POLL_FREQUENCY"] = "2"
    with (home / "serve.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--every", str(EVERY_SECONDS), *words],
            cwd=root,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        # As systemd does: asked first; a run that is at work then goes on for a while.
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def wait_for_run(server: PrefectServer, since: float) -> dict[str, Any]:
    """The first scheduled run that began after a moment, when it is over.

    Raises:
        TimeoutError: there was none.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        # The worker may take one up that was due before: what counts is when it began.
        begun = [r for r in server.flow_runs() if r["seconds"] > since]
        if begun and begun[-1]["state_type"] in ("COMPLETED", "FAILED", "CRASHED"):
            run: dict[str, Any] = begun[-1]
            return run
        time.sleep(2)
    raise TimeoutError("no scheduled run came to its end")


def accuracy(model: bytes, digits: Digits) -> float:
    """Of an ONNX file, on the images that no run sees."""
    import onnxruntime

    numbers = list(digits.part("hidden"))
    images = np.stack([digits.images[numbers]] * 3, axis=-1)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (chances,) = session.run(None, {"images": images})
    return float((chances.argmax(1) == digits.labels[numbers]).mean())


def model_of(root: Path, version: Version) -> bytes:
    """A version's model, from DVC's cache."""
    md5 = Registry(root).model_file(version.commit)[1]
    return (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_bytes()


def reproduced(work: Path, version: Version) -> list[str]:
    """What is not as it was when a version is made again from its tag, elsewhere."""
    root, copy = work / "repo", work / "again" / "repo"
    shutil.rmtree(copy.parent, ignore_errors=True)
    git(work, "clone", "-q", "--branch", f"model@{version.name}", str(root), str(copy))
    dvc(copy, "remote", "modify", "--local", "store", "url", str(work / "remote"))
    dvc(copy, "pull", "-q")
    wrong = []
    if changed := json.loads(dvc(copy, "status", "--json")):
        wrong.append(f"{version.name}: dvc status names {', '.join(changed)}")
    # Not by `tasks.repository`: its environment is the user's, and stages are to have the year's.
    told = python(copy, "dvc", "repro")
    wrong += [
        f"{version.name}: dvc repro runs {name} again"
        for name in STAGES
        if f"'{name}' didn't change" not in told
    ]
    before = {name: _sha256(copy / "models" / name) for name in ("model.onnx", "weights.npy")}
    python(copy, "dvc", "repro", "--force")
    for name, sha in before.items():
        if _sha256(copy / "models" / name) != sha:
            wrong.append(f"{version.name}: {name} has other bytes when it is made again")
    shutil.rmtree(copy.parent)
    return wrong


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def one_week(
    work: Path, digits: Digits, server: PrefectServer, week: int, before: float
) -> dict[str, Any]:
    """Let a week pass.

    Args:
        work: folder of everything.
        digits: all images.
        server: Prefect's.
        week: from 1; 0 is the first model.
        before: the champion's accuracy on the hidden images; 0 without one.

    Returns:
        `week`, `kind`, `state` of the run, `outcome`, `summary`, `refused` {batch: reason},
        `arrived`: images of the batch, `skipped`: images of the test split that were left out,
        `version` in production, `hidden` accuracy, `seconds`, and `wrong`: what must not be.
    """
    root, started = work / "repo", time.time()
    incoming = root / "data/incoming"
    done_file = root / ".dvc/tmp/retrain/done.json"
    if week:
        arrive(digits, week, incoming)
    run = wait_for_run(server, time.time())
    done = read_json(done_file)["result"] if done_file.exists() else {}
    if done_file.exists() and done_file.stat().st_mtime < started:
        done = {"outcome": "nothing new", "summary": "", "refused": {}}
    champion = Registry(root).in_stage()
    hidden = accuracy(model_of(root, champion), digits) if champion else 0.0
    kind = kind_of(week)
    report = root / ".dvc/tmp/retrain/last/reports/incoming" / f"week-{week:02}.json"
    arrived = len(list((incoming / f"week-{week:02}").rglob("*.png")))
    skipped = len(read_json(report)["skipped"]) if kind == "leaking" and report.exists() else 0
    wrong = _judged(kind, run, done, hidden, before)
    if kind == "leaking" and skipped != NUM_LEAKING:
        wrong.append(f"{skipped} images of the test split were left out, of {NUM_LEAKING}")
    if kind == "worse" or kind in _REFUSED:
        # The operator reads the reason and takes the batch away.
        shutil.rmtree(incoming / f"week-{week:02}")
    wrong = [f"week {week}: {text}" for text in wrong]
    return {
        **{"week": week, "kind": kind, "state": run["state_type"]},
        **{key: done.get(key) for key in ("outcome", "summary", "refused")},
        **{
            "arrived": arrived,
            "skipped": skipped,
            "version": champion.name if champion else None,
            "hidden": round(hidden, 4),
        },
        **{"seconds": round(time.time() - started)},
        "wrong": wrong,
    }


def _judged(
    kind: str, run: dict[str, Any], done: dict[str, Any], hidden: float, before: float
) -> list[str]:
    wrong = []
    if run["state_type"] != "COMPLETED":
        wrong.append(f"the run ended {run['state_type']}")
    refused = done.get("refused") or {}
    if kind in _REFUSED and not all(refused.values()):
        wrong.append("refused without a reason")
    if kind in _REFUSED and not refused:
        wrong.append("the batch was not refused")
    if kind not in _REFUSED and refused:
        wrong.append(f"refused: {refused}")
    if kind == "worse" and done.get("outcome") == "promoted":
        wrong.append("the worse model was promoted")
    if hidden < before - BOUND:
        wrong.append(f"hidden accuracy fell from {before:.3f} to {hidden:.3f}")
    return wrong


def run(work: Path, weeks: int, minutes: float) -> list[dict[str, Any]]:
    """Let weeks pass that have not yet; all weeks so far."""
    started, digits = time.monotonic(), Digits.load()
    work.mkdir(parents=True, exist_ok=True)
    lines = read_lines(work / WEEKS)
    if not lines:
        shutil.rmtree(work / "repo", ignore_errors=True)
        prepare(work / "repo", digits)
    with (
        PrefectServer(work / "prefect") as server,
        scheduler(work / "repo", server.url, work / "prefect"),
    ):
        for week in range(len(lines), weeks + 1):
            if time.monotonic() - started > 60 * minutes:
                print(f"weeks {week} to {weeks} are left for another time")
                break
            before = lines[-1]["hidden"] if lines else 0.0
            lines.append(one_week(work, digits, server, week, before))
            add_line(work / WEEKS, lines[-1])
            print(json.dumps(lines[-1]), flush=True)
    return lines


def check(work: Path) -> list[dict[str, Any]]:
    """Make versions again that have not been yet, the oldest first.

    Returns:
        For each version of the repository `version`, `wrong` and `seconds`.
    """
    lines = read_lines(work / VERSIONS)
    known = {line["version"] for line in lines}
    for version in reversed(Registry(work / "repo").versions()):
        if version.name not in known:
            started = time.monotonic()
            wrong = reproduced(work, version)
            seconds = round(time.monotonic() - started)
            lines.append({"version": version.name, "wrong": wrong, "seconds": seconds})
            add_line(work / VERSIONS, lines[-1])
            print(json.dumps(lines[-1]), flush=True)
    return lines


def main() -> int:
    """Command line; see the module's text."""
    parser, running = run_and_page(
        __doc__,
        "docs/simulated-year.md",
        place=("--work", "folder of everything"),
        run="let the weeks pass that have not yet",
        page="what became of it",
        check="make versions again that have not been yet",
    )
    running.add_argument("--weeks", type=int, default=52)
    args = parser.parse_args()
    # An end that leaves no scheduler and no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if args.command == "page":
        from benchmarks.simulated_year_page import write_page

        write_page(read_lines(args.work / WEEKS), read_lines(args.work / VERSIONS), args.write)
        return 0
    lines = run(args.work, args.weeks, args.minutes) if args.command == "run" else check(args.work)
    wrong = [text for line in lines for text in line["wrong"]]
    print("\n".join(wrong) or "nothing went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
