"""Read the raw data, check all of it, and write the canonical tables.

Reads the folder `base.data`, which is never written to, and what `python -m tasks.accept` wrote to
`accepted/` about the data accepted before. Writes `reports/validation.json`,
`reports/validation.html` and `reports/profile.json` in any case; `data/tables/`, and for `incoming`
`data/facts.parquet`, if no error stops, or none but drift. Parameters: sections `base` and
`validate`; `preprocess.image_size`, at which small boxes are judged;
`preprocess.group_near_duplicates`. `python -m tasks.params --schema` lists them.
"""

from __future__ import annotations

import sys
from typing import Any

from components.errors import DataError
from components.files import write_json, write_text
from tasks.layout import Layout
from tasks.params import Params
from tasks.stage import Figures, main

_NAMED = 5  # findings that the error message shows


def validate(params: Params, layout: Layout) -> Figures:
    """Check the raw data and turn it into the canonical tables.

    Returns:
        `num_images`, `num_objects`, `num_classes`, `num_errors` (0), `num_warnings`,
        `num_quarantined`: images that were left out; they are in none of the other numbers.

    Raises:
        DataError: the data cannot be read at all; or there are errors that stop, the first few
            of which it names. The report is then written; the tables are if drift is all there is,
            for `accept`.
    """
    from components.contract.accepted_splits import AcceptedSplits
    from components.contract.data_license import stated_licenses
    from components.contract.readers import read_dataset
    from components.validation.known_facts import save_facts
    from components.validation.page import render
    from components.validation.profile import EDGES, read_profile
    from components.validation.run import validate_reading

    base, settings = params.base, params.validate_
    # What `accept` goes by: nothing, until this data is known.
    layout.profile.unlink(missing_ok=True)
    reading = read_dataset(
        layout.root / base.data, settings.format, base.task, base.classes, base.multi_label
    )
    reference = read_profile(layout.accepted)
    result = validate_reading(
        reading,
        settings,
        params.preprocess.image_size,
        reference,
        AcceptedSplits.load(layout.accepted_splits),
        params.preprocess.group_near_duplicates,
    )
    stops = result.num_errors - result.num_accepted_errors
    about: dict[str, Any] = {"num_errors": stops} if stops else {}
    if result.dataset is not None:
        result.dataset.save(layout.tables)
        save_facts(layout.facts, result.facts)
        about["fingerprint"] = result.dataset.fingerprint
    write_json(layout.profile, result.profile | about)
    licenses = stated_licenses(layout.root / base.data)
    write_json(layout.validation, result.report() | {"license": licenses})
    shown = (result.profile, reference, EDGES) if reference else ()
    write_text(layout.validation_page, render(result, base.data, *shown))
    if result.num_errors:
        lines = [f"  {finding}" for finding in result.stopping[:_NAMED]]
        if result.num_errors > len(lines):
            lines.append(f"  and {result.num_errors - len(lines):,} more")
        plural = "s" if result.num_errors > 1 else ""
        raise DataError(
            f"base.data = {base.data}: {result.num_errors:,} error{plural} in the data\n"
            + "\n".join(lines)
            + f"\n  all findings: {layout.validation_page}"
        )
    assert result.dataset is not None
    return {
        "num_images": len(result.dataset.images),
        "num_objects": len(result.dataset.objects),
        "num_classes": len(result.dataset.classes),
        "num_errors": 0,
        "num_warnings": result.num_warnings,
        "num_quarantined": len(result.quarantine),
    }


if __name__ == "__main__":
    sys.exit(main("validate", __doc__, validate, None))
