"""What a flow costs over `dvc repro` when nothing has changed, with a Prefect server running.

    python benchmarks/flow_overhead.py [--rounds 9]

Six stages that have run; then, in turns, `dvc repro` and `python -m flows.pipeline --quiet`, both
with nothing to do, each as a command of its own, its start included.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "flows")]

from toy_repository import make_toy  # noqa: E402

from benchmarks.prefect_server import PrefectServer  # noqa: E402

COMMANDS = {"dvc repro": ["dvc", "repro"], "flows.pipeline": ["flows.pipeline", "--quiet"]}


def seconds(words: list[str], root: Path, env: dict[str, str]) -> tuple[float, float]:
    """Wall clock and CPU of a module and its children."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", *words]
    subprocess.run(command, cwd=root, env=env, check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = [usage.ru_utime + usage.ru_stime for usage in (before, after)]
    return wall, used[1] - used[0]


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="flow-overhead-") as name,
        PrefectServer(Path(name) / "server") as server,
    ):
        root = make_toy(Path(name).resolve() / "repo").root
        here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        env |= {"PATH": here, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": server.url}
        env |= {"PREFECT_HOME": str(Path(name) / "client"), "DVC_NO_ANALYTICS": "1"}
        found: dict[str, list[tuple[float, float]]] = {label: [] for label in COMMANDS}
        for words in COMMANDS.values():
            seconds(words, root, env)
        for _ in range(args.rounds):
            for label, words in COMMANDS.items():
                found[label].append(seconds(words, root, env))
    medians = {
        label: [statistics.median(column) for column in zip(*times, strict=True)]
        for label, times in found.items()
    }
    for label, (wall, used) in medians.items():
        print(f"{label:16} {wall:6.2f} s   CPU {used:5.2f} s")
    repro, flow = medians.values()
    print(f"{'overhead':16} {flow[0] - repro[0]:6.2f} s   CPU {flow[1] - repro[1]:5.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
