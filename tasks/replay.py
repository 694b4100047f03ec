"""Run the training step again whose loss or gradient was not finite; `train` has kept it.

python -m tasks.replay .resume/<key>/not-finite.pt

Says which part is not finite first, and gives each image's path with its loss by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from components.errors import TimmflowError
from tasks.layout import Layout
from tasks.params import command_parser, load
from tasks.train import build


def replay_lines(file: Path, layout: Layout, params_file: Path) -> list[str]:
    """What a kept step gives.

    Raises:
        TimmflowError: the file is not of a training with these parameters and data.
    """
    from components.data.store import PreparedStore
    from components.training.finite_loss import replay

    store = PreparedStore.open(layout.prepared)
    settings = load(params_file).train.model_copy(update={"pretrained": False})
    _, module = build(store, settings)
    step = replay(module, file)
    lines = [f"epoch {step.epoch}, step {step.step}: {step.found}: {step.found.remedy}"]
    paths = store.index["path"].tolist()
    names = [paths[row] if row < len(paths) else f"row {row}" for row in step.rows]
    return lines + [
        f"  {name}: loss {loss:.4g}" for name, loss in zip(names, step.losses_alone, strict=False)
    ]


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = command_parser("replay", __doc__)
    parser.add_argument("file", type=Path, help="as the error of the training names it")
    args = parser.parse_args(argv)
    try:
        print("\n".join(replay_lines(args.file, Layout(), args.params)))
    except TimmflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
