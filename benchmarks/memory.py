"""What keeping freed memory is worth: a training step with glibc's habits and with ours.

    python benchmarks/memory.py

Runs the two in turn, in processes of their own, and prints images a second (median) and the ratio.
"""

import statistics
import subprocess
import sys

STEP = """
import os, sys, time, statistics, torch, timm
from components.runtime import configure_torch
if sys.argv[1] == "glibc":
    os.environ["MALLOC_TRIM_THRESHOLD_"] = "set"  # leaves glibc as it is
configure_torch(2, 0)
model = timm.create_model("tf_efficientnet_lite0", num_classes=10).train()
model = model.to(memory_format=torch.channels_last)
images = torch.randn(32, 3, 160, 160).to(memory_format=torch.channels_last)
times = []
for _ in range(6):
    started = time.perf_counter()
    model(images).sum().backward()
    times.append(time.perf_counter() - started)
print(32 / statistics.median(times[1:]))
"""


def main() -> None:
    """Three rounds of both, interleaved."""
    rates: dict[str, list[float]] = {"glibc": [], "kept": []}
    for _ in range(3):
        for habit in rates:
            done = subprocess.run(
                [sys.executable, "-c", STEP, habit], capture_output=True, text=True, check=True
            )
            rates[habit].append(float(done.stdout))
    medians = {habit: statistics.median(values) for habit, values in rates.items()}
    for habit, value in medians.items():
        print(f"{habit:6} {value:6.1f} images/s")
    print(f"ratio  {medians['kept'] / medians['glibc']:6.2f}")


if __name__ == "__main__":
    main()
