"""What each learning-rate schedule takes, and its defaults; for settings, without torch."""

from __future__ import annotations

from typing import Any

# Their own arguments. A warm-up is `warmup_epochs`, linear, before any of them but those that bring
# one of their own (`schedulers.py`).
SCHEDULE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "cosine": {"T_max": None, "eta_min": None},
    "step": {"step_size": 30, "gamma": 0.1},
    "multistep": {"milestones": (8, 11), "gamma": 0.1},
    "exponential": {"gamma": 0.95},
    "cosine_with_restarts": {"T_0": 10, "T_mult": 1, "eta_min": None},
    "onecycle": {"max_lr": None, "pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4},
    "plateau": {"monitor": "val/loss", "mode": None, "factor": 0.1, "patience": 10},
    "yolox": {"no_aug_epochs": 15, "min_lr_ratio": 0.05},
    "none": {},
}
