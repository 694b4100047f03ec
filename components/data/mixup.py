"""Mixup and CutMix of a classification batch, by torchvision's transforms, with soft labels.

Shapes: B images, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2


def mix_batch(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Each image mixed with its neighbour in the batch, and their labels in the same shares.

    Args:
        images: float [B, 3, H, W].
        labels: class ids [B], or float targets [B, C] (multi-label).
        num_classes: C.
        mixup_alpha: of the Beta distribution of the shares (Zhang et al. 2018, arXiv:1710.09412);
            0 switches mixup off.
        cutmix_alpha: the same for CutMix (Yun et al. 2019, arXiv:1905.04899). With both on, a batch
            gets one or the other, evenly often, as in timm.
        smoothing: share of the target spread evenly over the classes; for class ids only.
        generator: on the CPU; a training hands one made from (seed, epoch, batch). None draws from
            torch's own stream.

    Returns:
        Images [B, 3, H, W] and soft labels, float [B, C], for a cross-entropy without smoothing of
        its own.

    Raises:
        ValueError: smoothing is asked of labels that are targets already.
    """
    if labels.ndim == 1:
        targets = F.one_hot(labels, num_classes).float()
        targets = targets * (1 - smoothing) + smoothing / num_classes
    elif smoothing:
        raise ValueError(
            f"smoothing = {smoothing:g}: labels of shape {list(labels.shape)} are targets already; "
            "class ids [B] can be smoothed"
        )
    else:
        targets = labels.float()
    mixers: list[v2.Transform] = []
    if mixup_alpha > 0:
        mixers.append(v2.MixUp(alpha=float(mixup_alpha), num_classes=num_classes))
    if cutmix_alpha > 0:
        mixers.append(v2.CutMix(alpha=float(cutmix_alpha), num_classes=num_classes))
    if not mixers:
        return images, targets
    seed = int(torch.randint(2**62, (), generator=generator))
    # torchvision draws from the CPU's global stream; this leaves it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        mixed, soft = mixers[int(torch.randint(len(mixers), ()))](images, targets)
    return mixed, soft
