"""All hostile data sets: how each ends, in what time and memory.

    python -m benchmarks.hostile_input
    python -m benchmarks.hostile_input --only XML
    python -m benchmarks.hostile_input --write

Each is read and validated in a process of its own, which has 10 s of the processor and 1.5 GiB. It
must end in a finding or an error, must not touch a file, and must not open one outside the data.
`--write` puts the table into docs/validation.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))

from hostile import Case
from hostile_run import MOST_BYTES, MOST_SECONDS, End, run
from hostile_texts import CASES

from benchmarks.checks_page import PAGE, between

# Of a case, by the words before its colon; what is not here is about special files and links.
_PARTS = {
    "folder file": "image files",
    "coco file": "image files",
    "folder name": "names of files",
    "coco name": "names of files",
    "coco path": "paths in annotations",
    "csv path": "paths in annotations",
    "voc path": "paths in annotations",
    **{kind: kind for kind in ("JSON", "CSV", "XML", "YAML", "YOLO text")},
}
_LINKS = "links, pipes, folders"
_HEAVIEST = 5


def part(case: Case) -> str:
    """The row of the table in which a case is counted."""
    head = case.name.partition(":")[0]
    return _PARTS.get(head) or _PARTS.get(head.split(" ")[0], _LINKS)


def page(cases: list[Case], ends: Mapping[str, End]) -> str:
    """How the cases ended, as Markdown."""
    lines = [
        f"`python -m benchmarks.hostile_input --write`: {len(cases)} sets, each a sound one with "
        "one hostile thing in it. None",
        f"may need more than {MOST_SECONDS} s of the processor or {MOST_BYTES / 2**30:g} GiB, "
        "crash, hang, change a file, or open one outside",
        "the data. Those accepted are odd and not wrong: a name in emoji, 50 MB of text in a key "
        "that nobody reads.",
        "",
        "| | sets | findings | refused as a whole | accepted | failed | most seconds | most MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(part(case) for case in cases))
    for name in [*names, "all"]:
        members = [ends[case.name] for case in cases if name in ("all", part(case))]
        counts = {
            verdict: sum(not end.faults and end.verdict == verdict for end in members)
            for verdict in ("findings", "error", "clean")
        }
        failed = sum(bool(end.faults) for end in members)
        lines.append(
            f"| {name} | {len(members)} | {counts['findings']} | {counts['error']} "
            f"| {counts['clean']} | {failed} | {max(end.seconds for end in members):.1f} "
            f"| {max(end.megabytes for end in members):.0f} |"
        )
    slow = sorted(cases, key=lambda case: -ends[case.name].seconds)[:_HEAVIEST]
    slowest = "; ".join(f"{case.name}, {ends[case.name].seconds:.1f} s" for case in slow)
    lines += ["", f"The slowest: {slowest}. About 180 MiB are what the program itself takes."]
    return "\n".join(lines)


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    args = parser.parse_args()
    if args.write and args.only:
        parser.error("--write is for all cases, --only for some")
    cases = [case for case in CASES if args.only in case.name]
    ends = {}
    for case in cases:
        end = ends[case.name] = run(case)
        print(f"{end.seconds:5.1f} s {end.megabytes:5.0f} MiB {end.verdict:8} {case.name}")
        for fault in end.faults:
            print(f"FAULT {case.name}: {fault}")
        sys.stdout.flush()
    text = page(cases, ends)
    print(text)
    if args.write:
        PAGE.write_text(between(PAGE.read_text(), "hostile input", text, "hostile_input"))
    failed = [name for name, end in ends.items() if end.faults]
    print(f"cases with a fault: {len(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
