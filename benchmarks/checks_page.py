"""Writes the list of checks and the pixel rule into docs/validation.md, from the code itself.

    python benchmarks/checks_page.py

Only what stands between the page's markers is replaced.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from components.contract import pixels
from components.contract.catalogue import CHECKS

PAGE = Path(__file__).parents[1] / "docs" / "validation.md"


def checks_table() -> str:
    """All checks of the catalogue as Markdown: a table a family."""
    lines = [
        f"{len(CHECKS)} checks. **error** stops the pipeline, and **error!** cannot be lowered."
    ]
    for family, checks in groupby(CHECKS.items(), key=lambda item: item[1].family):
        rows = list(checks)
        lines += ["", f"### {family.capitalize()}", "", "| check | severity | reported |"]
        lines.append("|---|---|---|")
        for name, check in rows:
            severity = f"**{check.severity}{'!' if check.fixed else ''}**"
            if check.severity == "warning":
                severity = "warning"
            lines.append(f"| `{name}` | {severity} | {check.meaning.replace('|', '/')} |")
    return "\n".join(lines)


def pixel_rule() -> str:
    """The pixel rule as Markdown, from the text and the constants of `contract/pixels.py`."""
    rule = (pixels.__doc__ or "").split("\n\n")[2]
    lines = ["| stored | what comes of it |", "|---|---|"]
    for item in rule.removeprefix("- ").split("\n- "):
        first, _, rest = " ".join(item.split()).partition(" ")
        lines.append(f"| {_SUBJECTS[first]} | {first} {rest} |")
    extensions = ", ".join(f"`{name}`" for name in pixels.EXTENSIONS)
    return "\n".join(
        [
            *lines,
            "",
            f"Read are {', '.join(pixels.FORMATS)}, whatever the file is called.",
            f"Looked for are files that end in {extensions}.",
            f"The largest image has {pixels.MAX_PIXELS / 1e6:g} megapixels, the largest file",
            f"{pixels.MAX_BYTES / 1e6:g} MB, unless the settings say otherwise.",
        ]
    )


# What each line of the rule is about, by its first word.
_SUBJECTS = {
    "EXIF": "turned (EXIF orientation 2 to 8)",
    "Grey": "grey, palette",
    "Transparency": "RGBA, LA, transparent palette",
    "CMYK,": "CMYK, YCbCr, LAB, HSV; ICC profile",
    "16-bit": "16 bits a channel",
    "Of": "animated, several pages",
}


def between(text: str, name: str, content: str, writer: str = "checks_page") -> str:
    """`text` with what stands between the markers `name` replaced by `content`.

    Args:
        text: of the page.
        name: what the markers call the part.
        content: what is to stand there.
        writer: the module of `benchmarks` that the first marker names.

    Raises:
        ValueError: a marker is missing.
    """
    start, end = f"<!-- {name}: written by benchmarks/{writer}.py -->", f"<!-- end of {name} -->"
    head, found, rest = text.partition(start)
    _, also_found, tail = rest.partition(end)
    if not found or not also_found:
        raise ValueError(f"docs/validation.md lacks the markers of {name!r}")
    return f"{head}{start}\n\n{content}\n\n{end}{tail}"


def written(text: str) -> str:
    """The page `text` with all its written parts up to date."""
    text = between(text, "checks", checks_table())
    return between(text, "pixels", pixel_rule())


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
