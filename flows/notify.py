"""Tell somebody, by a short message, that a run has failed, was cancelled, or has died.

Off until an address is given: in the environment variable `TIMMFLOW_NOTIFY_URL`, or in a Prefect
Secret block named `timmflow-notify-url`. It is one of Apprise's (`slack://…`, `mailto://…`), or a
webhook's `https://…`, which gets JSON. It is never logged. A message that cannot be sent is said in
the run's log, and changes nothing else.

A flow's hooks run where the flow does. What ends a command before its flow begins is told by
`before_flow`; a run whose machine has died, by `flows.dead_runs`.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from components.errors import TimmflowError
from flows.flow_errors import masked

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

VARIABLE = "TIMMFLOW_NOTIFY_URL"
BLOCK = "timmflow-notify-url"
# A run that has failed must end, whatever the other side does.
SECONDS = 20.0
_REASON_LENGTH = 300


def notify(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a flow for the end that it should not have had."""
    from prefect.logging.loggers import flow_run_logger

    problem = send(*message(flow.name, flow_run, state))
    if problem:
        flow_run_logger(flow_run, flow).warning("no notification was sent: %s", problem)


@contextmanager
def before_flow(flow_name: str, root: Path) -> Iterator[None]:
    """Tell of what a command fails of, as long as its flow, which tells of itself, has not begun.

    Args:
        flow_name: of the flow.
        root: of the repository.
    """
    try:
        yield
    except Exception as error:
        # A defect is named by its kind alone: its text may hold a secret.
        reason = str(error) if isinstance(error, TimmflowError) else type(error).__name__
        text = f"{root} on {socket.gethostname()}: {_short(reason)}"
        problem = send(f"{flow_name}: not begun", text)
        if problem:
            print(f"no notification was sent: {problem}", file=sys.stderr)
        raise


def message(
    flow_name: str, flow_run: FlowRun, state: State[Any], here: bool = True
) -> tuple[str, str]:
    """Title and text: what, where, why, and where to look.

    Args:
        flow_name: of the flow.
        flow_run: that has ended.
        state: in which it has.
        here: whether it ran on this machine.
    """
    from prefect.settings import get_current_settings

    where = f" on {socket.gethostname()}" if here else ""
    lines = [f"{flow_run.name}{where}: {_short(state.message or 'no reason is known')}"]
    root = str(flow_run.parameters.get("root", "."))
    lines.append(f"look: {'' if root == '.' else f'{root}/'}.dvc/tmp/retrain/last")
    page = get_current_settings().ui_url
    if page:
        lines.append(f"run: {masked(page)}/runs/flow-run/{flow_run.id}")
    # Told while it is still being ended.
    end = "Cancelled" if state.is_cancelling() else state.name or state.type.value
    return f"{flow_name}: {end}", "\n".join(lines)


def _short(reason: str) -> str:
    reason = masked(reason)
    return reason if len(reason) <= _REASON_LENGTH else f"{reason[:_REASON_LENGTH]}…"


def send(title: str, text: str) -> str:
    """Send a message, if there is an address; gives the problem, which names no address."""
    return _within(SECONDS, lambda: _send(title, text))


def has_address() -> bool:
    """Whether somebody is to be told."""
    return bool(_address())


def _send(title: str, text: str) -> str:
    address = _address()
    if not address:
        return ""
    import apprise

    # It names hosts and addresses.
    logging.getLogger("apprise").disabled = True
    to = apprise.Apprise()
    if not to.add(address) and not to.add(_webhook(address)):
        return f"the address in {VARIABLE}, or in the block {BLOCK}, is none that Apprise knows"
    if not to.notify(title=title, body=text, notify_type=apprise.NotifyType.FAILURE):
        return "the other side did not take it"
    return ""


def _webhook(address: str) -> str:
    """Apprise's way to write the address of a webhook."""
    parts = urlsplit(address)
    scheme = {"http": "json", "https": "jsons"}.get(parts.scheme, "none")
    query = urlencode([(f"-{key}", value) for key, value in parse_qsl(parts.query)])
    return parts._replace(scheme=scheme, query=query).geturl()


def _address() -> str:
    return os.environ.get(VARIABLE) or _from_block()


def _from_block() -> str:
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:  # Prefect would start a server to look
        return ""
    from prefect.blocks.system import Secret

    load: Any = Secret.load  # its type knows nothing of `_sync`
    try:
        block = load(BLOCK, _sync=True)
    except ValueError:
        return ""
    return str(block.get())


def _within(seconds: float, send: Any) -> str:
    """What `send` gives, or why it does not."""
    problem = [f"not done in {seconds:.0f} s"]

    def run() -> None:
        try:
            problem[0] = send()
        except Exception as error:  # noqa: BLE001 - must not fail a run; its text may hold a secret
            problem[0] = type(error).__name__

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return problem[0]
