"""Accept the data as it is now: later versions are compared with it, and its splits stay.

Copies what the last `validate` wrote about the data (`reports/profile.json`) to
`accepted/profile.json`, and says what has changed since the data accepted before. Where the data
brings no splits, writes those that are drawn to `accepted/splits.csv`: an image that is listed
there keeps its split, even if it is gone for a time. Commit both files. Data with errors cannot be
accepted, but for those that say that it has drifted: they are what is accepted.
"""

from __future__ import annotations

import sys
from typing import Any

from components.errors import DataError, TimmflowError
from components.files import write_json
from tasks.layout import Layout
from tasks.params import Params, command_parser, load

_KEYS = ("num_images", "num_objects", "num_without_objects")


def accept(params: Params, layout: Layout) -> list[str]:
    """Make the data of the last validation the one that later data is compared with.

    Returns:
        What has changed, a line each; empty if nothing has.

    Raises:
        DataError: there was no validation, it found errors, its tables are gone, or a profile or
            the accepted splits are broken.
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
    # Before anything is written: both files are about the same data.
    splits = _accept_splits(params, layout, new.pop("fingerprint", ""))
    if old == new:
        return splits
    write_json(target, new)
    return (["the first data accepted"] if old is None else list(_changes(old, new))) + splits


def _accept_splits(params: Params, layout: Layout, fingerprint: str) -> list[str]:
    """Record the splits that `preprocess` draws; what has changed, a line each."""
    from components.contract.accepted_splits import AcceptedSplits
    from components.contract.tables import SPLITS, Dataset
    from components.data.splits import asked_links, assign_splits

    old = AcceptedSplits.load(layout.accepted_splits)
    dataset = Dataset.load(layout.tables) if (layout.tables / "dataset.json").exists() else None
    if dataset is None or dataset.fingerprint != fingerprint:
        raise DataError(
            f"{layout.tables}: not the tables that {layout.profile} tells of; run "
            "`python -m tasks.validate` again"
        )
    images, settings = dataset.images, params.preprocess
    links = asked_links(images, settings, params.validate_.near_duplicate_bits)
    splits, source = assign_splits(images, dataset.objects, settings, links, old)
    if source == "given":
        new, line = AcceptedSplits(), "the data brings its splits; those drawn before are given up"
    else:
        new = old.updated(dict(zip(images["sha256"], splits, strict=True)))
        sizes = ", ".join(f"{sum(splits == name):,} {name}" for name in SPLITS)
        line = f"splits kept from now on: {sizes}; {len(new) - len(old):,} images are new"
    if new == old:
        return []
    new.save(layout.accepted_splits)
    return [line]


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    from components.validation.drift import check_drift

    lines = [f"{key}: {old[key]:,} -> {new[key]:,}" for key in _KEYS if old[key] != new[key]]
    lines += [str(item) for item in check_drift(new, old)]
    return lines or ["the distributions, a little"]


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = command_parser("accept", __doc__)
    args = parser.parse_args(argv)
    layout = Layout()
    try:
        lines = accept(load(args.params), layout)
    except TimmflowError as error:
        print(f"error: accept: {error}", file=sys.stderr)
        return 1
    for line in lines:
        print(f"  {line}")
    folder = layout.accepted.parent
    print(f"{folder}/: {'written; commit it' if lines else 'holds this data already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
