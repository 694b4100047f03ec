"""Write the validated data as raw data again, for other tools or as a cleaned data set.

    python -m tasks.convert --format coco --to data/cleaned       boxes
    python -m tasks.convert --format folder --to data/cleaned     labels

Takes what the last `validate` accepted (`data/tables/`; images in quarantine are left out) and the
image files of `base.data`. The folder must not exist; the raw data stays as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from components.errors import TimmflowError
from tasks.layout import Layout
from tasks.params import command_parser, load


def main(argv: list[str] | None = None, layout: Layout | None = None) -> int:
    """Command line; see the module's text."""
    parser = command_parser("convert", __doc__)
    parser.add_argument("--format", required=True, choices=("coco", "folder"))
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--link",
        action="store_true",
        help="hard links instead of copies; who changes such a file changes the raw data",
    )
    args = parser.parse_args(argv)
    from components.contract.tables import Dataset
    from components.contract.writers import write_coco, write_folders

    layout = layout or Layout()
    write = write_coco if args.format == "coco" else write_folders
    try:
        params = load(args.params)
        dataset = Dataset.load(layout.tables)
        write(dataset, layout.root / params.base.data, args.to, args.link)
    except TimmflowError as error:
        print(f"error: convert: {error}", file=sys.stderr)
        return 1
    print(f"{args.to}: {len(dataset.images):,} images, {len(dataset.objects):,} labels or boxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
