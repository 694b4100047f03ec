"""Runs whose process has died without a word are recorded as crashed: Prefect's heartbeats.

    python -m flows.dead_runs                 once, for a work pool; `flows.serve` does it itself

A worker or `flows.serve` records the end of a run that is killed. Where these are killed too, or
the machine goes down, the run stays `Running`. An automation on the server, made here, records it
as `Crashed` when it has been silent for ten heartbeats.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import timedelta

from flows.command_line import configured_server, exit_code
from flows.incoming_watch import DEPLOYMENT, resource

# Prefect's shortest; its default is 180.
HEARTBEAT_SECONDS = 30
# A machine or a server that is hard at work loses some.
SILENT_SECONDS = 10 * HEARTBEAT_SECONDS
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


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
                message=f"no heartbeat for {SILENT_SECONDS} s: its process has died",
            )
        ],
    )
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(automation.name)
        for old in known[:1]:
            client.update_automation(old.id, automation)
        if not known:
            client.create_automation(automation)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the automation.

    Returns:
        The exit status; 1 without a server.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.dead_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default=DEPLOYMENT, help=f"of the deployment ({DEPLOYMENT})")
    args = parser.parse_args(argv)
    return exit_code(lambda: _run(args.name))


def _run(name: str) -> int:
    configured_server()
    watch_heartbeats(name)
    print(f"runs of retrain/{name} that are silent for {SILENT_SECONDS} s will be Crashed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
