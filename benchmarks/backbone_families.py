"""Does every timm family work as classifier and as detector? Checks, and writes docs/backbones.md.

    python benchmarks/backbone_families.py features  # every name, without weights: strides
    python benchmarks/backbone_families.py models    # some of each family: training step, ONNX
    python benchmarks/backbone_families.py page      # docs/backbones.md

Each finding is a line appended to `--state`; a name that has its line is not checked again, so that
the script can be stopped and started at will.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import math
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from backbone_families_page import write_page
from run_and_page import add_line, read_lines
from timm.models import FeatureInfo
from torch import Tensor, nn

from components.errors import ModelError
from components.export.parity import compare_detections, compare_probabilities
from components.export.predictor import OnnxPredictor
from components.export.write_onnx import write_onnx
from components.models.backbones import (
    BackboneConfig,
    FeatureBackboneConfig,
    create_feature_backbone,
    image_size_arguments,
)
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector
from components.models.saved_model import InferenceModel, ModelDescription

# The families in the tables of AutoTimm's pages on backbones and detectors come first.
FAMILIES = {
    "ResNet": ("resnet10t", "resnet18"),
    "ResNeXt": ("resnext26ts", "resnext50_32x4d"),
    "EfficientNet": ("efficientnet_b0", "tf_efficientnet_lite0", "efficientnet_es"),
    "EfficientNetV2": ("tf_efficientnetv2_b0", "efficientnetv2_rw_t"),
    "ConvNeXt": ("convnext_atto", "convnextv2_atto"),
    "RegNet": ("regnetx_002", "regnety_002"),
    "MobileNet": ("mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_035"),
    "ViT": (
        "vit_tiny_patch16_224",
        "vit_small_patch32_224",
        "vit_small_patch14_dinov2",
        "vit_tiny_r_s16_p8_224",
    ),
    "DeiT": ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"),
    "Swin": ("swin_tiny_patch4_window7_224", "swin_s3_tiny_224"),
    "Swin V2": ("swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224"),
    "BEiT": ("beit_base_patch16_224", "beitv2_base_patch16_224"),
    "CoAtNet": ("coatnet_pico_rw_224", "coatnet_nano_rw_224"),
    "MaxViT": ("maxvit_pico_rw_256", "maxvit_rmlp_pico_rw_256"),
    "EVA": ("eva02_tiny_patch14_224", "vit_small_patch16_rope_224"),
    "MobileViT": ("mobilevit_xxs", "mobilevitv2_050"),
    "HRNet": ("hrnet_w18_small",),
    "DenseNet": ("densenet121",),
    "VGG": ("vgg11",),
    "DLA": ("dla46_c",),
    "CSPNet": ("cs3darknet_focus_s",),
    "ReXNet": ("rexnet_100",),
    "GhostNet": ("ghostnet_050",),
    "LCNet": ("lcnet_035",),
    "VoVNet": ("ese_vovnet19b_slim_dw",),
    "SK-ResNet": ("skresnet18",),
    "ResNeSt": ("resnest14d",),
    "ResNetV2": ("resnetv2_18",),
    "NFNet": ("nf_regnet_b0",),
    "PVT v2": ("pvt_v2_b0",),
    "MetaFormer": ("poolformerv2_s12",),
    "MambaOut": ("mambaout_femto",),
    "XCiT": ("xcit_nano_12_p16_224",),
    "CaiT": ("cait_xxs24_224",),
    "LeViT": ("levit_128s",),
    "TinyViT": ("tiny_vit_5m_224",),
    "GC ViT": ("gcvit_xxtiny",),
    "Hiera": ("hiera_tiny_224",),
    "MLP-Mixer": ("mixer_s32_224", "gmlp_ti16_224"),
    "FlexiViT": ("flexivit_small",),
    "EfficientFormer": ("efficientformerv2_s0",),
    "EfficientViT": ("efficientvit_b0", "efficientvit_m0"),
    "RepViT": ("repvit_m0_9",),
    "FastViT": ("fastvit_t8",),
    "EdgeNeXt": ("edgenext_xx_small",),
    "NesT": ("nest_tiny",),
    "PiT": ("pit_ti_224",),
    "Twins": ("twins_svt_small",),
    "CoaT": ("coat_lite_tiny",),
    "MViTv2": ("mvitv2_tiny",),
    "DaViT": ("davit_tiny",),
    "FocalNet": ("focalnet_tiny_srf",),
    "CrossViT": ("crossvit_tiny_240",),
    "ConvMixer": ("convmixer_768_32",),
    "Inception": ("inception_v3",),
    "StarNet": ("starnet_s050",),
    "SHViT": ("shvit_s1",),
    "SwiftFormer": ("swiftformer_xs",),
    "NextViT": ("nextvit_small",),
}
SIZES = (64, 96, 128, 160)  # tried in turn, then the model's own
# Where shapes alone do not do, numbers are computed; that takes memory for the weights.
MOST_PARAMETERS = 100e6
SEARCHED_OF_A_FAMILY = 4  # names of a timm module in which unused parameters are searched
CLASSES = ("a", "b", "c")
TOLERANCE = 1e-3  # of a score, PyTorch against ONNX Runtime


def check_features(name: str, gradients: bool) -> dict[str, Any]:
    """Build a detector backbone without weights, run it for its shapes, compare with its words.

    Args:
        name: timm's.
        gradients: also look for parameters that the maps do not depend on.
    """
    try:
        with torch.device("meta"):
            backbone = create_feature_backbone(FeatureBackboneConfig(name, pretrained=False))
    except ModelError as error:
        kind = "no features" if "offers no feature maps" in str(error) else "refused"
        return {"result": kind, "why": _first_line(error)}
    num_parameters = sum(p.numel() for p in backbone.parameters())
    # Sides that differ, or maps with height and width exchanged would pass.
    size = backbone.built_for or (128, 192)
    device = "meta"
    try:
        maps, unused = _shapes_and_unused(backbone, size, device, gradients)
    except (RuntimeError, AttributeError):
        if num_parameters > MOST_PARAMETERS:
            return {"result": "skipped", "why": f"{num_parameters / 1e6:.0f} M parameters"}
        device = "cpu"
        backbone = create_feature_backbone(FeatureBackboneConfig(name, pretrained=False))
        maps, unused = _shapes_and_unused(backbone, size, device, gradients)
    wanted = [
        (2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]
    right = backbone.strides == [8, 16, 32] and maps == wanted
    facts = {
        "channels": backbone.channels,
        "parameters": num_parameters,
        "any_size": backbone.built_for is None,
        "run_on": device,
        "unused": unused,
        "offered": [info["reduction"] for info in cast_info(backbone.body.feature_info).info],
    }
    if not right:
        return {"result": "wrong", "why": f"{maps}, not {wanted}", **facts}
    return {"result": "correct", **facts}


def cast_info(info: Any) -> FeatureInfo:
    """Tell the type of timm's description."""
    assert isinstance(info, FeatureInfo)
    return info


