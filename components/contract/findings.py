"""One thing that is wrong, or odd, about raw data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from components.contract.catalogue import CHECKS, Severity

_LONGEST = 300  # characters of any text that comes from the data


@dataclass(frozen=True, order=True)
class Finding:
    """One violation of one check. Findings sort by severity, check, place.

    Make them with `finding`, which turns any value into short text that can be printed.

    Args:
        severity: `error` stops the pipeline; `warning` is reported only.
        check: name of the rule, one of `catalogue.CHECKS`.
        where: the file, or the row inside an annotation file.
        message: what is wrong, in a sentence.
        value: the value seen, as text; empty where there is none.
        allowed: what would be accepted.
        image: path of the one image that it is about, exactly as the reader has it, or as the
            annotations name it where there is no such file; empty where it is about the data set
            as a whole. Leaving this image out mends the fault.
    """

    severity: Severity
    check: str
    where: str
    message: str
    value: str = ""
    allowed: str = ""
    image: str = ""

    def to_dict(self) -> dict[str, str]:
        """The form it has in `reports/validation.json`."""
        return {
            "check": self.check,
            "severity": self.severity,
            "where": self.where,
            "message": self.message,
            "value": self.value,
            "allowed": self.allowed,
        }

    def __str__(self) -> str:
        parts = [("is", self.value), ("allowed:", self.allowed)]
        facts = "; ".join(f"{word} {text}" for word, text in parts if text)
        text = f"{self.message} ({facts})" if facts else self.message
        return f"{self.where}: {text}" if self.where else text


def finding(
    check: str, where: str, message: str, value: Any = "", allowed: str = "", image: str = ""
) -> Finding:
    """A finding with the severity that the catalogue gives its check.

    Args:
        check: a key of `catalogue.CHECKS`.
        where, message, value, allowed, image: see `Finding`; `value` may be of any type.
    """
    severity = CHECKS[check].severity
    texts = (shown(where), shown(message), shown(value), shown(allowed))
    return Finding(severity, check, *texts, image)


def count(findings: Iterable[Finding], severity: Severity) -> int:
    """How many findings have this severity."""
    return sum(item.severity == severity for item in findings)


def shown(value: Any) -> str:
    """Any value as short text of one line that can be encoded, printed and put into JSON."""
    if isinstance(value, str):
        text = value[: _LONGEST + 1]
    elif isinstance(value, float) and math.isfinite(value):
        text = f"{value:.6g}"
    elif isinstance(value, list | tuple):
        more = ", …" if len(value) > 8 else ""
        text = f"[{', '.join(shown(item) for item in value[:8])}{more}]"
    elif isinstance(value, dict):
        text = f"an object with {len(value)} keys"
    elif isinstance(value, int) and value.bit_length() > 256:
        text = "a very large number"  # str() of a huge integer is slow, or refused
    else:
        text = str(value)
    # Lone surrogates cannot be written as UTF-8; control characters would break lines apart.
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
            for letter in text
        )
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
