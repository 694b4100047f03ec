"""Fixtures: a toy repository, a clean environment, and one Prefect server for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from retrain_repository import RetrainToy, make_retrain_toy, retrained
from toy_repository import CODE, Command, Toy, make_toy


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = make_toy((tmp_path / "repo").resolve())
    yield toy
    for process in toy.processes():
        process.kill()


@pytest.fixture(scope="session", autouse=True)
def scrubbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No settings of the person who runs the tests, and nothing written to their home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("PREFECT_", "WANDB_", "DVC_")):
                patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setenv("PYTHONPATH", str(CODE))
        yield


@pytest.fixture(scope="session")
def prefect_server(scrubbed: None) -> Iterator[str]:
    """The address of a server with a database of its own."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield str(PREFECT_API_URL.value())


@pytest.fixture
def command(toy: Toy, prefect_server: str) -> Command:
    """The command, with the session's server configured."""
    return Command(toy, prefect_server)


@pytest.fixture
def lone_command(toy: Toy) -> Command:
    """The command, with no server configured."""
    return Command(toy, None)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, scrubbed: None) -> RetrainToy:
    """A repository that has been retrained once, with a dirty tree."""
    toy = make_retrain_toy(tmp_path_factory.mktemp("first").resolve() / "repo")
    (toy.root / "stage.py").write_text("a defect, not committed")
    (toy.root / "new.txt").write_text("not tracked")
    (toy.root / "inputs" / "export.txt").write_text("staged")
    toy.git("add", "inputs/export.txt")
    before = toy.git("status", "--porcelain"), toy.git("rev-parse", "HEAD")
    result, outcomes = retrained(toy)
    assert (result["outcome"], result["version"]) == ("promoted", "v1.0.0")
    assert outcomes["train"] == "ran"
    assert (toy.git("status", "--porcelain"), toy.git("rev-parse", "HEAD")) == before
    assert (toy.root / "stage.py").read_text() == "a defect, not committed"
    return toy
