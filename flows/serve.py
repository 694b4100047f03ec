"""Retrain by itself, on one machine: a Prefect deployment and what runs it, in one process.

    python -m flows.serve --cron "0 3 * * *"       every night at three
    python -m flows.serve --every 600              every ten minutes; a look takes a second
    python -m flows.serve --on-data                when a new batch lies in data/incoming
    python -m flows.serve                          on demand: from Prefect's page, or its API

Needs a Prefect server (`prefect server start`, and PREFECT_API_URL). The flow's parameters are a
form on its page. One retraining at a time; a run that comes meanwhile waits. Ends on Ctrl-C or on
TERM, and a retraining at work ends with it, also where the server is gone; a second one ends it at
once.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.command_line import configured_server, exit_code
from flows.dead_runs import HEARTBEAT_SECONDS, keep_telling, watch_heartbeats
from flows.flow_errors import FlowError
from flows.incoming_watch import (
    DEPLOYMENT,
    EVENT,
    SETTLE_SECONDS,
    emit,
    resource,
    watch,
)
from flows.retrain_site import incoming_folder

if TYPE_CHECKING:
    from flows.stoppable_runner import StoppableRunner


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the deployment until it is stopped.

    Returns:
        The exit status: 130 after INT, 143 after TERM; 1 when it could not be served.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--cron", help="when, as in crontab: minute, hour, day, month, weekday")
    when.add_argument("--every", type=float, metavar="SECONDS", help="time between two starts")
    parser.add_argument("--timezone", help="of --cron, such as Europe/Berlin (UTC)")
    parser.add_argument(
        "--on-data",
        nargs="?",
        type=float,
        const=SETTLE_SECONDS,
        metavar="SECONDS",
        help="when new batches have not changed for this long "
        f"({SETTLE_SECONDS:.0f}); also beside --cron or --every",
    )
    parser.add_argument(
        "--name",
        default=DEPLOYMENT,
        help=f"of the deployment ({DEPLOYMENT}); each repository of a server needs its own",
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    args = parser.parse_args(argv)
    if args.timezone and not args.cron:
        parser.error("--timezone is of --cron")
    if args.every is not None and args.every < 1:
        parser.error("--every: at least a second")
    if args.on_data is not None and args.on_data < 0:
        parser.error("--on-data: at least 0")
    return exit_code(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    root = args.root.resolve()
    if not (root / ".dvc").is_dir():
        raise FlowError(f"{root}: not the root of a DVC repository; see --root")
    incoming = incoming_folder(root)
    # Read by the processes of the runs.
    os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(HEARTBEAT_SECONDS)
    configured_server()
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import EntrypointType
    from prefect.events import DeploymentEventTrigger

    schedule = _schedule(args)
    _check_name(args.name, root)
    watch_heartbeats(args.name)
    from flows.retrain import retrain
    from flows.stoppable_runner import StoppableRunner

    runner = StoppableRunner(args.name)
    triggers: list[Any] = []
    if args.on_data is not None:
        triggers = [
            DeploymentEventTrigger(
                name=f"timmflow: new batches for {args.name}",
                expect={EVENT},
                match={"prefect.resource.id": resource(args.name)},
            )
        ]
    deployment: Any = runner.add_flow(
        retrain,
        name=args.name,
        description="Retrain on today's data; the champion is only replaced by a better model.",
        tags=[resource(args.name)],
        schedule=schedule,
        triggers=triggers,
        parameters={"root": str(root)},
        # Also over several processes that serve it. The one that waits takes all that has come
        # meanwhile in one go.
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
        ),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    if args.on_data is not None:

        def announce(names: list[str]) -> None:
            emit(args.name, root, names)

        _beside(lambda over: watch(incoming, args.on_data, announce, over), runner)
    _beside(lambda over: keep_telling(args.name, over), runner)
    print(f"serving retrain/{args.name}", file=sys.stderr)
    return runner.serve(deployment)


def _schedule(args: argparse.Namespace) -> Any:
    from prefect.schedules import Cron, Interval

    if args.cron:
        try:
            return Cron(args.cron, timezone=args.timezone)
        except ValueError as error:
            raise FlowError(f"--cron {args.cron}: {error}") from None
    return None if args.every is None else Interval(args.every)


def _check_name(name: str, root: Path) -> None:
    """Keep from taking over the deployment of another repository, or of a work pool.

    Raises:
        FlowError: the name is taken, or the server does not answer.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            known = client.read_deployment_by_name(f"retrain/{name}")
        except ObjectNotFound:
            return
        except httpx.HTTPError as error:
            raise FlowError(
                f"the Prefect server at {client.api_url} does not answer ({type(error).__name__}); "
                "start it: `prefect server start`"
            ) from None
    owner = (
        f"work pool {known.work_pool_name}"
        if known.work_pool_name
        else known.parameters.get("root", str(root))
    )
    if owner != str(root):
        raise FlowError(
            f"--name {name}: the server has a deployment of that name, of {owner}; give another, "
            f"or delete that one: prefect deployment delete retrain/{name}"
        )


def _beside(work: Callable[[Callable[[float], bool]], None], runner: StoppableRunner) -> None:
    """Do something while the process lives; a defect in it ends the process.

    Args:
        work: takes what waits some seconds between two looks, and says whether it is over.
        runner: of the process.
    """

    def run() -> None:
        over = threading.Event()
        try:
            work(over.wait)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            runner.end(1)
            raise

    threading.Thread(target=run, daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main())
