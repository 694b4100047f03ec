"""Decide the splits, decode every image once, bring it to training size, pack for fast reading.

Reads `data/tables/` and the raw images, writes `data/prepared/`. Parameters: sections `base` and
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
    import numpy as np

    from components.contract.near_duplicates import near_duplicate_groups
    from components.contract.tables import Dataset
    from components.data.pack import pack

    dataset = Dataset.load(layout.tables)
    links: list[tuple[int, int]] = []
    if params.preprocess.group_near_duplicates:
        hashes = np.array([int(text, 16) for text in dataset.images["phash"]], dtype=np.uint64)
        groups = near_duplicate_groups(hashes, params.validate_.near_duplicate_bits)
        links = [(int(first), row) for row, first in enumerate(groups) if first != row]
    store = pack(
        dataset,
        layout.root / params.base.data,
        layout.prepared,
        params.preprocess,
        max_pixels=round(params.validate_.max_megapixels * 1e6),
        max_bytes=round(params.validate_.max_file_megabytes * 1e6),
        progress=lambda rows: progress_bar(rows, len(dataset.images), "images"),
        near_duplicates=links,
    )
    size = (layout.prepared / "images.bin").stat().st_size
    return {
        **{f"num_{split}": len(store.rows(split)) for split in ("train", "val", "test")},
        "megabytes": size / 1e6,
    }


if __name__ == "__main__":
    sys.exit(main("preprocess", __doc__, preprocess, None))
