"""Decide the splits, decode every image once, bring it to training size, pack for fast reading.

Reads `data/tables/`, the raw images, and `accepted/splits.csv`: splits that were drawn and accepted
stay as they are. Writes `data/prepared/`. Parameters: sections `base` and
`preprocess`; of `validate` the size caps and what counts as a near-duplicate.
"""

from __future__ import annotations

import sys

from tasks.layout import Layout
from tasks.params import Params
from tasks.stage import Figures, main, progress_bar


def preprocess(params: Params, layout: Layout) -> Figures:
    """Pack the prepared images.

    Returns:
        `num_train`, `num_val`, `num_test`, `megabytes`.

    Raises:
        DataError: an image fails that passed validation, or a split is empty.
    """
    from components.contract.accepted_splits import AcceptedSplits
    from components.contract.tables import Dataset
    from components.data.pack import pack
    from components.data.splits import asked_links

    dataset = Dataset.load(layout.tables)
    bits = params.validate_.near_duplicate_bits
    store = pack(
        dataset,
        layout.root / params.base.data,
        layout.prepared,
        params.preprocess,
        max_pixels=round(params.validate_.max_megapixels * 1e6),
        max_bytes=round(params.validate_.max_file_megabytes * 1e6),
        progress=lambda rows: progress_bar(rows, len(dataset.images), "images"),
        near_duplicates=asked_links(dataset.images, params.preprocess, bits),
        accepted=AcceptedSplits.load(layout.accepted_splits),
    )
    size = (layout.prepared / "images.bin").stat().st_size
    return {
        **{f"num_{split}": len(store.rows(split)) for split in ("train", "val", "test")},
        "megabytes": size / 1e6,
    }


if __name__ == "__main__":
    sys.exit(main("preprocess", __doc__, preprocess, None))
