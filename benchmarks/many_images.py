"""The whole `validate` stage on 1,000, 10,000 and 100,000 images: time and memory.

    python -m benchmarks.many_images
    python -m benchmarks.many_images 1000 10000 --write

Makes sets of tiny pictures, each unlike all others, with three boxes each in a CSV table, and runs
the stage on each set in a process of its own: reading, decoding, all checks, tables and page. With
`--faulty` the pictures are so small, and a box of each sticks out so far, that each has several
warnings. The folder of the sets (`--folder`) is removed afterwards. `--write` puts the table into
docs/validation.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.checks_page import PAGE, between

REPOSITORY = Path(__file__).resolve().parents[1]
NUMBERS = (1000, 10_000, 100_000)
BOXES = 3  # an image
CLASSES = ("bird", "cat", "dog", "fish", "horse")
_IN_A_FOLDER = 1000

# Measures itself after its imports; the arguments are the data and the folder for what it writes.
STAGE = """
import json, multiprocessing, re, resource, sys, threading, time
from pathlib import Path

import components.contract.readers, components.validation.page, components.validation.run
import pandera.pandas, pyarrow.parquet
from tasks.layout import Layout
from tasks.params import Params
from tasks.validate import validate

most = [0]


def watch():
    # Not ru_maxrss of children: that counts the memory of the process that they were made from.
    while True:
        for child in multiprocessing.active_children():
            try:
                status = Path(f"/proc/{child.pid}/status").read_text()
            except OSError:
                continue
            found = re.search(r"VmHWM:\\s*(\\d+)", status)
            most.append(max(most.pop(), int(found[1]) if found else 0))
        time.sleep(0.5)


threading.Thread(target=watch, daemon=True).start()
params = Params.model_validate({"base": {"task": "detection", "data": sys.argv[1]}})
before, wall = time.process_time(), time.perf_counter()
figures = validate(params, Layout(Path(sys.argv[2])))
wall = time.perf_counter() - wall
children = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "images": figures["num_images"],
    "warnings": figures["num_warnings"],
    "wall": wall,
    "own": time.process_time() - before,
    "workers": children.ru_utime + children.ru_stime,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "worker_peak": most[0] / 1024,
}))
"""


def make(folder: Path, num_images: int, faulty: bool) -> None:
    """A box data set in a CSV table; four fifths of it are train, the rest val."""
    draw = np.random.default_rng(num_images)
    side = 8 if faulty else 16
    rows = ["path,label,x,y,width,height,split"]
    for number in range(num_images):
        path = f"images/{number // _IN_A_FOLDER:03d}/{number:06d}.png"
        if number % _IN_A_FOLDER == 0:
            (folder / path).parent.mkdir(parents=True)
        pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / path, compress_level=1)
        split = "val" if number % 5 == 0 else "train"
        for box in range(BOXES):
            x, y = draw.integers(0, side // 2, 2)
            width, height = draw.integers(4, side // 2 + 1, 2) + (9 if faulty and not box else 0)
            label = CLASSES[draw.integers(len(CLASSES))]
            rows.append(f"{path},{label},{x},{y},{width},{height},{split}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def measure(data: Path, output: Path) -> dict[str, float]:
    """Run the stage in a process of its own.

    Returns:
        `images`, `warnings`; `wall`, `own` and `workers`, seconds: of the clock, and of processor
        time of the stage's process and of those that decode; `peak` and `worker_peak`, MiB: most
        memory of the first and of the largest of the others.
    """
    command = [sys.executable, "-c", STAGE, str(data), str(output)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=output, check=False
    )
    if done.returncode:
        raise SystemExit(f"the stage failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(rows: list[dict[str, float]]) -> str:
    """The measurements as Markdown."""
    lines = [
        "| images | boxes | warnings | seconds | processor, ms an image | peak memory, MiB "
        "| largest decoding process, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        each = 1000 * (row["own"] + row["workers"]) / row["images"]
        lines.append(
            f"| {row['images']:,} | {BOXES * row['images']:,} | {row['warnings']:,} "
            f"| {row['wall']:.1f} | {each:.2f} | {row['peak']:.0f} | {row['worker_peak']:.0f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", type=int, default=NUMBERS, help="images of each set")
    parser.add_argument("--faulty", action="store_true", help="each image has warnings")
    parser.add_argument("--folder", type=Path, help="for the sets; else a temporary one")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    args = parser.parse_args(argv)
    rows = []
    for number in args.numbers:
        with tempfile.TemporaryDirectory(dir=args.folder) as place:
            data, output = Path(place) / "data", Path(place) / "output"
            output.mkdir()
            make(data, number, args.faulty)
            rows.append(measure(data, output))
            print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if args.write:
        words = ["python -m benchmarks.many_images", *map(str, args.numbers)]
        command = " ".join([*words, *(["--faulty"] if args.faulty else []), "--write"])
        text = (
            f"`{command}`, {len(os.sched_getaffinity(0))} cores: the whole stage, from reading to "
            f"the page.\n\n{table(rows)}"
        )
        PAGE.write_text(between(PAGE.read_text(), "many images", text, "many_images"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
