"""Some weeks of `benchmarks/simulated_year.py`: the real scheduler, server, checks, gate, registry.

Twenty secrets are in the environment, the parameters and addresses all the time, and the training
prints its environment. Then one run is cancelled, one is killed, and one fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from canaries import CANARIES, TOLD, found_in
from test_notify import Stand
from waiting import wait_until

from benchmarks import simulated_year as simulated
from benchmarks.prefect_server import PrefectServer
from components.files import read_json
from flows.retrain_site import folder_of
from tasks.model_registry import Registry
from tasks.repository import dvc, git

# A bound on life: the first of the tests waits for all runs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

GOOD, CORRUPT, WORSE = 1, 4, 6
PRINT = "import os, sys, time\nprint('environment:', dict(os.environ), flush=True)\n"
HANG = PRINT + "print('hanging', flush=True)\ntime.sleep(3600)\n"
FAIL = PRINT + "sys.exit(f'error: no answer: {os.environ}')\n"


@dataclass
class Year:
    """What has come of it."""

    work: Path
    deployment: dict[str, Any] = field(default_factory=dict)
    weeks: dict[int, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    champion: str = ""
    stopped: int | None = None

    @property
    def root(self) -> Path:
        return self.work / "repo"


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What Prefect's API says; None where it refuses."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        said = (
            client.get(f"{url}/{path}") if body is None else client.post(f"{url}/{path}", json=body)
        )
    return said.json() if said.is_success else None


def secretive(root: Path) -> None:
    """Write secrets where a person might: parameters, and the address of a remote."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"] |= {"backbone": TOLD["hub"], "pretrained": TOLD["weights"]}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    learn = root / "learn.py"
    learn.write_text(PRINT + learn.read_text())
    dvc(root, "remote", "add", "--local", "mirror", str(TOLD["data"]))
    git(root, "commit", "-qam", "parameters")


@contextmanager
def hanging(year: Year, server: PrefectServer) -> Iterator[tuple[str, psutil.Process]]:
    """A run whose training hangs: its id, and its process; leave it ended."""
    last = folder_of(year.root) / "tree"

    def training() -> psutil.Process | None:
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words, place = process.info["cmdline"] or [], process.info["cwd"] or ""
            if words[1:] == ["learn.py"] and Path(place).is_relative_to(last):
                return process
        return None

    process = wait_until(training, "the training hangs")
    [run] = [run for run in server.flow_runs() if run["state_type"] == "RUNNING"]
    # It lies in a group of its own; the flow is what holds the guard's pipe.
    flow = process
    while "flows.serve" not in " ".join(flow.parent().cmdline()):
        flow = flow.parent()
    yield run["id"], flow
    wait_until(lambda: not process.is_running(), "the training has ended")


def ended_badly(year: Year, server: PrefectServer, stand: Stand) -> None:
    """A run that is cancelled, one that is killed, one that fails: a message each."""
    learn, dvc_yaml = year.root / "learn.py", year.root / "dvc.yaml"
    learn.write_text(HANG)
    # The first stage, so that no time is lost before.
    stages = dvc_yaml.read_text()
    dvc_yaml.write_text(stages.replace("python -m tasks.validate", "python learn.py"))
    git(year.root, "commit", "-qam", "hang")
    with hanging(year, server) as (run, _):
        cancel = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        assert ask(server.url, f"flow_runs/{run}/set_state", cancel)
        wait_until(lambda: len(stand.taken) >= 1, "a message of the cancelled run")
    with hanging(year, server) as (_, flow):
        flow.send_signal(signal.SIGKILL)
        wait_until(lambda: len(stand.taken) >= 2, "a message of the killed run")
    learn.write_text(FAIL)
    git(year.root, "commit", "-qam", "fail")
    wait_until(lambda: len(stand.taken) >= 3, "a message of the failed run")


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Year]:
    year = Year(tmp_path_factory.mktemp("year").resolve())
    digits = simulated.Digits.load()
    simulated.prepare(year.root, digits)
    secretive(year.root)
    with Stand() as stand, PrefectServer(year.work / "prefect") as server:
        threading.Thread(target=stand.serve_forever, daemon=True).start()
        variables = {
            **CANARIES,
            "TIMMFLOW_NOTIFY_URL": stand.address,
            "WANDB_MODE": "offline",
            "WANDB_BASE_URL": "http://127.0.0.1:9",  # nobody
        }
        words = ("--on-data", "1", "--name", "year")
        where = (year.root, server.url, year.work / "prefect")
        with simulated.scheduler(*where, *words, **variables) as process:
            before = 0.0
            incoming = year.root / "data/incoming"
            for week in (0, GOOD, WORSE):
                if week == GOOD:  # with it comes another one
                    simulated.arrive(digits, CORRUPT, incoming)
                year.weeks[week] = simulated.one_week(year.work, digits, server, week, before)
                before = year.weeks[week]["hidden"]
                shutil.rmtree(incoming / "week-04", ignore_errors=True)
            year.deployment = ask(server.url, "deployments/name/retrain/year")
            ended_badly(year, server, stand)
            year.runs = ask(server.url, "flow_runs/filter", {"limit": 200})
        year.stopped = process.returncode
        year.messages = [body for _, body in stand.taken]
        stand.shutdown()
        never = {"parameters": {"promote": "never"}}
        start = f"deployments/{year.deployment['id']}/create_flow_run"
        assert ask(server.url, start, never) is None
    champion = Registry(year.root).in_stage()
    year.champion = champion.name if champion else ""
    yield year


