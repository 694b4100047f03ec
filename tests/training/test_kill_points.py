"""A few of the hundreds of kill points of docs/reliability.md: real processes, real signals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_trainings_that_are_killed_end_with_the_weights_of_one_that_is_not(tmp_path):
    state = tmp_path / "state.jsonl"
    command = [
        "benchmarks/kill_points.py",
        "run",
        "--state",
        str(state),
        "--points",
        "6",
        "--seed",
        "5",
    ]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in state.read_text().splitlines()]
    assert len(lines) == 6 and all(line["wrong"] == [] for line in lines)
    assert sum(any(line["status"]) for line in lines) >= 4, "most were interrupted"
    points = [line["point"] for line in lines]
    assert {point["number"] for point in points} == {"INT", "TERM", "KILL"}
    assert {point["kind"] for point in points} == {"classification", "fcos", "yolox"}
