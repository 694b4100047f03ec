"""What all tests share: an environment without anybody's settings."""

import os

import pytest

for name in list(os.environ):
    if name.startswith(("WANDB_", "PREFECT_", "DVC_")):
        del os.environ[name]
os.environ["DO_NOT_TRACK"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "1"


@pytest.fixture
def untracked(monkeypatch):
    """Stages that are run in this test record nothing with W&B."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
