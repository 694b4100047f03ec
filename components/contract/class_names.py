"""Class names: what may be one, and whether those found are those asked for."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from components.contract.findings import Finding, finding


def name_fault(name: Any) -> str | None:
    """Why `name` cannot be a class name; None if it can."""
    if not isinstance(name, str):
        return "the class name is not text"
    if not name.strip():
        return "the class name is empty"
    if name != name.strip() or not name.isprintable():
        return "the class name has spaces around it, or characters that cannot be printed"
    return None


def settle(
    found: Sequence[str], wanted: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], list[Finding]]:
    """The class list of the model.

    Args:
        found: names in the data, in its order.
        wanted: names in the model's order, from the parameters; None takes those found.
        where: what messages call the data.

    Returns:
        The class list and what is wrong with it. A class that was not asked for is not in it.
    """
    findings: list[Finding] = []
    names = list(found) if wanted is None else list(wanted)
    if not names:
        findings.append(finding("no-classes", where, "there are no classes", "", "at least one"))
    for name in sorted(name for name, number in Counter(names).items() if number > 1):
        findings.append(finding("duplicate-class", where, "this class is named twice", name))
    if wanted is not None:
        set_found = set(found)
        for name in sorted(set_found - set(wanted)):
            findings.append(
                finding(
                    "class-unknown",
                    where,
                    "the data has a class that base.classes lacks",
                    name,
                    f"one of {', '.join(wanted)}",
                )
            )
        for name in (name for name in wanted if name not in set_found):
            findings.append(
                finding(
                    "class-missing", where, "base.classes has a class that the data lacks", name
                )
            )
    folded: dict[str, str] = {}
    for name in dict.fromkeys(names):
        key = unicodedata.normalize("NFC", name).casefold()
        if key in folded:
            findings.append(
                finding(
                    "class-names-alike",
                    where,
                    "two classes differ only by case or Unicode form",
                    f"{folded[key]} and {name}",
                )
            )
        folded.setdefault(key, name)
    return tuple(dict.fromkeys(names)), findings
