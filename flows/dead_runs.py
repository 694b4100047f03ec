"""Runs whose process has died without a word are recorded as crashed: Prefect's heartbeats.

    python -m flows.dead_runs                 once, for a work pool; `flows.serve` does it itself
    python -m flows.dead_runs --tell          stays, and sends messages (`flows.notify`)

A worker or `flows.serve` records the end of a run that is killed. Where these are killed too, or
the machine goes down, the run stays `Running`. An automation on the server, made here, records it
as `Crashed` when it has been silent for ten heartbeats. The run's own hooks do not run then: what
stays tells of it, so it should be on a machine that outlives the run's, such as the server's.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from flows import notify
from flows.command_line import configured_server, exit_code
from flows.incoming_watch import DEPLOYMENT, resource

# Prefect's shortest; its default is 180.
HEARTBEAT_SECONDS = 30
# A machine or a server that is hard at work loses some.
SILENT_SECONDS = 10 * HEARTBEAT_SECONDS
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
_DEAD = f"no heartbeat for {SILENT_SECONDS} s: its process has died"
# Between two looks for runs of which somebody is to be told; and how old they may be: nobody waits
# for word of what happened before the messages were switched on.
LOOK_SECONDS = 60.0
_TELL_FOR = timedelta(days=1)
_TOLD = "timmflow.told"

logger = logging.getLogger("prefect.timmflow.dead_runs")


def watch_heartbeats(name: str) -> None:
    """Have the server record the dead runs of a deployment; done again, it changes nothing.

    Args:
        name: of the deployment, without the flow's. Its runs must send a heartbeat each
            `HEARTBEAT_SECONDS`, and carry the tag that `incoming_watch.resource` gives.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    silent = timedelta(seconds=SILENT_SECONDS)
    automation = AutomationCore(
        name=f"timmflow: dead runs of {name}",
        description="Written by python -m flows.dead_runs.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            # The deployment's tag: of itself a heartbeat names only its id.
            match_related={"prefect.resource.id": f"prefect.tag.{resource(name)}"},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=silent,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=_DEAD,
            )
        ],
    )
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(automation.name)
        for old in known[:1]:
            client.update_automation(old.id, automation)
        if not known:
            client.create_automation(automation)


def tell(name: str) -> None:
    """Send a message for each run that the automation has recorded, once.

    A tag of the run says that it was sent, so neither a restart nor another process repeats it.
    What could not be sent is tried again at the next call.

    Args:
        name: of the deployment, as for `watch_heartbeats`.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters

    wanted = filters.FlowRunFilter(
        tags=filters.FlowRunFilterTags(all_=[resource(name)]),
        state=filters.FlowRunFilterState(name=filters.FlowRunFilterStateName(any_=["Crashed"])),
        end_time=filters.FlowRunFilterEndTime(after_=datetime.now(UTC) - _TELL_FOR),
    )
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=wanted)
        # Of other crashes a hook has told.
        runs = [run for run in runs if run.state and run.state.message == _DEAD]
        runs = [run for run in runs if _TOLD not in run.tags]
        if not runs or not notify.has_address():
            return
        for run in runs:
            assert run.state is not None
            problem = notify.send(*notify.message("retrain", run, run.state, here=False))
            if problem:
                logger.warning("no notification of %s was sent: %s; again later", run.name, problem)
            else:
                client.update_flow_run(run.id, tags=[*run.tags, _TOLD])


def keep_telling(name: str, over: Callable[[float], bool]) -> None:
    """Tell of dead runs until it is over; a server that is away is asked again later.

    Args:
        name: of the deployment.
        over: waits some seconds; true: stop.
    """
    import httpx

    while True:
        try:
            tell(name)
        except httpx.HTTPError as error:
            logger.warning("dead runs: no answer of the server (%s)", type(error).__name__)
        if over(LOOK_SECONDS):
            return


def main(argv: Sequence[str] | None = None) -> int:
    """Make the automation, and stay if asked to.

    Returns:
        The exit status: 1 without a server; 130 after INT, 143 after TERM.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.dead_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default=DEPLOYMENT, help=f"of the deployment ({DEPLOYMENT})")
    parser.add_argument("--tell", action="store_true", help="stay, and send a message of each")
    args = parser.parse_args(argv)
    return exit_code(lambda: _run(args.name, args.tell))


def _run(name: str, stay: bool) -> int:
    configured_server()
    watch_heartbeats(name)
    print(f"runs of retrain/{name} that are silent for {SILENT_SECONDS} s will be Crashed")
    if stay:
        keep_telling(name, _pause)
    return 0


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


if __name__ == "__main__":
    raise SystemExit(main())
