"""The command `python -m flows.pipeline`."""

from __future__ import annotations

import argparse
import atexit
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from components.errors import TimmflowError
from flows.flow_errors import FlowError, StageFailed
from flows.workspace_lock import workspace_lock
from tasks.layout import STAGES, Layout

if TYPE_CHECKING:
    from flows.ephemeral_server import EphemeralServer
    from flows.pipeline import StageRow

EPILOG = """\
Stages that have nothing to do are skipped, and results seen before are restored from DVC's cache.
With PREFECT_API_URL set (environment or Prefect profile) the run and its logs go to that server;
without, a server is started for the length of the run. `dvc repro` does the same work without
Prefect.
"""


class Terminated(BaseException):
    """TERM arrived. Not an `Exception`, so that nothing on the way takes it for a failure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline from the command line.

    Returns:
        The exit status: 0; 1 when a stage failed or the flow could not run; 130 after INT, 143
        after TERM.
    """
    args = _parser().parse_args(argv)
    # A background job of a shell script inherits "ignore INT"; this command can always be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(args)
    except TimmflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated:
        print("terminated; the next run goes on from here", file=sys.stderr)
        return 128 + signal.SIGTERM


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


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


def _run(args: argparse.Namespace) -> int:
    root = args.root.resolve()
    # The flow takes the lock itself; asking here spares the wait for a server when it is held.
    with workspace_lock(root):
        pass
    _quiet_prefect()
    server = _start_server(root)
    from prefect.client.orchestration import get_client

    from flows.pipeline import Watcher, pipeline, watcher

    class Terminal(Watcher):
        def line(self, text: str) -> None:
            if not args.quiet:
                print(text, flush=True)

        def row(self, row: StageRow) -> None:
            # Why a stage failed is said once, in full, at the end or in the lines above.
            failed = row.outcome == "failed"
            print(replace(row, headline="") if failed else row, flush=True)

    if server is not None:
        server.wait()
    else:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
        if problem is not None:
            raise FlowError(
                f"the Prefect server at {client.api_url} does not answer ({problem}); start it, or "
                "unset PREFECT_API_URL to run without one"
            )
    watcher.set(Terminal())
    state = pipeline(str(root), args.force, args.stages, return_state=True)
    result = state.result(raise_on_failure=False)
    if isinstance(result, StageFailed) and not args.quiet:
        print(f"error: {result.stage} failed; what it said stands above", file=sys.stderr)
        return 1
    if isinstance(result, BaseException):
        raise result
    layout = Layout(args.root)
    for what, path in (
        ("metrics", layout.metrics("evaluate")),
        ("model", layout.onnx),
        ("page", layout.page),
    ):
        if path.exists():
            print(f"{what:<11} {path}")
    return 0


def _quiet_prefect() -> None:
    """Switches that Prefect reads when it is imported; what the user has set stays."""
    for name, value in {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        # The log goes to the server. On the terminal `Terminal` shows what a person wants to see.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }.items():
        os.environ.setdefault(name, value)


def _start_server(root: Path) -> EphemeralServer | None:
    """Start a server, unless the environment or a Prefect profile gives the address of one."""
    if os.environ.get("PREFECT_API_URL"):
        return None
    from flows.ephemeral_server import EphemeralServer

    # Started before it is known to be needed: only Prefect can tell, and importing it takes as long
    # as the server takes for its own imports. Where there is a profile it is stopped unused.
    server = EphemeralServer(root / ".dvc" / "tmp" / "timmflow-server.log")
    # Not a `with`: Prefect sends the last of its logs and events when the interpreter exits. Exit
    # functions run in reverse order, so this one, registered before Prefect's, is last.
    atexit.register(server.stop)
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        server.stop()
        return None
    os.environ["PREFECT_API_URL"] = server.url
    refresh_global_settings_context()
    return server
