"""Notifications: what is said, that nothing secret is, and that none can stop a run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow
from prefect.states import Cancelling, Crashed, Failed

from flows import notify
from flows.dead_runs import SILENT_SECONDS, keep_telling
from flows.incoming_watch import resource
from flows.retrain import retrain
from flows.retrain_command import main

# One of Apprise's plugins imports it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SECRET = "token-that-nobody-may-see"


class Stand(HTTPServer):
    """Takes notifications on loopback; answers `status`, after `delay` seconds."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.delay = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?key={SECRET}"


class Taker(BaseHTTPRequestHandler):
    server: Stand

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.server.delay)
        self.server.taken.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def stand() -> Iterator[Stand]:
    with Stand() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run_and_state(reason: str, root: str = "/repo") -> tuple[Any, Any]:
    run = SimpleNamespace(name="calm-owl", id="4711", parameters={"root": root})
    return run, Failed(message=reason)


def test_what_is_said() -> None:
    title, text = notify.message("retrain", *run_and_state("train: nothing was learnt"))
    assert title == "retrain: Failed"
    assert text.startswith("calm-owl on ")
    lines = text.splitlines()
    assert lines[0].endswith(": train: nothing was learnt")
    assert lines[1] == "look: /repo/.dvc/tmp/retrain/last"
    run, _ = run_and_state("")
    assert notify.message("retrain", run, Cancelling())[0] == "retrain: Cancelled"
    assert notify.message("retrain", *run_and_state("x" * 9000))[1].count("x") == 300
    assert "\nlook: .dvc/tmp" in notify.message("retrain", *run_and_state("x", "."))[1]


@pytest.mark.parametrize(
    ("set_up", "said"),
    [
        (lambda stand: stand.address, ""),
        (lambda stand: f"json://127.0.0.1:{stand.server_port}/hook?-key={SECRET}", ""),
        (lambda stand: "http://127.0.0.1:9/" + SECRET, "the other side did not take it"),
        (lambda stand: SECRET, "is none that Apprise knows"),
        (lambda stand: f"ftp://{SECRET}@host", "is none that Apprise knows"),
    ],
    ids=["webhook", "apprise", "nobody there", "no address", "unknown scheme"],
)
def test_addresses(
    stand: Stand,
    set_up: Any,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(notify.VARIABLE, set_up(stand))
    problem = notify._send("title", "text")
    assert said in problem
    assert bool(problem) == bool(said)
    if not said:
        [(path, body)] = stand.taken
        assert path == f"/hook?key={SECRET}"
        assert (body["title"], body["message"], body["type"]) == ("title", "text", "failure")
    out, errors = capfd.readouterr()
    assert SECRET not in problem + caplog.text + out + errors


def test_a_side_that_refuses_or_hangs(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notify.VARIABLE, stand.address)
    stand.status = 500
    assert notify._send("title", "text") == "the other side did not take it"
    stand.delay = 1.0
    assert notify._within(0.05, lambda: notify._send("a", "b")) == "not done in 0 s"


def defect() -> str:
    raise RuntimeError(SECRET)


def test_a_defect_is_named_by_its_kind_alone() -> None:
    assert notify._within(5, defect) == "RuntimeError"


def test_the_hooks_of_retraining() -> None:
    for hooks in (
        retrain.on_failure_hooks,
        retrain.on_cancellation_hooks,
        retrain.on_crashed_hooks,
    ):
        assert hooks == [notify.notify]


def test_a_failing_flow_notifies_from_a_block_and_stays_as_it_is(
    stand: Stand,
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from prefect.blocks.system import Secret

    monkeypatch.delenv(notify.VARIABLE, raising=False)

    @flow(name="failing", on_failure=[notify.notify])
    def failing(root: str) -> Any:
        return Failed(message="push: https://u:secret@host/x does not answer")

    assert failing("/repo", return_state=True).is_failed()
    assert stand.taken == []
    assert "no notification" not in caplog.text
    Secret(value=stand.address).save(notify.BLOCK, overwrite=True, _sync=True)
    assert failing("/repo", return_state=True).is_failed()
    [(_, body)] = stand.taken
    assert body["title"] == "failing: Failed"
    assert ": push: https://***@host/x does not answer" in body["message"]
    stand.status = 500
    state = failing("/repo", return_state=True)
    assert state.is_failed()
    assert state.message is not None
    assert state.message.startswith("push: ")
    assert "no notification was sent: the other side did not take it" in caplog.text
    assert SECRET not in caplog.text


def test_what_ends_the_command_before_the_flow_is_told(
    stand: Stand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(notify.VARIABLE, stand.address)
    words = ["--root", str(tmp_path)]
    assert main(words) == 1
    [(_, body)] = stand.taken
    said = capsys.readouterr().err.strip().removeprefix("error: ")
    assert body["title"] == "retrain: not begun"
    assert body["message"].startswith(f"{tmp_path} on ")
    assert body["message"].endswith(f": {said}")
    stand.status = 500
    assert main(words) == 1
    errors = capsys.readouterr().err
    assert "no notification was sent: the other side did not take it" in errors
    assert errors.endswith(f"error: {said}\n")
    with pytest.raises(ZeroDivisionError), notify.before_flow("retrain", tmp_path):
        raise ZeroDivisionError(SECRET)
    assert stand.taken[-1][1]["message"].endswith(": ZeroDivisionError")


def test_a_run_whose_machine_has_died_is_told_of_once(
    stand: Stand,
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from prefect.client.orchestration import get_client

    @flow(name="retrain")
    def stand_in(root: str) -> None: ...

    def look() -> list[str]:
        before = len(stand.taken)
        keep_telling("mine", lambda seconds: True)
        return [body["message"] for _, body in stand.taken[before:]]

    silent = f"no heartbeat for {SILENT_SECONDS} s: its process has died"
    with get_client(sync_client=True) as client:
        for name, deployment, message in [
            ("dead", "mine", silent),
            ("killed", "mine", "Process exited with -9"),  # a hook has told of it
            ("elsewhere", "other", silent),
        ]:
            client.create_flow_run(
                stand_in,
                name=name,
                parameters={"root": "/repo"},
                tags=[resource(deployment)],
                state=Crashed(message=message),
            )
    monkeypatch.setattr(notify, "_address", lambda: "")
    assert look() == []
    monkeypatch.setattr(notify, "_address", lambda: stand.address)
    stand.status = 500
    assert len(look()) == 1
    assert "no notification of dead was sent: the other side did not take it" in caplog.text
    stand.status = 200
    [message] = look()
    assert message.splitlines()[:2] == [f"dead: {silent}", "look: /repo/.dvc/tmp/retrain/last"]
    assert stand.taken[-1][1]["title"] == "retrain: Crashed"
    assert look() == []
