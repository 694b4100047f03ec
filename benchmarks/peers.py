"""The same detector from several hands, behind one small interface.

Every peer takes uint8 RGB images [B, 3, H, W] with boxes xyxy in pixels and class ids from 0, and
gives a loss to train on and detections. What a peer's own code wants instead (another colour order,
another box format, 0-255) is done here. All start from random weights, and all detect with the same
score threshold, suppression threshold and number of detections.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from components.data.loaders import normalize

Detections = list[dict[str, Tensor]]

SCORE_THRESHOLD = 0.01
NMS_THRESHOLD = 0.6
MAX_DETECTIONS = 100
BACKBONE = "resnet18"
FPN_CHANNELS = 128
HEAD_CONVS = 4

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Peer(nn.Module):
    """A detector with its loss and its decoding.

    Args:
        num_classes: without background.
        image_size: (height, width), pixels.
    """

    def __init__(self, num_classes: int, image_size: tuple[int, int]):
        super().__init__()
        self.num_classes = num_classes
        self.image_size = image_size

    @abstractmethod
    def loss(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """The scalar that training lowers."""

    @abstractmethod
    def predict(self, images: Tensor) -> Detections:
        """`boxes` xyxy pixels, `scores`, `labels` of each image; called in evaluation mode."""

    def last_epochs(self) -> None:
        """Called when the last tenth of the training begins."""


class OurFcos(Peer):
    """FCOS of this repository, with its defaults."""

    def __init__(self, num_classes: int, image_size: tuple[int, int]):
        super().__init__(num_classes, image_size)
        from components.models.backbones import FeatureBackboneConfig
        from components.models.detector import ObjectDetector

        self.model = ObjectDetector(
            FeatureBackboneConfig(BACKBONE, pretrained=False),
            num_classes,
            fpn_channels=FPN_CHANNELS,
            head_num_convs=HEAD_CONVS,
            score_thresh=SCORE_THRESHOLD,
            nms_thresh=NMS_THRESHOLD,
            max_detections_per_image=MAX_DETECTIONS,
        )

    def loss(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """See `Peer`."""
        batch = {"images": normalize(images, *_IMAGENET), "boxes": boxes, "labels": labels}
        return self.model.model_step(batch)["loss"]

    def predict(self, images: Tensor) -> Detections:
        """See `Peer`."""
        return self.model.predict(normalize(images, *_IMAGENET))


class TorchvisionFcos(Peer):
    """torchvision's FCOS on the same timm backbone; P6 and P7 from P5, as `fcos_resnet50_fpn`."""

    def __init__(self, num_classes: int, image_size: tuple[int, int]):
        super().__init__(num_classes, image_size)
        from torchvision.models.detection import FCOS
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.fcos import FCOSHead

        self.model = FCOS(
            _TimmPyramid(),
            num_classes,
            # Images come normalised and in their size: its own transform is to change nothing.
            min_size=min(image_size),
            max_size=max(image_size),
            image_mean=[0.0, 0.0, 0.0],
            image_std=[1.0, 1.0, 1.0],
            anchor_generator=AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5),
            head=FCOSHead(FPN_CHANNELS, 1, num_classes, HEAD_CONVS),
            score_thresh=SCORE_THRESHOLD,
            nms_thresh=NMS_THRESHOLD,
            detections_per_img=MAX_DETECTIONS,
        )

    def loss(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """See `Peer`."""
        targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
        losses = self.model(list(normalize(images, *_IMAGENET)), targets)
        return torch.stack(list(losses.values())).sum()

    def predict(self, images: Tensor) -> Detections:
        """See `Peer`."""
        return self.model(list(normalize(images, *_IMAGENET)))


class _TimmPyramid(nn.Module):
    """timm's features with torchvision's pyramid."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        from components.models.backbones import FeatureBackboneConfig, create_feature_backbone

        self.body = create_feature_backbone(FeatureBackboneConfig(BACKBONE, pretrained=False))
        self.out_channels = FPN_CHANNELS
        self.fpn = FeaturePyramidNetwork(
            self.body.channels, FPN_CHANNELS, extra_blocks=LastLevelP6P7(FPN_CHANNELS, FPN_CHANNELS)
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.body(images)
        return self.fpn(OrderedDict((str(level), m) for level, m in enumerate(maps)))


class OurYolox(Peer):
    """YOLOX-nano of this repository, put together from its parts."""

    def __init__(self, num_classes: int, image_size: tuple[int, int]):
        super().__init__(num_classes, image_size)
        from components.models.yolox_network import yolox_network

        self.network = yolox_network("yolox-nano", num_classes)
        self.use_l1 = False

    def loss(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """See `Peer`."""
        from components.models.yolox_loss import YOLOX_LOSS_WEIGHTS, yolox_loss

        strides = self.network.strides
        raw = self.network(_bgr(images))
        losses = yolox_loss(raw[0], raw[1], raw[2], strides, boxes, labels, self.use_l1)
        return torch.stack([YOLOX_LOSS_WEIGHTS[k] * value for k, value in losses.items()]).sum()

    def predict(self, images: Tensor) -> Detections:
        """See `Peer`."""
        from components.models.detector import as_dicts
        from components.models.postprocess import select_from_logits
        from components.models.yolox_loss import yolox_logits_and_boxes

        classes, boxes, objectness = self.network(_bgr(images))
        found = select_from_logits(
            *yolox_logits_and_boxes(classes, boxes, objectness, self.network.strides),
            self.image_size,
            "product",
            SCORE_THRESHOLD,
            NMS_THRESHOLD,
            MAX_DETECTIONS,
        )
        return as_dicts(*found)

    def last_epochs(self) -> None:
        """The recipe adds the L1 loss at the end."""
        self.use_l1 = True


class OriginalYolox(Peer):
    """YOLOX-nano by its authors' code (pixeltable-yolox)."""

    def __init__(self, num_classes: int, image_size: tuple[int, int]):
        super().__init__(num_classes, image_size)
        from yolox.config import YoloxConfig

        config = YoloxConfig.get_named_config("yolox_nano")
        assert config is not None
        config.num_classes = num_classes
        self.model = config.get_model()

    def loss(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """See `Peer`."""
        rows = images.new_zeros(
            (len(boxes), max(1, *(len(each) for each in boxes)), 5), dtype=torch.float32
        )
        for row, b, n in zip(rows, boxes, labels, strict=True):
            row[: len(b), 0] = n
            row[: len(b), 1:3] = (b[:, :2] + b[:, 2:]) / 2
            row[: len(b), 3:5] = b[:, 2:] - b[:, :2]
        return self.model(_bgr(images), rows)["total_loss"]

    def predict(self, images: Tensor) -> Detections:
        """See `Peer`."""
        from yolox.utils import postprocess

        rows = postprocess(
            self.model(_bgr(images)), self.num_classes, SCORE_THRESHOLD, NMS_THRESHOLD
        )
        found = []
        for row in rows:
            row = torch.empty(0, 7) if row is None else row
            scores, order = (row[:, 4] * row[:, 5]).sort(descending=True)
            order = order[:MAX_DETECTIONS]
            height, width = self.image_size
            limit = torch.tensor([width, height, width, height])
            boxes = torch.minimum(row[order, :4].clamp(min=0), limit)
            found.append(
                {"boxes": boxes, "scores": scores[: len(order)], "labels": row[order, 6].long()}
            )
        return found

    def last_epochs(self) -> None:
        """The recipe adds the L1 loss at the end."""
        self.model.head.use_l1 = True


class _Autotimm(Peer):
    """autotimm's own training step, without a trainer to log to."""

    model: Any

    def _quiet(self) -> None:
        self.model.log = lambda *_, **__: None

    def loss(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """See `Peer`."""
        batch = {"image": normalize(images, *_IMAGENET), "boxes": boxes, "labels": labels}
        return self.model.training_step(batch, 0)

    def predict(self, images: Tensor) -> Detections:
        """See `Peer`."""
        return self.model.predict(normalize(images, *_IMAGENET))


class AutotimmFcos(_Autotimm):
    """`autotimm.ObjectDetector`, with its defaults."""

    def __init__(self, num_classes: int, image_size: tuple[int, int]):
        super().__init__(num_classes, image_size)
        from autotimm import FeatureBackboneConfig, ObjectDetector

        self.model = ObjectDetector(
            FeatureBackboneConfig(BACKBONE, pretrained=False),
            num_classes,
            fpn_channels=FPN_CHANNELS,
            head_num_convs=HEAD_CONVS,
            score_thresh=SCORE_THRESHOLD,
            nms_thresh=NMS_THRESHOLD,
            max_detections_per_image=MAX_DETECTIONS,
            compile_model=False,
            deterministic=False,
        )
        self._quiet()


class AutotimmYolox(_Autotimm):
    """`autotimm.YOLOXDetector("yolox-nano")`."""

    def __init__(self, num_classes: int, image_size: tuple[int, int]):
        super().__init__(num_classes, image_size)
        from autotimm import YOLOXDetector

        self.model = YOLOXDetector(
            "yolox-nano",
            num_classes,
            score_thresh=SCORE_THRESHOLD,
            nms_thresh=NMS_THRESHOLD,
            max_detections_per_image=MAX_DETECTIONS,
            compile_model=False,
            deterministic=False,
        )
        self._quiet()


def _bgr(images: Tensor) -> Tensor:
    """As YOLOX takes images: BGR, 0 to 255."""
    return images.flip(1).float()


PEERS: dict[str, dict[str, type[Peer]]] = {
    "fcos": {"ours": OurFcos, "torchvision": TorchvisionFcos, "autotimm": AutotimmFcos},
    "yolox": {"ours": OurYolox, "original": OriginalYolox, "autotimm": AutotimmYolox},
}
