"""The command `python -m flows.sweep`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.command_line import Server, exit_code, result_of
from flows.flow_errors import FlowError
from flows.sweep_plan import plan
from flows.sweep_space import from_options
from flows.sweep_table import apply, best, params_diff, text_table, write_table
from flows.sweep_trial import Row, code_files
from flows.sweep_watch import watch
from flows.workspace_lock import lock_file
from tasks.params_edit import shown
from tasks.repository import git

DESCRIPTION = """\
Try parameters: train and measure with each, and say which is best on val.

  python -m flows.sweep --set train.lr=1e-3,3e-4 --set preprocess.image_size=[64,64],[96,96]
  python -m flows.sweep --set train.lr=log:1e-4..1e-2 --set train.batch_size=4..16 --trials 20
  python -m flows.sweep --file sweep.yaml --workers 4 --engine dask

KEY=VALUE,VALUE lists values, KEY=LOW..HIGH is a range: of integers if both ends are, with log: by
orders of magnitude. Without --trials every combination is tried, with it so many random draws.
"""
EPILOG = """\
Each trial runs the committed code with params.yaml as it stands here, in a git worktree of its own;
your files, branch and index are left alone. Data is prepared once. The table is
reports/sweep.csv, and reports/sweep.json with all figures. A trial that has been done with the same
parameters, data and code is not run again, and one that was interrupted goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep from the command line.

    Returns:
        The exit status: 0; 1 when no trial came to its end; 130 after INT, 143 after TERM.
    """
    args = _parser().parse_args(argv)
    return exit_code(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.sweep",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="options",
        metavar="KEY=VALUES",
        help="a parameter to vary; may be given several times",
    )
    parser.add_argument("--file", type=Path, help="YAML with a section sweep: parameters, trials")
    parser.add_argument("--trials", type=int, help="so many random draws, not every combination")
    parser.add_argument("--seed", type=int, help="of the draws (0)")
    parser.add_argument("--workers", type=int, default=1, help="trials at a time (1)")
    parser.add_argument(
        "--engine",
        choices=("local", "dask", "ray"),
        default="local",
        help="where they run: on this machine (local), or on a cluster of Dask's or Ray's",
    )
    parser.add_argument("--address", help="of a cluster that runs already; its own size counts")
    parser.add_argument("--apply", action="store_true", help="write the best values to params.yaml")
    parser.add_argument("--list", action="store_true", help="print the trials and run none")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    return parser


def _run(args: argparse.Namespace) -> int:
    root = args.root.resolve()
    if args.workers < 1:
        raise FlowError(f"--workers {args.workers}: must be at least 1")
    if args.address and args.engine == "local":
        raise FlowError("--address is of a cluster: with --engine dask or ray")
    space = from_options(args.options, args.file, args.trials, args.seed)
    parameters = dict(space.parameters)
    trials = plan(root, parameters, space.trials, space.seed)
    if args.list:
        for trial in trials:
            print(trial.number, _in_words(trial.values))
        return 0
    # The flow does so itself; asking here spares the wait for a server.
    with lock_file(root, "timmflow-sweep.lock", "sweep"):
        changed = git(root, "status", "--porcelain", "--", *code_files(root, "HEAD"))
    if changed:
        names = ", ".join(line[3:] for line in changed.splitlines())
        print(f"not committed, so not in the trials: {names}", file=sys.stderr)
    server = Server(root)
    from flows.sweep import sweep, task_runner

    runner = task_runner(args.engine, args.workers, args.address)
    server.wait()
    watch(_print_row)
    threads = 0
    if args.workers > 1 and args.address is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, (os.cpu_count() or 1) // args.workers)
    print(f"{len(trials)} trials, {args.workers} at a time", flush=True)
    state = sweep.with_options(task_runner=runner)(
        str(root), parameters, space.trials, space.seed, threads, return_state=True
    )
    return _report(result_of(state), root, args.apply)


def _in_words(values: dict[str, object]) -> str:
    return ", ".join(f"{key}: {shown(value)}" for key, value in values.items())


def _print_row(row: Row, total: int) -> None:
    score = "" if row.score is None else f"{row.figures['monitor']} {row.score:.3f}"
    words = f"{row.status:<7} {row.seconds:>7.1f} s  {_in_words(row.values)}  {score}"
    print(f"trial {row.number} of {total}  {words}{row.reason.partition(chr(10))[0]}", flush=True)


def _report(rows: list[Row], root: Path, wanted: bool) -> int:
    params = root / "params.yaml"
    print(f"\n{text_table(rows)}\n")
    for path in write_table(rows, root / "reports"):
        print(path.relative_to(root))
    for row in rows:
        if row.status == "failed":
            print(f"\ntrial {row.number} failed: {row.reason}", file=sys.stderr)
    first = best(rows)
    if first is None:
        print("error: no trial came to its end", file=sys.stderr)
        return 1
    monitor = first.figures["monitor"]
    print(f"\nbest: trial {first.number}, {monitor} {first.score:.4g}")
    diff = params_diff(first, params)
    if not diff:
        print("params.yaml has these values already")
    else:
        print(f"\n{diff}", end="")
        if wanted:
            apply(first, params)
            print("\nparams.yaml has these values now; `dvc repro` restores the trial's results")
        else:
            print("\n--apply writes them; `dvc repro` then restores the trial's results")
    return 0