def test_weeks(year: Year) -> None:
    first, good, worse = year.weeks.values()
    assert (first["wrong"], first["version"]) == ([], "v1.0.0")
    assert (good["outcome"], good["version"]) == ("promoted", "v1.1.0")
    [(batch, reason)] = good["refused"].items()
    assert batch == "week-04" and ".png" in reason
    assert good["wrong"] == [f"week 1: refused: {good['refused']}"]  # not its own batch
    assert (worse["wrong"], worse["outcome"]) == ([], "refused")
    assert "failed: gain of accuracy" in worse["summary"]
    assert year.champion == "v1.1.0"


def test_versions_are_made_again_from_their_tags(year: Year) -> None:
    version = Registry(year.root).version("v1.1.0")
    assert simulated.reproduced(year.work, version) == []


def test_what_starts_runs(year: Year) -> None:
    deployment = year.deployment
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    form = deployment["parameter_openapi_schema"]["properties"]
    assert list(form) == ["root", "force", "promote", "publish"]
    assert all(described["description"] for described in form.values())
    starters = {run["created_by"]["type"] for run in year.runs if run["created_by"]}
    assert {"SCHEDULE", "AUTOMATION"} <= starters
    assert year.stopped == 128 + signal.SIGTERM
    assert "new batches: week-01" in (year.work / "prefect/serve.log").read_text()


def test_who_is_told_of_bad_ends(year: Year) -> None:
    titles = [message["title"] for message in year.messages[:3]]
    assert titles == ["retrain: Cancelled", "retrain: Crashed", "retrain: Failed"]
    for message in year.messages:
        assert f"look: {year.root}/.dvc/tmp/retrain/last" in message["message"]
        assert message["title"].split()[-1].upper() in {run["state_type"] for run in year.runs}
    assert "validate: no answer: environ({" in year.messages[2]["message"]


def test_nothing_secret_is_left_anywhere(year: Year) -> None:
    log = (year.work / "prefect/serve.log").read_text()
    assert "'SMTP_AUTH': '***'" in log and "environ({" in log
    own = {year.root / "params.yaml", year.root / ".dvc/config.local"}
    assert [found_in(path.read_bytes()) != [] for path in own] == [True, True]
    found = {}
    for path in year.work.rglob("*"):
        if path.is_file() and not path.is_symlink() and path not in own:
            found[path] = found_in(path.read_bytes())
    assert {path: canaries for path, canaries in found.items() if canaries} == {}
    # Of each kind there was something to look through.
    names = {path.relative_to(year.work).as_posix() for path in found}
    assert {"prefect/prefect.db", "prefect/server.log"} <= names
    assert any("/wandb/offline-run-" in f"/{name}" for name in names)
    assert any(name.startswith("remote/") for name in names)
    assert {"repo/.dvc/tmp/retrain/last/reports/verdict.json"} <= names
    everything = ["git", "cat-file", "--batch-all-objects", "--batch"]
    objects = subprocess.run(everything, cwd=year.root, capture_output=True, check=True).stdout
    params = (year.root / "params.yaml").read_bytes()
    assert objects.count(params) == 1 and b"Retrain: accuracy" in objects
    assert found_in(objects.replace(params, b"")) == []
    for week in year.weeks.values():
        assert found_in(repr(week).encode()) == []
    assert [found_in(repr(message).encode()) for message in year.messages] == [
        [] for _ in year.messages
    ]
    assert read_json(folder_of(year.root) / "done.json")["result"]["version"] is None
    assert os.environ.get("WANDB_API_KEY") is None
