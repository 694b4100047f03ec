"""Draw training images as the model will see them, boxes included, without training.

python -m tasks.preview                   reports/preview.png from params.yaml

Each row is one image: first as it stands, then changed as in so many epochs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from components.errors import TimmflowError
from components.files import atomic_path
from tasks.layout import Layout
from tasks.params import Params, command_parser, load


def preview(params: Params, layout: Layout, num_images: int, num_epochs: int) -> Path:
    """Write the picture.

    Args:
        params: sections `base` and `train`.
        layout: where the prepared data is, and where the picture goes.
        num_images: rows of the picture, drawn from the training split.
        num_epochs: changed versions of each.

    Raises:
        TimmflowError: the data is not prepared, or the parameters do not fit it.
    """
    import numpy as np
    from PIL import Image

    from components.data.loaders import PreparedDataModule
    from components.data.preview import preview_picture
    from components.data.store import PreparedStore
    from components.runtime import configure_torch
    from components.training.fitted_augment import fitted

    configure_torch(params.train.num_threads)
    store = PreparedStore.open(layout.prepared)
    augment, reasons = fitted(params.train.augment, store)
    print("\n".join(reasons))
    # As a network of no normalisation takes them: the pixels themselves.
    data = PreparedDataModule(
        store,
        num_images,
        (0.0,) * 3,
        (1 / 255,) * 3,
        augment,
        params.base.seed,
        num_epochs=params.train.epochs,
    )
    rows = np.random.default_rng(params.base.seed).permutation(store.rows("train"))[:num_images]
    mixed = {}
    if params.base.task == "classification":
        classifier = params.train.classifier
        mixed = {"mixup_alpha": classifier.mixup_alpha, "cutmix_alpha": classifier.cutmix_alpha}
    picture = preview_picture(data, rows.tolist(), num_epochs, **mixed)
    target = layout.root / "reports" / "preview.png"
    with atomic_path(target) as draft:
        Image.fromarray(picture).save(draft, format="PNG")
    return target


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = command_parser("preview", __doc__)
    parser.add_argument("--images", default=8, type=int, help="rows of the picture")
    parser.add_argument("--epochs", default=6, type=int, help="changed versions of each image")
    args = parser.parse_args(argv)
    try:
        print(preview(load(args.params), Layout(), max(1, args.images), max(1, args.epochs)))
    except TimmflowError as error:
        print(f"error: preview: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
