"""The command `python -m flows.retrain`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.command_line import Server, exit_code, result_of
from flows.notify import before_flow
from flows.progress import Terminal, watcher
from flows.retrain_run import last_if_nothing_new, locked
from tasks.gate import REFUSE

DESCRIPTION = """\
Retrain on today's data, and replace the model in production if the new one is better.

Merges the batches in data/incoming, runs the stages, compares with the model in production
(python -m tasks.gate), and on success commits to the branch `retrain`, registers a version and puts
it into production. See section `retrain` of params.yaml, and docs/operations.md.
"""
EPILOG = """\
Works in a git worktree of its own with what is committed; your files, branch and index stay as they
are. What it found is in .dvc/tmp/retrain/last. If it is killed, the next one goes on from there.

exit status: 0 promoted, registered, or nothing new; 2 the new model was refused; 1 an error;
130 after INT, 143 after TERM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Retrain from the command line.

    Returns:
        The exit status; see `EPILOG`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.retrain",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quiet", action="store_true", help="one line a step")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    parser.add_argument("--force", action="store_true", help="work even if nothing is new")
    parser.add_argument(
        "--promote", choices=("automatic", "review"), help="instead of retrain.promote"
    )
    parser.add_argument("--no-publish", action="store_true", help="send nothing to W&B")
    args = parser.parse_args(argv)
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    root = args.root.resolve()
    with before_flow("retrain", root):
        # The flow does both itself; asking here spares the wait for a server.
        with locked(root):
            last = None if args.force else last_if_nothing_new(root, args.promote)
        if last is not None:
            return _told(last)
        server = Server(root)
        from flows.retrain import retrain

        server.wait()
    watcher.set(Terminal(args.quiet))
    state = retrain(
        str(root), args.force, args.promote, publish=not args.no_publish, return_state=True
    )
    return _told(result_of(state, args.quiet))


def _told(result: dict[str, Any]) -> int:
    """Say how it ended; gives the exit status."""
    for name, reason in result["refused"].items():
        print(f"batch {name} is refused: {reason}")
    print(f"{result['outcome']}: {result['summary']}")
    return REFUSE if result["outcome"] == "refused" else 0
