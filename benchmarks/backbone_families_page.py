"""The page that `backbone_families.py` writes from its findings: docs/backbones.md."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import timm
import torch

Row = dict[str, Any]

HEAD = """# Backbones

Written by `benchmarks/backbone_families.py` (timm {timm}, PyTorch {torch}); do not edit it by hand.

    python benchmarks/backbone_families.py features   # every name: strides, channels
    python benchmarks/backbone_families.py models     # some of each family: training step, ONNX
    python benchmarks/backbone_families.py page       # this page

`create_feature_backbone(name)` gives maps of strides 8, 16 and 32 for images of any size. Where
timm has no such maps, they are made of those it has:

- **one stride only** (ViT, DeiT, BEiT, EVA, mixers): ViTDet's simple feature pyramid, from the last
  map (Li et al. 2022): transposed convolution, identity, max pooling; then a convolution of
  one cell and one of three by three, with LayerNorm each;
- **a stride missing** (LeViT has 16, 32, 64; NesT 4, 8, 16): a transposed convolution of the next
  coarser map, or max pooling of the next finer;
- **strides that are no powers of two** (patches of 14 pixels: 14; PiT-B: 7, 14, 28): the map is
  resampled, bilinearly, to the nearest power of two;
- **channels last** (Swin, MambaOut): turned, where timm says that they are;
- **unpadded convolutions** (Inception) lose cells at the border: they are put back as zeros, so
  that a cell stays where its stride says.

Images are padded to a multiple of 32 for the body, and the maps cut to `ceil(side / stride)`. A
family that is built for one size refuses others with a message that says how to build it for them:
`extra_kwargs=image_size_arguments(name, (height, width))`.
"""


def write_page(path: Path, rows: list[Row], families: dict[str, tuple[str, ...]]) -> None:
    """Write docs/backbones.md.

    Args:
        path: of the page.
        rows: findings; the last one of a name counts.
        families: name of each family to its models.
    """
    found = {(row["check"], row["name"]): row for row in rows if row["check"] != "order"}
    text = HEAD.format(timm=timm.__version__, torch=torch.__version__)
    features = [row for (check, _), row in found.items() if check == "features"]
    text += "\n".join([*_all_names(features), *_models(found, families)]) + "\n"
    path.write_text(text)


def _all_names(rows: list[Row]) -> list[str]:
    counts = Counter(row["result"] for row in rows)
    offering = len(rows) - counts["no features"]
    names = timm.list_models()
    lines = [
        "",
        "## Every name",
        "",
        f"timm lists {len(names)} names; {len(rows)} were checked, smallest first. {offering} of "
        f"them offer features; **{counts['correct']} give a detector backbone with the right "
        "strides and channels** (built without weights, run for its shapes on images of 128 by 192 "
        "pixels, or of the size it is built for).",
        "",
    ]
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row["result"] != "correct":
            groups[row["result"], row.get("why", "")].append(row["name"])
    if groups:
        lines += ["| not | why | names |", "|---|---|---|"]
        for (result, why), members in sorted(groups.items()):
            lines.append(f"| {result} | {_cell(why)} | {', '.join(f'`{n}`' for n in members)} |")
        lines.append("")
    unused = [row for row in rows if row.get("unused")]
    searched = [row for row in rows if row.get("unused") is not None]
    lines.append(
        f"Parameters that the maps do not depend on, which would stop training on several devices, "
        f"were searched in {len(searched)} of them, four or more of each of timm's modules: "
        + (f"found in {', '.join(row['name'] for row in unused)}." if unused else "there are none.")
    )
    lines += ["", "| timm's module | names | correct | strides offered | any image size |"]
    lines.append("|---|---|---|---|---|")
    by_family: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_family[timm.model_entrypoint(row["name"]).__module__.rpartition(".")[2]].append(row)
    for family, rows_of_it in sorted(by_family.items()):
        right = [row for row in rows_of_it if row["result"] == "correct"]
        strides = sorted({tuple(sorted(set(row["offered"]))) for row in right})
        flexible = sum(row["any_size"] for row in right)
        lines.append(
            f"| {family} | {len(rows_of_it)} | {len(right)} | "
            f"{'; '.join(' '.join(map(str, s)) for s in strides)} | "
            f"{'yes' if flexible == len(right) else flexible or 'no'} |"
        )
    return lines


def _models(found: dict[tuple[str, str], Row], families: dict[str, tuple[str, ...]]) -> list[str]:
    checked = [
        (family, name)
        for family, names in families.items()
        for name in names
        if ("classifier", name) in found or ("detector", name) in found
    ]
    whole = sum(
        all(found.get((task, name), {}).get("result") == "correct" for task in _TASKS)
        for _, name in checked
    )
    lines = [
        "",
        "## Trained and exported",
        "",
        f"{len(checked)} names of {len({family for family, _ in checked})} families; {whole} of "
        "them correct as classifier and as detector: one training step in which every parameter "
        "gets a finite gradient, and an ONNX file whose outputs equal PyTorch's for one image and "
        "for three (the greatest difference of a score is given). The size is the smallest the "
        "family takes.",
        "",
        "| family | name | pixels | channels of strides 8, 16, 32 | classifier | detector |",
        "|---|---|---|---|---|---|",
    ]
    for family, name in checked:
        cells = [found.get((task, name)) for task in _TASKS]
        sides = {str(row["size"][0]) for row in cells if row and "size" in row}
        channels: list[int] = next(
            (row["channels"] for row in cells if row and "channels" in row), []
        )
        lines.append(
            f"| {family} | `{name}` | {', '.join(sorted(sides))} | "
            f"{', '.join(map(str, channels))} | {_outcome(cells[0])} | {_outcome(cells[1])} |"
        )
    return lines


_TASKS = ("classifier", "detector")


def _outcome(row: Row | None) -> str:
    if row is None:
        return "not checked"
    if row["result"] == "correct":
        return f"{row['difference']:.0e}"
    return _cell(f"{row['result']}: {row.get('why', '')}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
