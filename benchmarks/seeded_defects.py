"""How many of the faults put into clean data sets validation finds, by check and format.

    python -m benchmarks.seeded_defects                  every fault 10 times in every format
    python -m benchmarks.seeded_defects --times 2 --only box-empty,odd-mode
    python -m benchmarks.seeded_defects --write docs/validation.md

For each fault a clean set of 24 tiny images is written with the one fault in it, and validated. It
is found if there is a finding of its check, which names the image where the fault is one image's.
What is said besides, other than what the table says to follow from the fault, is a false alarm, as
is all that is said of a clean set. Where formats hold the same data with the same fault, they must
come to the same findings. No file of any set may change.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.defect_table import DEFECTS
from benchmarks.defects import ALIKE, ALL, Defect, clean_set, form_of, task_of, write_set
from components.contract.accepted_splits import AcceptedSplits
from components.contract.catalogue import CHECKS
from components.contract.findings import Finding
from components.contract.readers import read_dataset
from components.errors import DataError
from components.files import write_text
from components.validation.profile import profile
from components.validation.run import Result, validate_reading
from components.validation.settings import ValidateSettings

_MARKS = ("<!-- seeded defects: begin -->", "<!-- seeded defects: end -->")
_OTHER = 10_000  # seeds from here on make the sets that drift is measured from
_CLEAN = 3  # clean sets for each time that a fault is put into one

Job = tuple[int | None, str, int]  # place in `DEFECTS` or None for a clean set, format, seed


@dataclass(frozen=True)
class Outcome:
    """Of one set.

    Args:
        found: whether the fault was found.
        said: the checks that have findings, sorted.
        beside: those of them that neither are the fault's nor follow from it.
        changed: whether a file was changed.
        seconds: of the processor, for reading and validating.
    """

    found: bool
    said: tuple[str, ...]
    beside: tuple[str, ...]
    changed: bool
    seconds: float


def try_once(number: int | None, format: str, seed: int) -> Outcome:
    """Put one fault into one set of one format, and validate it.

    Args:
        number: of the fault in `DEFECTS`; None leaves the set clean.
        format: one of `ALL`.
        seed: of the set and the place of the fault.
    """
    defect = Defect("", "", (), drift=True) if number is None else DEFECTS[number]
    rng = np.random.default_rng([seed, number or 0])
    raw = clean_set(format, seed, defect.counts)
    sample = raw.samples[int(rng.integers(len(raw.samples)))]
    held = {hashlib.sha256(other.data).hexdigest(): str(other.split) for other in raw.samples}
    if defect.change:
        defect.change(raw, sample, rng)
    splits = AcceptedSplits().updated(held) if defect.accepted else None
    reference = _accepted(format, _OTHER + seed % 4, defect.counts) if defect.drift else None
    with tempfile.TemporaryDirectory() as folder:
        root = write_set(raw, Path(folder) / "raw", format)
        if defect.damage:
            defect.damage(root, raw, sample, format)
        before = digest(root)
        start = time.process_time()
        try:
            findings = _validated(root, format, defect, reference, splits).findings
            said = tuple(sorted({item.check for item in findings}))
        except DataError as fault:
            findings, said = [], (f"DataError: {fault}",)
        seconds = time.process_time() - start
        changed = digest(root) != before
    found = any(_tells(item, defect, sample.name) for item in findings)
    beside = tuple(check for check in said if check not in (defect.check, *defect.follows))
    return Outcome(found, said, beside, changed, seconds)


def _validated(
    root: Path,
    format: str,
    defect: Defect,
    reference: dict[str, Any] | None = None,
    splits: AcceptedSplits | None = None,
) -> Result:
    reading = read_dataset(
        root, form_of(format), task_of(format), defect.classes, format == "csv-multi"
    )
    settings = ValidateSettings(num_workers=1, **defect.settings)
    return validate_reading(reading, settings, reference=reference, accepted=splits)


def _accepted(format: str, seed: int, counts: dict[str, int] | None) -> dict[str, Any]:
    return accepted(format, seed, None if counts is None else tuple(counts.items()))


@functools.lru_cache(maxsize=64)
def accepted(format: str, seed: int, counts: tuple[tuple[str, int], ...] | None) -> dict[str, Any]:
    """The profile of a clean set, by the arguments of `clean_set`."""
    raw = clean_set(format, seed, dict(counts) if counts else None)
    with tempfile.TemporaryDirectory() as folder:
        root = write_set(raw, Path(folder) / "raw", format)
        result = _validated(root, format, Defect("", "", ()))
    return profile(result.reading, result.facts)


def _tells(item: Finding, defect: Defect, name: str) -> bool:
    stem = name.rsplit(".", 1)[0]
    said = f"{item.where} {item.message} {item.value} {item.image}"
    return item.check == defect.check and (not defect.of_image or stem in said)


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


def jobs(times: int, only: set[str] | None = None) -> list[Job]:
    """All sets to try; those of one seed follow each other, since they share their images.

    Args:
        times: each fault in each format.
        only: checks; None takes all.
    """
    numbers = [n for n, defect in enumerate(DEFECTS) if not only or defect.check in only]
    found: list[Job] = []
    for seed in range(times):
        found += [(None, format, seed * _CLEAN + k) for k in range(_CLEAN) for format in ALL]
        found += [
            (number, format, seed) for number in numbers for format in DEFECTS[number].formats
        ]
    return found


def _call(job: Job) -> Outcome:
    return try_once(*job)


def run(todo: Sequence[Job], num_workers: int = 1) -> dict[Job, Outcome]:
    """What came of all sets."""
    if num_workers == 1:
        return {job: _call(job) for job in todo}
    with ProcessPoolExecutor(num_workers) as pool:
        return dict(zip(todo, pool.map(_call, todo, chunksize=100), strict=True))


def verdicts(outcomes: dict[Job, Outcome]) -> dict[tuple[int, int], dict[str, tuple[str, ...]]]:
    """What each format said, by fault and seed, where formats hold the same data and fault."""
    found: dict[tuple[int, int], dict[str, tuple[str, ...]]] = {}
    for (number, format, seed), outcome in outcomes.items():
        if number is not None and not DEFECTS[number].damage:
            group = next((index for index, alike in enumerate(ALIKE) if format in alike), None)
            if group is not None:
                key = number * len(ALIKE) + group, seed
                found.setdefault(key, {})[format] = outcome.said
    return {key: said for key, said in found.items() if len(said) > 1}


def complaints(outcomes: dict[Job, Outcome]) -> list[str]:
    """A line for everything that is not as it should be."""
    lines = []
    for (number, format, seed), outcome in outcomes.items():
        name = "clean" if number is None else f"{DEFECTS[number].check} ({DEFECTS[number].name})"
        place = f"{name} in {format}, set {seed}"
        if number is not None and not outcome.found:
            lines.append(f"missed: {place}: said {', '.join(outcome.said)[:300] or 'nothing'}")
        elif outcome.beside:
            lines.append(f"said besides: {place}: {', '.join(outcome.beside)[:300]}")
        if outcome.changed:
            lines.append(f"files changed: {place}")
    for (key, seed), said in verdicts(outcomes).items():
        if len(set(said.values())) > 1:
            defect = DEFECTS[key // len(ALIKE)]
            lines.append(f"verdicts differ: {defect.check} ({defect.name}), set {seed}: {said}")
    return lines


def table(outcomes: dict[Job, Outcome]) -> str:
    """The results as Markdown."""
    tried: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for (number, format, _), outcome in outcomes.items():
        if number is not None:
            tried[DEFECTS[number].check, format].append(outcome.found)
    lines = [f"| check | severity | {' | '.join(ALL)} |", "|---|---" + "|--:" * len(ALL) + "|"]
    totals: dict[str, list[bool]] = {"error": [], "warning": []}
    for check in dict.fromkeys(defect.check for defect in DEFECTS):
        results = [tried.get((check, format), []) for format in ALL]
        totals[CHECKS[check].severity] += [found for cell in results for found in cell]
        if any(results):
            cells = [f"{sum(cell)}/{len(cell)}" if cell else "" for cell in results]
            lines.append(f"| `{check}` | {CHECKS[check].severity} | {' | '.join(cells)} |")
    lines += ["", "| | |", "|---|--:|"]
    for severity, found in totals.items():
        share = 100 * sum(found) / max(len(found), 1)
        lines.append(f"| {severity}s found | {sum(found):,} of {len(found):,} ({share:.2f} %) |")
    clean = [outcome for job, outcome in outcomes.items() if job[0] is None]
    faulty = [outcome for job, outcome in outcomes.items() if job[0] is not None]
    said = list(verdicts(outcomes).values())
    same = sum(len(set(item.values())) == 1 for item in said)
    changed = sum(item.changed for item in outcomes.values())
    seconds = sum(item.seconds for item in outcomes.values()) / max(len(outcomes), 1)
    for name, value in (
        ("clean sets with an error", f"{_with(clean, 'error')} of {len(clean):,}"),
        ("clean sets with a warning", f"{_with(clean, 'warning')} of {len(clean):,}"),
        ("sets with an error besides the fault", f"{_with(faulty, 'error')} of {len(faulty):,}"),
        ("sets with a warning besides the fault", f"{_with(faulty, 'warning')} of {len(faulty):,}"),
        ("same data and fault, same findings in all formats", f"{same:,} of {len(said):,}"),
        ("sets of which a file was changed", f"{changed} of {len(outcomes):,}"),
        ("to read and validate a set, CPU", f"{1000 * seconds:.0f} ms"),
    ):
        lines.append(f"| {name} | {value} |")
    return "\n".join(lines)


def _with(outcomes: Sequence[Outcome], severity: str) -> int:
    """Sets with a false alarm of a severity; a set that is refused whole counts as an error."""
    return sum(
        any(
            CHECKS[c].severity == severity if c in CHECKS else severity == "error" for c in o.beside
        )
        for o in outcomes
    )


def good(outcomes: dict[Job, Outcome]) -> bool:
    """Whether all errors and 98 % of warnings were found, with no false error, and no change."""
    hits: dict[str, list[bool]] = {"error": [], "warning": []}
    for (number, _, _), outcome in outcomes.items():
        if number is not None:
            hits[CHECKS[DEFECTS[number].check].severity].append(outcome.found)
    enough = sum(hits["warning"]) >= 0.98 * len(hits["warning"])
    quiet = not _with(list(outcomes.values()), "error")
    return all(hits["error"]) and enough and quiet and not any(o.changed for o in outcomes.values())


def write_between(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page; both are added at its end if absent."""
    content = page.read_text(encoding="utf-8")
    start, end = _MARKS
    if start not in content:
        content = f"{content.rstrip()}\n\n{start}\n{end}\n"
    head, rest = content.split(start, 1)
    write_text(page, f"{head}{start}\n{text}\n{end}{rest.split(end, 1)[1]}")


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
    outcomes = run(jobs(args.times, only), args.num_workers)
    print(*complaints(outcomes), sep="\n", file=sys.stderr)
    text = table(outcomes)
    print(text)
    if args.write:
        command = f"`python -m benchmarks.seeded_defects --times {args.times}`:"
        write_between(args.write, f"{command}\n\n{text}")
    return 0 if good(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
