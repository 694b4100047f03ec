"""The YOLOX recipe's curves over a training: learning rate, and decay of the averaged weights."""

from __future__ import annotations

import math


def yolox_lr(
    step: int,
    total_steps: int,
    warmup_steps: int,
    constant_steps: int,
    lr: float = 1.0,
    min_ratio: float = 0.05,
) -> float:
    """The learning rate of a step: quadratic from 0, cosine down to the least, constant at the end.

    Args:
        step: 0 for the first.
        total_steps: of the whole training; officially 300 epochs.
        warmup_steps: until `lr` is reached; officially 5 epochs.
        constant_steps: at the end, at the least rate; officially the 15 epochs without mosaic.
        lr: the highest; with 1 the result is a factor.
        min_ratio: the least as a share of `lr` (official code).
    """
    least = lr * min_ratio
    if step <= warmup_steps:
        # A training without warm-up starts at the top.
        return lr * (step / warmup_steps) ** 2 if warmup_steps else lr
    if step >= total_steps - constant_steps:
        return least
    done = math.pi * (step - warmup_steps) / (total_steps - warmup_steps - constant_steps)
    return least + 0.5 * (lr - least) * (1.0 + math.cos(done))


def yolox_ema_decay(num_updates: int, decay: float = 0.9998, ramp: float = 2000) -> float:
    """How much of the average an update keeps: little at first, `decay` in the end.

    Args:
        num_updates: this one included, so from 1 on.
        decay: what it tends to (official code).
        ramp: updates after which 63 % of it is reached (official code).
    """
    return decay * (1 - math.exp(-num_updates / ramp))
