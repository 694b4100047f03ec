"""What all tests share: an environment without anybody's settings."""

import os
from pathlib import Path

import pytest

for name in list(os.environ):
    if name.startswith(("WANDB_", "PREFECT_", "DVC_")):
        del os.environ[name]
os.environ["DO_NOT_TRACK"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "1"

FLOW_TESTS = Path(__file__).parent / "flows"
LONGEST = Path(__file__).parent / "test_end_to_end.py"


def pytest_collection_modifyitems(items):
    """Flows come last: once Prefect has run in a process, what it forks exits with code 1.

    Its services leave an at-exit call behind that fails in a child they do not run in, and a
    data loader's worker that ends so fails the training. The longest file comes first, so that of
    several processes none is left to run it alone.
    """
    items.sort(key=lambda item: (FLOW_TESTS in item.path.parents, item.path != LONGEST))


@pytest.fixture
def untracked(monkeypatch):
    """Stages that are run in this test record nothing with W&B."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
