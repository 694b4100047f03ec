"""What the commands that run a flow share: signals, exit codes, a server, a quiet Prefect."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from components.errors import TimmflowError
from flows.flow_errors import FlowError, StageFailed, as_flow_error

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.ephemeral_server import EphemeralServer


class Terminated(BaseException):
    """TERM arrived. Not an `Exception`, so that nothing on the way takes it for a failure."""


def exit_code(run: Callable[[], int]) -> int:
    """Run a command so that it can always be stopped, and says what it stopped of.

    Returns:
        What `run` returns; 1 when it raised what a user can mend; 130 after INT, 143 after TERM.
    """
    # A background job of a shell script inherits "ignore INT"; this command can always be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return run()
    except TimmflowError as error:
        print(f"error: {as_flow_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated:
        print("terminated; the next run goes on from here", file=sys.stderr)
        return 128 + signal.SIGTERM


def result_of(state: State[Any], quiet: bool = True) -> Any:
    """What a flow returned.

    Args:
        state: in which it ended.
        quiet: whether the lines that a step printed were not shown.

    Raises:
        TimmflowError: what the flow failed of; in short where that stands above.
    """
    result = state.result(raise_on_failure=False)
    if isinstance(result, StageFailed) and not quiet:
        raise FlowError(f"{result.stage} failed; what it said stands above")
    if isinstance(result, BaseException):
        raise result
    return result


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


class Server:
    """The Prefect server of a command: the one that is configured, or one of its own.

    Prefect reads its settings when it is imported: make one of these before.

    Args:
        root: of the repository.
    """

    def __init__(self, root: Path) -> None:
        _quiet_prefect()
        self._own = _start_server(root)

    def wait(self) -> None:
        """Return when it answers.

        Raises:
            FlowError: it does not.
        """
        from prefect.client.orchestration import get_client

        if self._own is not None:
            self._own.wait()
            return
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
        if problem is not None:
            raise FlowError(
                f"the Prefect server at {client.api_url} does not answer ({problem}); start it, or "
                "unset PREFECT_API_URL to run without one"
            )


def configured_server() -> None:
    """Make sure that a Prefect server is configured; Prefect is imported with this.

    Raises:
        FlowError: none is.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        raise FlowError(
            "no Prefect server is configured: `prefect server start`, and "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )


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
