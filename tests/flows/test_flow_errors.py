"""What a flow or its command fails of is told without secrets, whoever has raised it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from canaries import CANARIES, TOLD, found_in
from sweep_repository import make_sweep_toy

from components.errors import ParamsError, RepositoryError, TimmflowError
from flows.command_line import exit_code
from flows.flow_errors import FlowError, StageFailed

SAID = f"cannot be read: {TOLD['data']}, {CANARIES['GITHUB_TOKEN']}"
ERRORS: list[Callable[[str], TimmflowError]] = [
    FlowError,
    ParamsError,
    RepositoryError,
    lambda said: StageFailed("train", said, 1.0),
]


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of this process, given back after a command has set its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("make", ERRORS)
def test_a_failed_state_has_no_secrets(make: Callable[[str], TimmflowError]) -> None:
    from flows.pipeline import failed_state

    error = make(SAID)
    state = failed_state(error)
    assert state.message and "cannot be read" in state.message
    for told in (state.message, repr(state.data), str(state.data)):
        assert found_in(told.encode()) == []
    # What is without them already stays what it is: a command tells a stage's failure in short.
    assert (state.data is error) == isinstance(error, FlowError)


@pytest.mark.parametrize("make", ERRORS)
def test_a_command_prints_no_secrets(
    handlers: None, capsys: pytest.CaptureFixture[str], make: Callable[[str], TimmflowError]
) -> None:
    def run() -> int:
        raise make(SAID)

    assert exit_code(run) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "cannot be read" in told
    assert found_in(told.encode()) == []


def test_parameters_that_do_not_fit_are_quoted_without_secrets(
    tmp_path: Path, prefect_server: str
) -> None:
    from flows.sweep import sweep

    root = make_sweep_toy((tmp_path / "repo").resolve()).root
    state = sweep(str(root), {"train.lr": [TOLD["data"]]}, return_state=True)
    assert state.message and "train.lr = 'https://***@data.example/set'" in state.message
    with pytest.raises(FlowError, match="valid number") as caught:
        state.result()
    assert found_in(f"{state.message}{caught.value!r}".encode()) == []
