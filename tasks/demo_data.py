"""Build the embedded data sets: handwritten digits, no download.

    python -m tasks.demo_data                  all of them
    python -m tasks.demo_data detection        data/digits-detection: scenes, COCO JSON
    python -m tasks.demo_data classification   data/digits-classification: a folder per digit
    python -m tasks.demo_data multilabel       data/digits-multilabel: which digits, CSV

Does nothing where they are there already.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from components.errors import TimmflowError


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.demo_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ("detection", "classification", "multilabel", "all")
    parser.add_argument("which", nargs="?", default="all", choices=names)
    parser.add_argument("--root", default="data", type=Path, help="where the folders go")
    args = parser.parse_args(argv)
    from components import digits

    builders = {
        "detection": digits.build_detection,
        "classification": digits.build_classification,
        "multilabel": digits.build_multi_label,
    }
    for name, build in builders.items():
        if args.which in (name, "all"):
            folder = args.root / f"digits-{name}"
            try:
                built = build(folder)
            except TimmflowError as error:
                print(f"error: demo_data: {error}", file=sys.stderr)
                return 1
            print(f"{folder}: {'built' if built else 'there already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
