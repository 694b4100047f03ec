"""`python -m flows.serve`: what it refuses, how it ends; `test_simulated_year.py`: what it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from retrain_repository import CODE, RetrainToy

from benchmarks.prefect_server import PrefectServer
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


def test_dead_runs_are_told_of_while_it_serves(
    toy: RetrainToy, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, begun = [], threading.Event()

    def keep_telling(name: str, over: Any) -> None:
        told.append(name)
        begun.set()

    class Runner:
        def __init__(self, name: str) -> None: ...

        def add_flow(self, *words: Any, **options: Any) -> None: ...

        def serve(self, deployment: None) -> int:
            return 0 if begun.wait(60) else 1

    monkeypatch.setenv("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")  # set by the command
    monkeypatch.setattr("flows.stoppable_runner.StoppableRunner", Runner)
    monkeypatch.setattr(serve, "keep_telling", keep_telling)
    assert serve.main(["--root", str(toy.root), "--name", "telling"]) == 0
    assert told == ["telling"]


class Served:
    """`flows.serve` of a repository whose training hangs.

    Args:
        toy: the repository.
        server: Prefect's.
        name: of the deployment.
    """

    def __init__(self, toy: RetrainToy, server: PrefectServer, name: str) -> None:
        self.toy, self.log = toy, toy.root.with_name("serve.log")
        toy.shorten()
        toy.commit("hang")
        self.before = self.state()
        env = {**os.environ, "PREFECT_API_URL": server.url, "PREFECT_HOME": str(server.home)}
        env |= {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "WANDB_MODE": "disabled"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.serve", "--every", "1", "--name", name],
                cwd=toy.root,
                env=env,
                stdout=log,
                stderr=log,
            )

    def state(self) -> tuple[str, str]:
        """What git has: branches, tags and the user's tree."""
        return self.toy.git("for-each-ref"), self.toy.git("status", "--porcelain")

    def at_work(self) -> set[str]:
        """What of a run is there: its guard, DVC and the stage."""
        words = set()
        for process in self.toy.processes():
            with suppress(psutil.Error):
                words |= {Path(word).name for word in process.cmdline()}
        return words & {"process_guard.py", "dvc", "stage.py"}

    def wait(self) -> int:
        """The exit status; a bound on life, not on speed."""
        self.toy.wait_until(lambda: self.process.poll() is not None)
        return self.process.wait()


@pytest.fixture
def three_toys(first: RetrainToy, tmp_path: Path) -> Iterator[list[RetrainToy]]:
    toys = [first.copied(tmp_path / name) for name in ("one", "two", "three")]
    yield toys
    for toy in toys:
        for process in toy.processes():
            process.kill()


@pytest.mark.slow
def test_it_ends_while_a_run_is_at_work_and_the_server_is_gone(
    three_toys: list[RetrainToy], tmp_path: Path
) -> None:
    with PrefectServer(tmp_path / "prefect") as server:
        one, two, three = (Served(toy, server, toy.root.parent.name) for toy in three_toys)
        for served in (one, two, three):
            served.toy.wait_until(lambda served=served: "stage.py" in served.at_work())
    one.process.send_signal(signal.SIGTERM)
    three.process.kill()
    two.process.send_signal(signal.SIGINT)
    two.toy.wait_until(lambda: "stopping" in two.log.read_text())
    two.process.send_signal(signal.SIGINT)
    assert two.wait() == 128 + signal.SIGINT
    assert "stopped at once" in two.log.read_text()
    assert one.wait() == 128 + signal.SIGTERM
    assert one.at_work() == set()  # already, as a service manager would end it now
    assert "stopped at once" not in one.log.read_text()
    assert three.wait() == -signal.SIGKILL
    for served in (one, two, three):
        served.toy.wait_until(lambda served=served: not served.toy.processes())
        assert served.state() == served.before
    assert one.toy.traces() == []
