"""The command `python -m flows.pipeline`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flows.command_line import Server, exit_code, result_of
from flows.progress import Terminal, watcher
from flows.workspace_lock import workspace_lock
from tasks.layout import STAGES, Layout

EPILOG = """\
Stages that have nothing to do are skipped, and results seen before are restored from DVC's cache.
With PREFECT_API_URL set (environment or Prefect profile) the run and its logs go to that server;
without, a server is started for the length of the run. `dvc repro` does the same work without
Prefect.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline from the command line.

    Returns:
        The exit status: 0; 1 when a stage failed or the flow could not run; 130 after INT, 143
        after TERM.
    """
    args = _parser().parse_args(argv)
    return exit_code(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline",
        description="Run the stages of dvc.yaml as a Prefect flow.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quiet", action="store_true", help="one line a stage")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    parser.add_argument("--force", action="store_true", help="run stages even if nothing changed")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=STAGES,
        metavar="STAGE",
        help=f"only these: {' '.join(STAGES)}",
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    root = args.root.resolve()
    # The flow takes the lock itself; asking here spares the wait for a server when it is held.
    with workspace_lock(root):
        pass
    server = Server(root)
    from flows.pipeline import pipeline

    server.wait()
    watcher.set(Terminal(args.quiet))
    state = pipeline(str(root), args.force, args.stages, return_state=True)
    result_of(state, args.quiet)
    layout = Layout(args.root)
    for what, path in (
        ("metrics", layout.metrics("evaluate")),
        ("model", layout.onnx),
        ("page", layout.page),
    ):
        if path.exists():
            print(f"{what:<11} {path}")
    return 0
