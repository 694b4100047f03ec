"""Find the largest `train.batch_size` that fits this machine's memory, by trying.

python -m tasks.largest_batch

Nothing is changed: put the number into params.yaml yourself, so that results do not depend on the
machine. `train.lr` is scaled with it where `train.lr_batch` is set.
"""

from __future__ import annotations

import sys

from components.errors import TimmflowError, TrainingError
from tasks.layout import Layout
from tasks.params import Params, command_parser, load
from tasks.train import batches, build, with_workers


def largest_batch(params: Params, layout: Layout, limit: int) -> str:
    """The answer, in a line.

    One process is tried; of several each gets a GPU of its own, or its share of the main memory.

    Args:
        params: of the training.
        layout: where the prepared data is.
        limit: the largest size to try, of one process; at least 2.

    Raises:
        TrainingError: not even two images fit.
    """
    import torch

    from components.data.store import PreparedStore
    from components.runtime import configure_torch
    from components.training import memory

    configure_torch(params.train.num_threads, params.base.seed)
    store = PreparedStore.open(layout.prepared)
    settings = with_workers(params.train, store).model_copy(update={"pretrained": False})
    description, module = build(store, settings)
    data = batches(store, description, settings, params.base.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = memory.largest_batch(module, data, settings, device, limit)
    if not size:
        raise TrainingError(
            f"not even two images of {description.image_size} pixels fit: lower "
            "preprocess.image_size, or take a smaller train.backbone"
        )
    count = settings.num_processes
    each = f", {size} in each of {count} processes" if count > 1 else ""
    most = ", the largest that was to be tried" if size == limit else ""
    now = settings.batch_size
    return f"train.batch_size: {size * count} fits on {device.type}{each}{most}; now {now}"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = command_parser("largest_batch", __doc__)
    parser.add_argument(
        "--limit", default=512, type=int, help="largest size to try, of one process"
    )
    args = parser.parse_args(argv)
    if args.limit < 2:
        parser.error(f"--limit {args.limit}: at least 2")
    try:
        print(largest_batch(load(args.params), Layout(), args.limit))
    except TimmflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
