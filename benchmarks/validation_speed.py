"""Images a second: this project's whole validation beside cleanvision's default checks.

    python benchmarks/validation_speed.py --peers /tmp/peers/bin/python

600 JPEGs of 500 x 375, cut from photographs (`--photographs`) and turned by a few degrees. Rounds
take turns; each is a process of its own that measures itself, after its imports, on as many
processes as there are cores. Prints a markdown table of the medians, and the kinds of defect that
each can report. `--peers` is the Python of an environment with `cleanvision` and, for its kinds of
defect, `datumaro`: `python -m venv /tmp/peers && /tmp/peers/bin/pip install cleanvision datumaro`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

NUM_IMAGES, SIZE, ROUNDS = 600, (500, 375), 5
REPOSITORY = Path(__file__).resolve().parents[1]

# Each prints one JSON object; the folder is the first argument.
OURS = """
import json, sys, time
from pathlib import Path

from components.contract.catalogue import CHECKS
from components.contract.folder_reader import read_folder
from components.validation.run import validate_reading
from components.validation.settings import ValidateSettings

if __name__ == "__main__":
    start = time.perf_counter()
    result = validate_reading(read_folder(Path(sys.argv[1]), None), ValidateSettings())
    seconds = time.perf_counter() - start
    assert len(result.facts) == int(sys.argv[2]) and not any(fact.fault for fact in result.facts)
    print(json.dumps({"seconds": seconds, "kinds": len(CHECKS)}))
"""
CLEANVISION = """
import contextlib, io, json, sys, time

from cleanvision import Imagelab

if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        lab = Imagelab(data_path=sys.argv[1])
        lab.find_issues()
        seconds = time.perf_counter() - start
    assert len(lab.issues) == int(sys.argv[2])
    print(json.dumps({"seconds": seconds, "kinds": len(lab.issue_summary)}))
"""
DATUMARO = """
import json

from datumaro.components.errors import DatasetValidationError


def leaves(kind):
    below = kind.__subclasses__()
    return set().union(*map(leaves, below)) if below else {kind.__name__}


print(json.dumps({"seconds": None, "kinds": len(leaves(DatasetValidationError))}))
"""


def make_pictures(photographs: Path, folder: Path) -> None:
    """`NUM_IMAGES` JPEGs in two class folders of two splits."""
    random.seed(0)
    sources = sorted(path for path in photographs.rglob("*.jp*g") if path.is_file())
    if not sources:
        raise SystemExit(f"{photographs} holds no JPEGs; name a folder with --photographs")
    for number in range(NUM_IMAGES):
        with Image.open(random.choice(sources)) as source:
            picture = source.convert("RGB").rotate(random.uniform(-8, 8), Image.Resampling.BILINEAR)
        width, height = picture.size
        # The largest cut of the right shape, less a random margin that also hides the corners.
        share = random.uniform(0.7, 0.85) * min(width / SIZE[0], height / SIZE[1])
        wide, high = SIZE[0] * share, SIZE[1] * share
        left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
        box = (left, top, left + wide, top + high)
        picture = picture.resize(SIZE, Image.Resampling.BICUBIC, box)
        path = folder / ("val" if number % 5 == 0 else "train") / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)


def measure(python: str, program: str, folder: Path) -> dict[str, float]:
    """What one program prints; its file is where processes that it starts can find it."""
    script = folder.parent / "program.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [python, str(script), str(folder), str(NUM_IMAGES)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder.parent, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", required=True, help="Python with cleanvision, maybe datumaro")
    parser.add_argument("--photographs", type=Path, default=Path("/work/shared/data"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        make_pictures(options.photographs, folder)
        programs = {
            "timmflow": (sys.executable, OURS),
            "cleanvision": (options.peers, CLEANVISION),
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
        for _ in range(options.rounds):
            for name, (python, program) in programs.items():
                found[name].append(measure(python, program, folder))
        kinds = {name: rounds[0]["kinds"] for name, rounds in found.items()}
        try:
            kinds["datumaro"] = measure(options.peers, DATUMARO, folder)["kinds"]
        except SystemExit as fault:
            print(f"datumaro is not counted: {str(fault).splitlines()[-1]}", file=sys.stderr)
    rates = {
        name: NUM_IMAGES / statistics.median(item["seconds"] for item in rounds)
        for name, rounds in found.items()
    }
    print(f"{len(os.sched_getaffinity(0))} cores, {options.rounds} rounds\n")
    print("| | images/s | kinds of defect |\n|---|---|---|")
    for name, number in kinds.items():
        rate = f"{rates[name]:.0f}" if name in rates else "not measured"
        print(f"| {name} | {rate} | {number:g} |")
    print(f"\ntimmflow / cleanvision: {rates['timmflow'] / rates['cleanvision']:.2f}")


if __name__ == "__main__":
    main()
