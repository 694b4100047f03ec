"""Retrain on a schedule, on one machine: a Prefect deployment and what runs it, in one process.

    python -m flows.serve --cron "0 3 * * *"       every night at three
    python -m flows.serve --every 600              every ten minutes; a look takes a second
    python -m flows.serve                          on demand: from Prefect's page, or its API

Needs a Prefect server (`prefect server start`, and PREFECT_API_URL). The flow's parameters are a
form on its page. One retraining at a time; a run that comes meanwhile waits. Ends on Ctrl-C or on
TERM, and a retraining at work ends with it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from flows.command_line import exit_code
from flows.flow_errors import FlowError

NAME = "retrain"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the deployment until it is stopped.

    Returns:
        The exit status: 1 when it could not be served; 130 after INT, 143 after TERM.
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
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    args = parser.parse_args(argv)
    if args.timezone and not args.cron:
        parser.error("--timezone is of --cron")
    if args.every is not None and args.every < 1:
        parser.error("--every: at least a second")
    return exit_code(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    if not (args.root / ".dvc").is_dir():
        raise FlowError(f"{args.root.resolve()}: not the root of a DVC repository; see --root")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from prefect.deployments.runner import EntrypointType
    from prefect.schedules import Cron, Interval
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        raise FlowError(
            "no Prefect server is configured: `prefect server start`, and "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    from flows.retrain import retrain

    schedule = None
    if args.cron:
        try:
            schedule = Cron(args.cron, timezone=args.timezone)
        except ValueError as error:
            raise FlowError(f"--cron {args.cron}: {error}") from None
    elif args.every is not None:
        schedule = Interval(args.every)
    retrain.serve(
        name=NAME,
        description="Retrain on today's data; the champion is only replaced by a better model.",
        schedule=schedule,
        parameters={"root": str(args.root.resolve())},
        limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
