"""Parts of the test images that are looked at by themselves: by columns the user brings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.image_columns import OWN_COLUMNS
from components.evaluation.slices import MAX_VALUES


def slices_of(images: pd.DataFrame, columns: Sequence[str] | None) -> dict[str, NDArray[np.intp]]:
    """Positions of the images of each slice, by `column = value`, sorted.

    Args:
        images: table of the images, a row each, in the order that positions count in.
        columns: whose values make slices; None for all that are not timmflow's own and have 2 to 20
            values here.

    Raises:
        DataError: no such column, or one with so many values that it is no slice.
    """
    chosen = columns
    if chosen is None:
        candidates = [name for name in images.columns if name not in OWN_COLUMNS]
        chosen = [n for n in candidates if 2 <= images[n].nunique() <= MAX_VALUES]
    found = {}
    for name in chosen:
        if name not in images.columns:
            raise DataError(
                f"gate.slices: {name}: the images have no such column; they have "
                f"{', '.join(images.columns)}"
            )
        if (count := images[name].nunique()) > MAX_VALUES:
            raise DataError(
                f"gate.slices: {name}: {count} values among the images measured; at most "
                f"{MAX_VALUES} make slices"
            )
        for value, positions in images.reset_index(drop=True).groupby(name).indices.items():
            found[f"{name} = {value}"] = np.asarray(positions)
    return dict(sorted(found.items()))
