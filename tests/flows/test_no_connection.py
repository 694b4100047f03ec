"""Nothing leaves the machine: all addresses a recorded stage and a retraining talk to, traced."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from retrain_repository import RetrainToy
from toy_repository import CODE

from tasks.model_registry import Registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
_LOOPBACK = re.compile(r'inet_addr\("127\.|"::1"|"::ffff:127\.')


def addresses(command: list[str], cwd: Path, env: dict[str, str]) -> list[str]:
    """Calls that name an internet address which is not loopback's; the command must end well."""
    log = cwd / "calls.txt"
    calls_of = "trace=connect,sendto,sendmsg,sendmmsg"
    trace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", calls_of, "-o", str(log)]
    done = subprocess.run([*trace, *command], cwd=cwd, env=env, capture_output=True, text=True)
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    calls = [line for line in log.read_text(errors="replace").splitlines() if "AF_INET" in line]
    # Port 0: no packet is sent; the system is only asked which address would be used.
    calls = [line for line in calls if "htons(0)" not in line]
    return [line for line in calls if not _LOOPBACK.search(line)]


def test_a_stage_that_is_recorded_talks_to_this_machine_only(tmp_path: Path) -> None:
    from raw_data_helpers import write_folders

    write_folders(tmp_path / "raw", {"": {"red": 12, "blue": 12}})
    example = (CODE / "examples" / "digits-classification.yaml").read_text()
    (tmp_path / "params.yaml").write_text(
        example.replace("data: data/digits-classification", "data: raw")
    )
    env = {**os.environ, "WANDB_MODE": "offline"}
    assert addresses([sys.executable, "-m", "tasks.validate"], tmp_path, env) == []
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_a_retraining_with_a_server_of_its_own_talks_to_this_machine_only(
    first: RetrainToy, tmp_path: Path
) -> None:
    toy = first.copied(tmp_path)
    toy.shorten()
    toy.commit("0.7")
    env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.retrain", "--quiet"]
    assert addresses(command, toy.root, {**env, "WANDB_MODE": "offline"}) == []
    # The server was talked to.
    assert "htons(" in (toy.root / "calls.txt").read_text(errors="replace")
    assert [v.name for v in Registry(toy.root).versions()] == ["v1.1.0", "v1.0.0"]
