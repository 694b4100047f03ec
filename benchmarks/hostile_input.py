"""All hostile data sets: how each ends, in what time and memory.

    python -m benchmarks.hostile_input
    python -m benchmarks.hostile_input --only XML

Each is read and validated in a process of its own, which has 10 s of the processor
and 1.5 GiB. It must end in a
finding or an error, must not touch a file, and must not open one outside the data.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))

from hostile_run import run
from hostile_texts import CASES


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    args = parser.parse_args()
    cases = [case for case in CASES if args.only in case.name]
    ends = {}
    for case in cases:
        end = ends[case.name] = run(case)
        for fault in end.faults:
            print(f"FAULT {case.name}: {fault}", flush=True)
    verdicts = Counter(end.verdict for end in ends.values())
    slowest = max(ends, key=lambda name: ends[name].seconds)
    largest = max(ends, key=lambda name: ends[name].megabytes)
    print(f"{len(ends)} hostile sets: " + ", ".join(f"{n} {v}" for v, n in verdicts.items()))
    print(f"slowest: {slowest}, {ends[slowest].seconds:.1f} s")
    print(f"most memory: {largest}, {ends[largest].megabytes:.0f} MiB")
    failed = [name for name, end in ends.items() if end.faults]
    print(f"cases with a fault: {len(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
