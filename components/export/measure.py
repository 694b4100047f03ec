"""What a model file costs: latency of files compared with each other, and the memory of one.

`python -m components.export.measure FILE HEIGHT WIDTH` prints the memory, of a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

BATCH_SIZES = (1, 8)
_WARM_UP = 2

Runner = Callable[[np.ndarray], tuple[np.ndarray, ...]]


def latencies(
    runners: Mapping[str, Runner],
    images: np.ndarray,
    runs: int,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> dict[str, dict[str, float]]:
    """Latency of several models, measured in turns, so that a busy machine slows all alike.

    Args:
        runners: what runs a batch, by name.
        images: uint8 RGB [N, H, W, 3], N at least 1; batches are filled up by repeating them.
        runs: timed calls at batch 1; at others a quarter of them.
        batch_sizes: in this order.

    Returns:
        By name `latency_ms_p50`, `latency_ms_p95` (batch 1), `latency_ms_p50_batch_8`,
        `latency_ms_p95_batch_8`, and `images_per_second`, at the last batch size.
    """
    figures: dict[str, dict[str, float]] = {name: {} for name in runners}
    for size in batch_sizes:
        timed: dict[str, list[float]] = {name: [] for name in runners}
        count = runs if size == 1 else -(-runs // 4)
        for number in range(count + _WARM_UP):
            batch = images[(np.arange(size) + number) % len(images)]
            for name, run in runners.items():
                started = time.perf_counter()
                run(batch)
                timed[name].append(1000 * (time.perf_counter() - started))
        suffix = "" if size == 1 else f"_batch_{size}"
        for name, values in timed.items():
            middle, slow = np.percentile(values[_WARM_UP:], [50, 95])
            figures[name][f"latency_ms_p50{suffix}"] = float(middle)
            figures[name][f"latency_ms_p95{suffix}"] = float(slow)
            figures[name]["images_per_second"] = 1000 * size / float(middle)
    return figures


def peak_memory_mb(path: Path, image_size: tuple[int, int]) -> float | None:
    """Megabytes by which loading a file and running it at batch 1 and 8 raises a process's peak.

    Measured in a process of its own, above what it needs with its libraries loaded. None where
    the system does not tell.
    """
    command = [sys.executable, "-m", "components.export.measure", str(path.resolve())]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, *map(str, image_size)], cwd=root, capture_output=True, text=True, check=False
    )
    try:
        return float(done.stdout)
    except ValueError:
        return None


def load_runner(path: Path, num_threads: int = 0) -> Runner:
    """What runs batches of images through an exported file, ONNX or `.pt2`."""
    if path.suffix == ".pt2":
        import torch

        import components.export.graph_input  # noqa: F401 - registers the operators in the file

        module = torch.export.load(path).module()

        def run_program(images: np.ndarray) -> tuple[np.ndarray, ...]:
            with torch.inference_mode():
                return tuple(o.numpy() for o in module(torch.from_numpy(images)))

        return run_program
    from components.export.predictor import OnnxPredictor

    return OnnxPredictor(path, num_threads).run


def _peak_mb() -> float:
    """Peak of this process's own memory; not `ru_maxrss`, which a child inherits."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main(argv: list[str]) -> int:
    """Command line; see the module's text."""
    path, height, width = Path(argv[0]), int(argv[1]), int(argv[2])
    import onnxruntime  # noqa: F401 - counts as a library, not as the model

    if path.suffix == ".pt2":
        import components.export.graph_input  # noqa: F401 - likewise
    try:
        before = _peak_mb()
    except (OSError, StopIteration):
        return 1  # the system does not tell
    run = load_runner(path)
    for size in BATCH_SIZES:
        run(np.zeros((size, height, width, 3), dtype=np.uint8))
    sys.stdout.write(f"{_peak_mb() - before}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
