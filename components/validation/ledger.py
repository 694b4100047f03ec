"""Where all findings come together: severities are settled here, and memory is bounded.

Of one check only so many findings are spelt out, the rest is counted; but every image that has an
error is remembered, for the quarantine.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from components.contract.catalogue import CHECKS, Severity
from components.contract.findings import Finding, finding

LISTED = 10_000  # findings of one check that are spelt out


@dataclass(frozen=True)
class Offenders:
    """Violations of one check by many rows at once, described only if they are to be listed.

    Args:
        check: a key of `catalogue.CHECKS`.
        images: of each violation, the position of its image in `Reading.images`.
        describe: makes the finding of the n-th violation.
    """

    check: str
    images: np.ndarray
    describe: Callable[[int], Finding]


@dataclass(frozen=True)
class Shared:
    """A finding about several images: the fault is mended by leaving all of `images` out."""

    finding: Finding
    images: Sequence[str]


class Ledger:
    """Collects findings.

    Args:
        paths: of the images, in the order of `Reading.images`.
        severity: of single checks, other than the catalogue's; `off` drops their findings.
    """

    def __init__(
        self, paths: Sequence[str], severity: Mapping[str, Severity | Literal["off"]]
    ) -> None:
        self._paths = paths
        self._severity = severity
        self._listed: dict[str, dict[Finding, None]] = defaultdict(dict)
        self._totals: Counter[str] = Counter()
        self._unplaced: Counter[str] = Counter()  # about no image in particular
        self._faulty: dict[str, set[str]] = defaultdict(set)  # image: checks it fails

    def add(self, item: Finding | Offenders | Shared) -> None:
        """Take one finding, or many."""
        if isinstance(item, Offenders):
            self._add_offenders(item)
        elif isinstance(item, Shared):
            self._add(item.finding, item.images)
        else:
            self._add(item, [item.image] if item.image else [])

    def extend(self, items: Iterable[Finding | Offenders | Shared]) -> None:
        """Take all findings of a check; those made before it failed are kept."""
        for item in items:
            self.add(item)

    def findings(self) -> list[Finding]:
        """The findings that are spelt out, and one a check for the rest; sorted, errors first."""
        found = [item for listed in self._listed.values() for item in listed]
        for check, total in self._totals.items():
            listed = self._listed[check]
            if total > len(listed):
                message = f"and {total - len(listed):,} more like the {len(listed):,} listed"
                # It stops only what the findings that it stands for would stop.
                image = "" if self._unplaced[check] else next(iter(listed)).image
                found.append(self._settled(finding(check, "the rest", message, image=image)))
        return sorted(found)

    def num(self, severity: Severity, *, unplaced: bool = False) -> int:
        """How many violations have this severity, listed or not.

        Args:
            severity: `error` or `warning`.
            unplaced: count only those that no image can be left out for.
        """
        counts = self._unplaced if unplaced else self._totals
        return sum(
            number for check, number in counts.items() if self._severity_of(check) == severity
        )

    @property
    def faulty(self) -> dict[str, tuple[str, ...]]:
        """Paths of all images with an error, sorted, each with the checks that it fails."""
        return {path: tuple(sorted(checks)) for path, checks in sorted(self._faulty.items())}

    def _severity_of(self, check: str) -> Severity | Literal["off"]:
        return self._severity.get(check, CHECKS[check].severity)

    def _settled(self, item: Finding) -> Finding:
        severity = self._severity_of(item.check)
        if severity == "off" or severity == item.severity:
            return item
        return dataclasses.replace(item, severity=severity)

    def _add(self, item: Finding, images: Sequence[str]) -> None:
        severity = self._severity_of(item.check)
        if severity == "off":
            return
        item = self._settled(item)
        listed = self._listed[item.check]
        if item in listed:
            return
        if len(listed) < LISTED:
            listed[item] = None
        self._totals[item.check] += 1
        if not images:
            self._unplaced[item.check] += 1
        elif severity == "error":
            for path in images:
                self._faulty[path].add(item.check)

    def _add_offenders(self, item: Offenders) -> None:
        severity = self._severity_of(item.check)
        if severity == "off":
            return
        num_listed = min(len(item.images), LISTED)
        for number in range(num_listed):
            self.add(item.describe(number))
        self._totals[item.check] += len(item.images) - num_listed
        if severity == "error":
            for index in np.unique(item.images[num_listed:]):
                self._faulty[self._paths[index]].add(item.check)
