"""Accept the data as it is now: later versions are compared with it.

Copies what the last `validate` wrote about the data (`reports/profile.json`) to
`accepted/profile.json`, and says what has changed since the data accepted before. Commit that file.
Data with errors cannot be accepted, but for those that say that it has drifted: they are what is
accepted.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from components.errors import DataError, TimmflowError
from components.files import write_json
from tasks.layout import Layout

_KEYS = ("num_images", "num_objects", "num_without_objects")


def accept(layout: Layout) -> list[str]:
    """Make the profile of the last validation the one that later data is compared with.

    Returns:
        What has changed, a line each; empty if nothing has.

    Raises:
        DataError: there was no validation, it found errors, or a profile is broken.
    """
    from components.validation.profile import read_profile

    source, target = layout.profile, layout.accepted
    new = read_profile(source)
    if new is None:
        raise DataError(f"{source}: no such file; run `python -m tasks.validate` first")
    if num_errors := new.pop("num_errors", 0):
        raise DataError(
            f"{source}: the data has {num_errors} errors, see {layout.validation_page}; mend "
            "them and run `python -m tasks.validate` again"
        )
    try:
        old = read_profile(target)
    except DataError:
        old = None  # this command is the remedy that the error names
    if old == new:
        return []
    lines = ["the first data accepted"] if old is None else list(_changes(old, new))
    write_json(target, new)
    return lines


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    from components.validation.drift import check_drift

    lines = [f"{key}: {old[key]:,} -> {new[key]:,}" for key in _KEYS if old[key] != new[key]]
    lines += [str(item) for item in check_drift(new, old)]
    return lines or ["the distributions, a little"]


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.accept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    layout = Layout()
    try:
        lines = accept(layout)
    except TimmflowError as error:
        print(f"error: accept: {error}", file=sys.stderr)
        return 1
    for line in lines:
        print(f"  {line}")
    target = layout.accepted
    print(f"{target}: {'written; commit it' if lines else 'holds this data already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
