"""Which memory layout of the images a backbone trains faster with, on this CPU.

    python -m benchmarks.memory_layout [BACKBONE ...]

Forward and backward of 2 images of 256 px with one thread, in turn with plain and with
channels-last images; medians of 7 turns in seconds of processor time, and what
`components.models.memory_layout` chooses.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from components.models.backbones import FeatureBackboneConfig, create_feature_backbone
from components.models.memory_layout import has_grouped_convolutions
from components.runtime import configure_torch

BACKBONES = (
    *("resnet18", "resnet50", "vgg11", "dla34"),
    *("resnext50_32x4d", "regnetx_004", "tf_efficientnet_lite0", "mobilenetv3_small_100"),
)


def main() -> None:
    """Print a line a backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbones", nargs="*", default=BACKBONES)
    names = parser.parse_args().backbones
    configure_torch(1, 0)
    plain = torch.randn(2, 3, 256, 256)
    layouts = {"plain": plain, "channels last": plain.contiguous(memory_format=torch.channels_last)}
    for name in names:
        config = FeatureBackboneConfig(name, pretrained=False)
        body = create_feature_backbone(config).body.train()
        seconds: dict[str, list[float]] = {layout: [] for layout in layouts}
        for turn in range(8):
            for layout, images in layouts.items():
                started = time.process_time()
                torch.stack([level.sum() for level in body(images)]).sum().backward()
                if turn:  # the first one sets up
                    seconds[layout].append(time.process_time() - started)
        medians = {layout: statistics.median(values) for layout, values in seconds.items()}
        chosen = "channels last" if has_grouped_convolutions(body) else "plain"
        text = ", ".join(f"{layout} {value:.3f} s" for layout, value in medians.items())
        print(f"{name}: {text}; chosen: {chosen}", flush=True)


if __name__ == "__main__":
    main()
