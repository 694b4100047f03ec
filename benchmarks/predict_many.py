"""`tasks.predict` on 1,000 images of which ten are broken: results, named errors, memory, speed.

    python -m benchmarks.predict_many model.onnx IMAGE_FOLDER [--num 1000] [-- --format csv …]

Copies the folder's images, over and over, into a temporary folder, breaks ten of them in ten ways,
and runs the command on it as a user would, with the options after `--`. Fails if a result or the
name of a broken image is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from PIL import Image

from components.inference.image_paths import image_paths

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("options", nargs="*", help="of tasks.predict")
    args = parser.parse_args()
    sources = [path for path in image_paths([str(args.images)], True) if isinstance(path, Path)]
    with tempfile.TemporaryDirectory() as scratch:
        folder, output = Path(scratch, "images"), Path(scratch, "results")
        folder.mkdir()
        for number in range(args.num):
            source = sources[number % len(sources)]
            shutil.copyfile(source, folder / f"{number:05}{source.suffix}")
        broken = damage(sorted(folder.iterdir()))
        command = [sys.executable, "-m", "tasks.predict", args.model, folder, "--output", output]
        process = subprocess.Popen(
            [*command, *args.options], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        peak, processor, errors = watch(process)
        found = images_in(output.read_text(), args.options)
        named = [path for path in broken if any(f"{path}: " in line for line in errors)]
        print(
            f"{' '.join(args.options) or '(no options)'}: {found:,} results, {len(named)} named "
            f"errors, exit code {process.returncode}, {1000 * processor / args.num:.0f} ms of "
            f"processor an image, at most {peak:.0f} MB"
        )
        assert len(named) == len(broken) == len(errors) - 1 and process.returncode == 1
        assert found == args.num - len(broken) or "coco" in args.options
    return 0


def damage(paths: list[Path]) -> list[Path]:
    """Break ten images, each in its own way."""
    chosen = paths[:: len(paths) // 10][:10]
    whole = paths[1].read_bytes()
    contents = (b"", b"GIF89a", whole[: len(whole) // 3], b"\0" * 5000, b"<svg/>", whole[9:])
    for path, content in zip(chosen, contents, strict=False):
        path.write_bytes(content)
    chosen[6].unlink()
    chosen[6].symlink_to("nowhere")
    Image.new("L", (9000, 9000)).save(chosen[7], "PNG")  # more pixels than are accepted
    with chosen[8].open("r+b") as file:
        file.truncate(70_000_000)  # more bytes
    Image.new("F", (8, 8)).save(chosen[9], "TIFF")
    return chosen


def watch(process: subprocess.Popen[str]) -> tuple[float, float, list[str]]:
    """Peak memory (MB) and processor time (s) of a process, and its lines on standard error."""
    assert process.stderr is not None
    peak = seconds = 0.0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):
            peak = max(peak, watched.memory_info().rss / 1e6)
            seconds = sum(watched.cpu_times()[:2]) or seconds
        time.sleep(0.05)
    return peak, seconds, process.stderr.read().splitlines()


def images_in(text: str, options: list[str]) -> int:
    """Number of different images in a result file."""
    if "coco" in options:
        return len({row["image_id"] for row in json.loads(text)})
    lines = text.splitlines()
    if "csv" in options:
        return len({line.split(",")[0] for line in lines[1:]})
    return len({json.loads(line)["image"] for line in lines})


if __name__ == "__main__":
    sys.exit(main())
