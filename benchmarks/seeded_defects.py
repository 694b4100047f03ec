"""How many of the faults put into clean data sets validation finds, by check and format.

    python -m benchmarks.seeded_defects                  every fault 10 times in every format
    python -m benchmarks.seeded_defects --times 2 --only box-empty,odd-mode
    python -m benchmarks.seeded_defects --write docs/validation.md

For each fault a clean set of 24 tiny images is made and written with the one fault in it, read and
validated. It is found if a finding of its check (or of one that says the same in that format) is
there, and names the image where the fault is one image's; an error that refuses the whole set
counts only where the table says with which words. Clean sets must give no errors, and no
file of any set may change.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.defect_table import DEFECTS
from benchmarks.defects import ALL, LABELS, Defect
from components.contract.catalogue import CHECKS
from components.contract.findings import Finding
from components.contract.readers import read_dataset
from components.errors import DataError
from components.files import write_text
from components.validation.run import validate_reading
from components.validation.settings import ValidateSettings

from five_formats import make, write  # isort: skip  (benchmarks.defects has put it on the path)

_MARKS = ("<!-- seeded defects: begin -->", "<!-- seeded defects: end -->")


@dataclass(frozen=True)
class Outcome:
    """Of one set: whether the fault was found, what else was said, whether the files changed."""

    found: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    changed: bool


def try_once(number: int | None, format: str, seed: int) -> Outcome:
    """Put one fault into one set of one format, and validate it.

    Args:
        number: of the fault in `DEFECTS`; None leaves the set clean.
        format: one of `ALL`.
        seed: of the set and the place of the fault.
    """
    defect = None if number is None else DEFECTS[number]
    task = "classification" if format in LABELS else "detection"
    form = format.removesuffix("-boxes")
    rng = np.random.default_rng([seed, number or 0])
    raw = make(task, seed, defect.counts if defect else None)
    sample = raw.samples[int(rng.integers(len(raw.samples)))]
    if defect and defect.change:
        defect.change(raw, sample, rng)
    with tempfile.TemporaryDirectory() as folder:
        root = write(raw, Path(folder) / "raw", form)
        if defect and defect.damage:
            defect.damage(root, raw, sample, form)
        before = digest(root)
        settings = ValidateSettings(num_workers=1, **(defect.settings if defect else {}))
        try:
            reading = read_dataset(root, form, task, defect.classes if defect else None)
            findings = validate_reading(reading, settings).findings
        except DataError as fault:
            # Data of which nothing can be read is refused at once, for the reason expected.
            whole = bool(defect and defect.refusal and defect.refusal in str(fault))
            return Outcome(whole, (f"DataError: {fault}",), (), digest(root) != before)
        changed = digest(root) != before
    found = bool(defect and any(_tells(item, defect, sample.name) for item in findings))
    told = {severity: tuple(sorted({f.check for f in findings if f.severity == severity}))
            for severity in ("error", "warning")}  # fmt: skip
    return Outcome(found, told["error"], told["warning"], changed)


def _tells(item: Finding, defect: Defect, name: str) -> bool:
    if item.check not in (defect.check, *defect.also):
        return False
    stem = name.rsplit(".", 1)[0]
    return not defect.of_image or stem in f"{item.where} {item.message} {item.value} {item.image}"


def digest(root: Path) -> str:
    """SHA-256 over the names, links and bytes of all files of a folder."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        total.update(os.fsencode(path.relative_to(root)))
        if path.is_symlink():
            total.update(os.fsencode(path.readlink()))
        elif path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()


def _call(job: tuple[int | None, str, int]) -> Outcome:
    return try_once(*job)


def run(times: int, only: set[str] | None, num_workers: int) -> tuple[str, bool]:
    """All faults in all formats; the table as Markdown, and whether all is as it must be."""
    jobs: list[tuple[int | None, str, int]] = [
        (None, format, seed) for format in ALL for seed in range(3 * times)
    ]
    for number, defect in enumerate(DEFECTS):
        if not only or defect.check in only:
            jobs += [(number, f, seed) for f in defect.formats for seed in range(times)]
    with ProcessPoolExecutor(num_workers) as pool:
        outcomes = list(pool.map(_call, jobs, chunksize=8))
    tried: dict[tuple[str, str], list[bool]] = defaultdict(list)
    missed: dict[tuple[str, str, str], Outcome] = {}
    clean = [o for job, o in zip(jobs, outcomes, strict=True) if job[0] is None]
    for (number, format, _), outcome in zip(jobs, outcomes, strict=True):
        if number is None:
            continue
        defect = DEFECTS[number]
        tried[defect.check, format].append(outcome.found)
        if not outcome.found:
            missed[defect.check, defect.name, format] = outcome
    false_errors = sum(bool(o.errors) for o in clean)
    false_warnings = sum(bool(o.warnings) for o in clean)
    changed = sum(o.changed for o in outcomes)
    lines = [f"| check | severity | {' | '.join(ALL)} |", "|---|---" + "|--:" * len(ALL) + "|"]
    totals: dict[str, list[bool]] = {"error": [], "warning": []}
    for check in dict.fromkeys(defect.check for defect in DEFECTS):
        cells = []
        for format in ALL:
            results = tried.get((check, format), [])
            totals[CHECKS[check].severity] += results
            cells.append(f"{sum(results)}/{len(results)}" if results else "")
        if any(cells):
            lines.append(f"| `{check}` | {CHECKS[check].severity} | {' | '.join(cells)} |")
    for severity, results in totals.items():
        share = 100 * sum(results) / max(len(results), 1)
        lines.append(f"\n{severity}s found: {sum(results):,} of {len(results):,} ({share:.2f} %)")
    lines.append(
        f"\nclean sets: {len(clean)}; with an error: {false_errors}; with a warning: "
        f"{false_warnings}; sets with a file changed: {changed}"
    )
    for (check, name, format), outcome in missed.items():
        said = ", ".join((*outcome.errors, *outcome.warnings)) or "nothing"
        print(f"missed: {check} ({name}) in {format}: said {said[:300]}", file=sys.stderr)
    for outcome in clean:
        if outcome.errors or outcome.warnings:
            print(f"clean: {outcome.errors} {outcome.warnings}", file=sys.stderr)
    enough = sum(totals["warning"]) >= 0.98 * len(totals["warning"])
    return "\n".join(lines), all(totals["error"]) and enough and not false_errors and not changed


def write_between(page: Path, table: str) -> None:
    """Replace what stands between the marks of a page; both are added at its end if absent."""
    text = page.read_text(encoding="utf-8")
    start, end = _MARKS
    if start not in text:
        text = f"{text.rstrip()}\n\n{start}\n{end}\n"
    head, rest = text.split(start, 1)
    write_text(page, f"{head}{start}\n{table}\n{end}{rest.split(end, 1)[1]}")


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10, help="of each fault in each format")
    parser.add_argument("--only", help="checks, separated by commas")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    parser.add_argument("--num-workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    only = set(args.only.split(",")) if args.only else None
    table, good = run(args.times, only, args.num_workers)
    print(table)
    if args.write:
        write_between(args.write, table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
