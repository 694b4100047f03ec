"""Watch for new batches, and tell a Prefect server when they have come and lie still.

    python -m flows.incoming_watch             beside a worker; `python -m flows.serve --on-data`
                                               has it built in

A batch is a folder in `retrain.incoming`; names that begin with a dot do not count. Once nothing
has changed there for `--settle` seconds the event `timmflow.incoming` is sent, on which the
deployment's automation starts a retraining. An event that the
server does not take is sent again later.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flows.command_line import configured_server, exit_code
from flows.retrain_site import batches_in, incoming_folder

EVENT = "timmflow.incoming"
DEPLOYMENT = "retrain"
SETTLE_SECONDS = 60.0
# Between two looks, which is also at most a twentieth of the time that is spent on looking.
LOOK_SECONDS = 5.0
LOOK_SHARE = 20

logger = logging.getLogger("prefect.timmflow.incoming")


class Arrivals:
    """Tells batches that are new or have changed from those that were told of, once they lie still.

    Args:
        settle: seconds without any change.
    """

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._seen: dict[str, str] = {}
        self._since = float("-inf")
        self._told: dict[str, str] = {}

    def look(self, batches: Mapping[str, str], now: float) -> list[str]:
        """Names of those to tell of.

        Args:
            batches: name to fingerprint of all that are there.
            now: seconds, of a clock that does not go back.
        """
        if batches != self._seen:
            self._seen, self._since = dict(batches), now
        if now - self._since < self._settle:
            return []
        return sorted(name for name, mark in batches.items() if self._told.get(name) != mark)

    def told(self) -> None:
        """What was there at the last look is known now."""
        self._told = self._seen


def watch(
    folder: Path,
    settle: float,
    tell: Callable[[list[str]], None],
    over: Callable[[float], bool],
) -> None:
    """Watch a folder of batches.

    Args:
        folder: need not be there yet.
        settle: seconds without any change after which batches are told of.
        tell: takes their names; an `OSError` or `RuntimeError` of it lets it be called again.
        over: waits some seconds; true: stop.
    """
    arrivals = Arrivals(settle)
    while True:
        started = time.monotonic()
        new = arrivals.look(batches_in(folder), started)
        if new:
            try:
                tell(new)
            except (OSError, RuntimeError) as error:
                logger.warning("new batches, and no server that takes it: %s; again later", error)
            else:
                logger.info("new batches: %s", ", ".join(new))
                arrivals.told()
        wait = min(LOOK_SECONDS, max(settle / 2, 0.1))
        if over(max(wait, LOOK_SHARE * (time.monotonic() - started))):
            return


def resource(name: str) -> str:
    """The resource of the events for a deployment, and its tag; its automations match them.

    Args:
        name: of the deployment, without the flow's.
    """
    return f"timmflow.deployment.{name}"


def emit(name: str, root: Path, batches: Sequence[str]) -> None:
    """Send the event; it is with the server when this returns.

    `prefect.events.emit_event` sends in the background and drops what it cannot send.

    Raises:
        RuntimeError: the server did not take it.
    """
    from datetime import UTC, datetime

    import httpx
    from prefect.client.orchestration import get_client
    from prefect.events import Event, Resource

    event = Event(
        event=EVENT,
        occurred=datetime.now(UTC),
        resource=Resource({"prefect.resource.id": resource(name)}),
        payload={"root": str(root), "batches": list(batches)},
    )
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except httpx.HTTPError as error:
        # Its class only: an address may hold a password.
        raise RuntimeError(type(error).__name__) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Watch until it is stopped.

    Returns:
        The exit status: 1 when it cannot; 130 after INT, 143 after TERM.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.incoming_watch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=SETTLE_SECONDS,
        metavar="SECONDS",
        help=f"time without a change after which a batch counts as whole ({SETTLE_SECONDS:.0f})",
    )
    parser.add_argument("--name", default=DEPLOYMENT, help=f"of the deployment ({DEPLOYMENT})")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    args = parser.parse_args(argv)
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    root = args.root.resolve()
    folder = incoming_folder(root)
    configured_server()
    logging.getLogger("prefect").setLevel(logging.INFO)
    print(f"watching {folder}", flush=True)

    def pause(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    watch(folder, args.settle, lambda names: emit(args.name, root, names), pause)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
