"""`python -m flows.serve`: what it refuses; with a real server, from a new batch to a message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from retrain_repository import CODE, RetrainToy
from test_notify import Stand

from flows import serve
from flows.dead_runs import SILENT_SECONDS, watch_heartbeats
from flows.ephemeral_server import free_port
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


@pytest.fixture
def real_server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What `prefect server start` starts, automations too; gives the environment to use it."""
    port = str(free_port())
    env = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", port], env=env, stdout=log, stderr=log, start_new_session=True
        )
    yield env
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(600)


def answer(env: dict[str, str], path: str, body: dict[str, Any] | None = None) -> Any:
    """What the server's API says; None while it does not answer, or knows of nothing."""
    try:
        url = f"{env['PREFECT_API_URL']}/{path}"
        # No proxy: it is this machine.
        with httpx.Client(trust_env=False, timeout=60) as client:
            said = client.get(url) if body is None else client.post(url, json=body)
    except httpx.TransportError:
        return None
    return said.json() if said.is_success else None


@pytest.mark.slow
def test_a_new_batch_starts_a_run_whose_failure_is_told(
    toy: RetrainToy, real_server: dict[str, str]
) -> None:
    env = real_server
    with Stand() as stand:
        threading.Thread(target=stand.serve_forever, daemon=True).start()
        toy.wait_until(lambda: answer(env, "health"))
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--name", "toy", "--on-data", "1"],
            cwd=toy.root,
            env={**env, "TIMMFLOW_NOTIFY_URL": stand.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        toy.wait_until(lambda: answer(env, "deployments/name/retrain/toy"))
        deployment = answer(env, "deployments/name/retrain/toy")
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        form = deployment["parameter_openapi_schema"]["properties"]
        assert list(form) == ["root", "force", "promote", "publish"]
        assert all(field["description"] for field in form.values())
        start = f"deployments/{deployment['id']}/create_flow_run"
        assert answer(env, start, {"parameters": {"promote": "never"}}) is None

        # A toy's pipeline has no `validate`, so the run fails.
        toy.batch(".copying", range(20, 22))
        (toy.root / "data/incoming/.copying").rename(toy.root / "data/incoming/june")
        toy.wait_until(lambda: stand.taken)
        [run] = answer(env, "flow_runs/filter", {})
        assert (run["deployment_id"], run["created_by"]["type"]) == (
            deployment["id"],
            "AUTOMATION",
        )
        [(_, body)] = stand.taken
        assert body["title"] == "retrain: Failed"
        assert "has no stage validate" in body["message"]
        assert f"{toy.root}/.dvc/tmp/retrain/last" in body["message"]
        toy.wait_until(lambda: answer(env, f"flow_runs/{run['id']}")["state_type"] == "FAILED")
        process.terminate()
        said, _ = process.communicate(timeout=600)
        stand.shutdown()
    assert process.returncode == 0, said
    assert "new batches: june" in said
    toy.wait_until(lambda: not toy.processes())
    assert toy.traces() == []