def _shapes_and_unused(
    backbone: nn.Module, size: tuple[int, int], device: str, gradients: bool
) -> tuple[list[tuple[int, ...]], list[str] | None]:
    """Shapes of the maps, and the parameters that they do not depend on."""
    with torch.set_grad_enabled(gradients):
        maps: list[Tensor] = backbone.eval()(torch.zeros(2, 3, *size, device=device))
    shapes = [tuple(features.shape) for features in maps]
    if not gradients:
        return shapes, None
    total = torch.stack([features.sum() for features in maps]).sum()
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return shapes, [name for name, grad in zip(names, found, strict=True) if grad is None]


def check_model(name: str, task: str) -> dict[str, Any]:
    """One step of training, and an ONNX file that gives what PyTorch gives."""
    torch.manual_seed(0)
    module, size = _smallest(name, task)
    facts: dict[str, Any] = {"size": size}
    if isinstance(module, ObjectDetector):
        facts["strides"] = module.network.backbone.strides
        facts["channels"] = module.network.backbone.channels
    _train_one_step(module, size)
    description = ModelDescription(
        task="detection" if task == "detector" else "classification",
        backbone=name,
        classes=CLASSES,
        image_size=size,
        resize="letterbox",
        crop_fraction=1.0,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        fingerprint="",
    )
    facts["difference"] = _compare_onnx(InferenceModel(module, description).eval(), description)
    return {"result": "correct", **facts}


def _smallest(name: str, task: str) -> tuple[ImageClassifier | ObjectDetector, tuple[int, int]]:
    """The module at the smallest size that its family can be built for and run at."""
    published = timm.get_pretrained_cfg(name)
    assert published is not None, name
    own = published.input_size[-1]
    for side in (*(s for s in SIZES if s < own), own):
        size = (side, side)
        try:
            extra = image_size_arguments(name, size)
            module = _module(name, task, extra)
            module.evaluating(torch.zeros(1, 3, *size))
        except (ModelError, RuntimeError, AssertionError):
            if side == own:
                raise
            continue
        return module, size
    raise AssertionError("the last size either returns or raises")


def _module(name: str, task: str, extra: dict[str, Any]) -> ImageClassifier | ObjectDetector:
    kind: Any = ObjectDetector if task == "detector" else ImageClassifier
    known = inspect.signature(kind).parameters
    options = {"compile_model": False} if "compile_model" in known else {}
    if task == "classifier":
        return kind(BackboneConfig(name, False, extra_kwargs=extra), len(CLASSES), **options)
    return kind(
        FeatureBackboneConfig(name, False, extra_kwargs=extra),
        len(CLASSES),
        fpn_channels=32,
        head_num_convs=1,
        score_thresh=0.0,
        nms_thresh=1.0,  # nothing is suppressed, so that a rounding error decides nothing
        **options,
    )


