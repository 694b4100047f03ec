"""`python -m flows.serve`: what it refuses; `test_simulated_year.py` has what it does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from retrain_repository import CODE, RetrainToy

from flows import serve
from flows.dead_runs import SILENT_SECONDS, watch_heartbeats
from flows.flow_errors import FlowError
from flows.incoming_watch import resource


@pytest.fixture
def toy(first: RetrainToy, tmp_path: Path) -> Iterator[RetrainToy]:
    toy = first.copied(tmp_path)
    yield toy
    for process in toy.processes():
        process.kill()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--timezone", "UTC"], "--timezone is of --cron"),
        (["--every", "0.5"], "--every: at least a second"),
        (["--on-data", "-1"], "--on-data: at least 0"),
        (["--every", "60", "--cron", "0 3 * * *"], "not allowed with argument"),
    ],
)
def test_arguments(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        serve.main(words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_help_needs_no_prefect() -> None:
    for module in ("serve", "incoming_watch", "dead_runs", "clean"):
        code = (
            f"import sys; from flows.{module} import main\n"
            "try: main(['--help'])\n"
            "finally: assert 'prefect' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=CODE, capture_output=True)
        assert done.returncode == 0, (module, done.stderr)


def served(toy: RetrainToy, *words: str) -> subprocess.CompletedProcess[str]:
    """A call that ends by itself."""
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.serve", *words]
    return subprocess.run(command, cwd=toy.root, env=env, capture_output=True, text=True)


def test_without_a_server(toy: RetrainToy) -> None:
    done = served(toy)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Prefect server is configured: `prefect server start`")
    done = served(toy, "--root", str(toy.root.parent))
    assert done.returncode == 1
    assert "not the root of a DVC repository" in done.stderr


def test_a_name_that_is_taken(prefect_server: str) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow(name="retrain")
    def stand_in() -> None:
        pass

    with get_client(sync_client=True) as client:
        client.create_deployment(
            client.create_flow(stand_in), "taken", parameters={"root": "/elsewhere"}
        )
    serve._check_name("taken", Path("/elsewhere"))
    serve._check_name("free", Path("/elsewhere"))
    with pytest.raises(FlowError, match=r"--name taken: .* of /elsewhere; give another"):
        serve._check_name("taken", Path("/here"))


def test_dead_runs_are_watched_once(prefect_server: str) -> None:
    from prefect.client.orchestration import get_client

    for _ in range(2):
        watch_heartbeats("mine")
    with get_client(sync_client=True) as client:
        [automation] = client.read_automations_by_name("timmflow: dead runs of mine")
    assert automation.trigger.within.total_seconds() == SILENT_SECONDS
    labels = automation.trigger.match_related.model_dump()
    assert labels == {"prefect.resource.id": f"prefect.tag.{resource('mine')}"}