def _train_one_step(module: ImageClassifier | ObjectDetector, size: tuple[int, int]) -> None:
    """Every parameter has to get a finite gradient, and stay finite."""
    height, width = size
    batch: dict[str, Any] = {"images": torch.randn(3, 3, height, width)}
    if isinstance(module, ObjectDetector):
        box = torch.tensor([[width * 0.1, height * 0.1, width * 0.8, height * 0.9]])
        batch["boxes"] = [box, torch.zeros(0, 4), torch.cat([box, box / 2])]
        batch["labels"] = [
            torch.tensor([0]),
            torch.zeros(0, dtype=torch.long),
            torch.tensor([1, 2]),
        ]
    else:
        batch["labels"] = torch.tensor([0, 1, 2])
    module.train()
    optimizer = torch.optim.SGD(module.network.parameters(), lr=1e-4)
    module.model_step(batch)["loss"].backward()
    without = [name for name, p in module.network.named_parameters() if p.grad is None]
    if without:
        raise AssertionError(f"{len(without)} parameters get no gradient: {without[:3]}")
    bad = [
        name
        for name, p in module.network.named_parameters()
        if p.grad is not None and not torch.isfinite(p.grad).all()
    ]
    if bad:
        raise AssertionError(f"{len(bad)} gradients are not finite: {bad[:3]}")
    optimizer.step()
    module.eval()


def _compare_onnx(model: InferenceModel, description: ModelDescription) -> float:
    """Greatest difference of a score; raises where the file is not the model."""
    height, width = description.image_size
    generator = np.random.default_rng(0)
    greatest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, description, path)
        predictor = OnnxPredictor(path, num_threads=1)
        for count in (1, 3):
            images = generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
            with torch.inference_mode():
                ours = tuple(output.numpy() for output in model(torch.from_numpy(images)))
            theirs = predictor.run(images)
            if description.task == "classification":
                parity = compare_probabilities(ours[0], theirs[0])
            else:
                parity = compare_detections(ours, theirs, 0.99, TOLERANCE, 0.0)
            if not parity.holds(TOLERANCE) or not parity.num_compared:
                raise AssertionError(f"ONNX differs from PyTorch, batch of {count}: {parity}")
            greatest = max(greatest, parity.max_score_difference)
    return greatest


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _smallest_first(rows: list[dict[str, Any]], state: Path) -> list[str]:
    """All of timm's names, by number of parameters; those that cannot be built come last."""
    for row in rows:
        if row["check"] == "order":
            return row["names"]
    sizes = {}
    for name in timm.list_models():
        try:
            with torch.device("meta"):
                model = timm.create_model(name, pretrained=False)
            sizes[name] = sum(p.numel() for p in model.parameters())
        except Exception:  # noqa: BLE001 - reported when its turn comes
            sizes[name] = 10**12
    names = sorted(sizes, key=lambda name: sizes[name])
    add_line(state, {"check": "order", "name": "", "names": names})
    return names


def main() -> None:
    """Check what has no line yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("features", "models", "page"))
    parser.add_argument("--state", type=Path, default=Path("backbone_families.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/backbones.md"))
    parser.add_argument("--part", default="1/1", help="of `features`: 2/3 takes every third name")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = read_lines(arguments.state)
    if arguments.what == "page":
        write_page(arguments.page, rows, FAMILIES)
        return
    done = {(row["check"], row["name"]) for row in rows}
    if arguments.what == "features":
        part, parts = map(int, arguments.part.split("/"))
        todo = [
            ("features", name) for name in _smallest_first(rows, arguments.state)[part - 1 :: parts]
        ]
    else:
        todo = [
            (task, name)
            for names in FAMILIES.values()
            for name in names
            for task in ("classifier", "detector")
        ]
    searched: Counter[str] = Counter()
    for check, name in todo:
        if (check, name) in done:
            continue
        started = time.perf_counter()
        family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        searched[family] += 1
        try:
            if check == "features":
                found = check_features(name, searched[family] <= SEARCHED_OF_A_FAMILY)
            else:
                found = check_model(name, check)
        except Exception as error:  # noqa: BLE001 - reported, and the next one has its turn
            found = {"result": "error", "why": f"{type(error).__name__}: {_first_line(error)}"}
        row = {
            "check": check,
            "name": name,
            "family": family,
            **found,
            "s": round(time.perf_counter() - started, 1),
        }
        add_line(arguments.state, row)
        print(check, name, found["result"], found.get("why", ""), flush=True)


if __name__ == "__main__":
    main()
