"""Recipes: named values for the parameters of training that `params.yaml` leaves open.

Three layers, the upper one wins:

1. what stands in `params.yaml`, unless it is null;
2. what the recipe says here, its values for the task and then for the backbone included;
3. the default of `TrainSettings`.

A recipe is a table in the form of the section `train`. Its lengths in epochs go with its own
`epochs`; where `params.yaml` sets another number they change in proportion.

`lr` is the peak rate at `lr_batch` images a step. With another batch size it is scaled: in
proportion for SGD and its kin (Goyal et al. 2017, arXiv:1706.02677), by the square root for
optimizers that divide by the gradient's size, Adam and its kin (Malladi et al. 2022,
arXiv:2205.10330).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LENGTHS = ("warmup_epochs", "freeze_epochs", "plain_epochs")
_ONE_LABEL = ("label_smoothing", "balanced_sampling")  # of `classifier`
_SOFTMAX = ("label_smoothing",)
_LINEAR = ("sgd", "sgdp", "lars")  # the others are adaptive


@dataclass(frozen=True)
class Recipe:
    """Values of the section `train`, and where they come from.

    Attributes:
        purpose: when to take it.
        source: whose numbers these are.
        tasks: it is for.
        values: for all of them.
        variants: further values by task or by backbone.
    """

    purpose: str
    source: str
    values: dict[str, Any]
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: tuple[str, ...] = ("classification", "detection")


_SMALL_SET: dict[str, Any] = {
    "epochs": 20,
    "warmup_epochs": 2,
    "patience": 10,
    "optimizer": "adamw",
    "scheduler": "cosine",
    "weight_decay": 1e-4,
    "ema_decay": 0.99,
    "ema_ramp": 20,
    "lr_batch": 64,
}
_CLASSES = {"batch_size": 32, "lr": 1.4e-3, "gradient_clip": 1}
_BOXES = {"batch_size": 8, "lr": 2.8e-3, "gradient_clip": 10}
_SMALL_YOLOX: dict[str, Any] = {
    "augment": {"mosaic_scale": [0.5, 1.5], "mixup": 0, "multi_scale": [-3, 7]}
}

RECIPES: dict[str, Recipe] = {
    "finetune": Recipe(
        "Good on an unknown small set: everything learns, the earlier a layer the more slowly.",
        "AutoGluon's default for images (autogluon/multimodal/configs/optim/default.yaml and "
        "model/default.yaml: AdamW, layer decay 0.9, 10 % warm-up, cosine, 20 epochs, clip 1, "
        "patience 10, greedy soup of the three best, TrivialAugment). Of our own: EMA, label "
        "smoothing, clip 10 for detection, patience counted in epochs (there in half ones), and lr "
        "of the examples clothing (0.001 for 32 images) and bccd (0.001 for 8), measured in "
        "README.md; weight decay is a tenth of theirs, as lr is ten times theirs",
        {
            **_SMALL_SET,
            "layer_decay": 0.9,
            "average_best": 3,
            "augment": {"flip": "auto", "scale": "auto"},
        },
        {
            "classification": {
                **_CLASSES,
                "classifier": {"label_smoothing": 0.1},
                "augment": {"trivial_augment": True, "color": 0},
            },
            "detection": {**_BOXES, "augment": {"color": 0.2}},
        },
    ),
    "linear_probe": Recipe(
        "A first answer in minutes, or very few images: only the new layers learn.",
        "the backbone as a fixed feature extractor, batch-norm statistics too (Kornblith et al. "
        "2019, arXiv:1805.08974; they fit a logistic regression to the features, which has no "
        "rate). A classifier's rate, ten times that of `finetune`, is our own",
        {
            **_SMALL_SET,
            "backbone_lr_scale": 0,
            "augment": {"flip": "auto", "scale": "auto", "color": 0},
        },
        {
            "classification": {**_CLASSES, "lr": 1.4e-2},
            "detection": _BOXES,
        },
    ),
    "two_phase": Recipe(
        "Data unlike photographs, or a head that disturbs the backbone at first: the new layers "
        "learn alone, then all.",
        "first the head, then everything (Kumar et al. 2022, arXiv:2202.10054), the backbone at a "
        "lower rate (Howard and Ruder 2018, arXiv:1801.06146). fastai's `Learner.fine_tune` does "
        "the same, with one frozen epoch and down to a hundredth of the rate; the fifth of the "
        "epochs and the tenth of the rate here are our own",
        {
            **_SMALL_SET,
            "freeze_epochs": 4,
            "backbone_lr_scale": 0.1,
            "augment": {"flip": "auto", "scale": "auto"},
        },
        {
            "classification": {**_CLASSES, "classifier": {"label_smoothing": 0.1}},
            "detection": _BOXES,
        },
    ),
    "yolox": Recipe(
        "YOLOX as its authors train it, from random weights on thousands of images.",
        "Ge et al. 2021, arXiv:2107.08430, and their code: yolox/exp/yolox_base.py, "
        "yolox/utils/ema.py, exps/default/yolox_tiny.py and yolox_nano.py; hsv is 5/180, 30/255, "
        "30/255, as of yolox/data/data_augment.py",
        {
            "backbone": "yolox-s",
            "pretrained": False,
            "epochs": 300,
            "batch_size": 64,
            "lr": 0.01,
            "lr_batch": 64,
            "weight_decay": 5e-4,
            "optimizer": "sgd",
            "scheduler": "yolox",
            "warmup_epochs": 5,
            "gradient_clip": 0,
            "ema_decay": 0.9998,
            "ema_ramp": 2000,
            "augment": {
                "flip": 0.5,
                "scale": [1, 1],
                "color": 0,
                "hsv": [0.028, 0.118, 0.118],
                "mosaic": 1,
                "mosaic_scale": [0.1, 2.0],
                "degrees": 10,
                "translate": 0.1,
                "shear": 2,
                "mixup": 1,
                "mixup_scale": [0.5, 1.5],
                "plain_epochs": 15,
                "multi_scale": 5,
            },
        },
        {
            "yolox-tiny": _SMALL_YOLOX,
            "yolox-nano": {"augment": {**_SMALL_YOLOX["augment"], "mosaic": 0.5}},
        },
        tasks=("detection",),
    ),
    "from_scratch": Recipe(
        "Tens of thousands of images, and no weights that suit them.",
        "classification: A3 of Wightman et al. 2021, arXiv:2110.00476 (LAMB, 0.008 for 2048 "
        "images, weight decay 0.02, 100 epochs, 5 of warm-up, mixup 0.1, cutmix 1; as "
        "mmpretrain's resnet50_8xb256-rsb-a3-100e_in1k); here softmax instead of binary "
        "cross-entropy and TrivialAugment instead of RandAugment; "
        "detection: FCOS's optimizer (Tian et al. 2019, arXiv:1904.01355, "
        "configs/fcos/fcos_R_50_FPN_1x.yaml: SGD, 0.01 for 16 images, weight decay 0.0001) for the "
        "schedule that replaces pre-training (He et al. 2019, arXiv:1811.08883: 6x, 540,000 steps "
        "of 16 images, 73 epochs of COCO), cosine instead of steps",
        {"pretrained": False, "scheduler": "cosine", "ema_decay": 0},
        {
            "classification": {
                "epochs": 100,
                "warmup_epochs": 5,
                "batch_size": 64,
                "optimizer": "lamb",
                "lr": 0.008,
                "lr_batch": 2048,
                "weight_decay": 0.02,
                "gradient_clip": 0,
                "classifier": {"mixup_alpha": 0.1, "cutmix_alpha": 1},
                "augment": {
                    "flip": "auto",
                    "scale": [0.08, 1],
                    "color": 0,
                    "trivial_augment": True,
                },
            },
            "detection": {
                "epochs": 73,
                "warmup_epochs": 1,
                "batch_size": 16,
                "optimizer": "sgd",
                "lr": 0.01,
                "lr_batch": 16,
                "weight_decay": 1e-4,
                "gradient_clip": 10,
                "augment": {"flip": "auto", "scale": "auto", "color": 0.2},
            },
        },
    ),
}
DEFAULT = "finetune"


def recipe_values(
    name: str, task: str, backbone: str | None = None, multi_label: bool = False
) -> dict[str, Any]:
    """All that a recipe says.

    Args:
        name: of the recipe.
        task: decides on its variant.
        backbone: likewise; None: the recipe's own, if it has one.
        multi_label: several labels an image: what is for one label is left out.
    """
    recipe = RECIPES[name]
    values = _over(recipe.values, recipe.variants.get(task, {}))
    values = _over(values, recipe.variants.get(backbone or values.get("backbone", ""), {}))
    return _without(values, _ONE_LABEL) if multi_label else values


def with_recipe(given: Mapping[str, Any], task: str, multi_label: bool = False) -> dict[str, Any]:
    """The section `train` as it is to be checked: what is given, over its recipe's values.

    Args:
        given: as `params.yaml` has it; null counts as left out.
        task, multi_label: see `recipe_values`.

    Raises:
        ValueError: the recipe is not for this task.
    """
    name = given.get("recipe") or DEFAULT
    stated = _stated(given)
    if name not in RECIPES:
        return stated  # the settings say what is allowed
    if task not in RECIPES[name].tasks:
        allowed = ", ".join(key for key, recipe in RECIPES.items() if task in recipe.tasks)
        raise ValueError(f"train.recipe = {name}: not for {task}; allowed: {allowed}")
    below = recipe_values(name, task, stated.get("backbone"), multi_label)
    classifier = stated.get("classifier")
    if isinstance(classifier, Mapping) and classifier.get("loss_fn") == "focal":
        below = _without(below, _SOFTMAX)
    epochs = stated.get("epochs")
    if "epochs" in below and isinstance(epochs, int) and not isinstance(epochs, bool):
        below = _in_proportion(below, epochs / below["epochs"])
    return {**_over(below, stated), "recipe": name}


def step_lr(lr: float, lr_batch: int, optimizer: str, num_images: int) -> float:
    """The peak rate at a batch size; see the module's text.

    Args:
        lr: rate at `lr_batch` images.
        lr_batch: 0: the rate is the same whatever the batch.
        optimizer: its name.
        num_images: a step, over all processes.
    """
    if not lr_batch:
        return lr
    power = 1.0 if optimizer in _LINEAR else 0.5
    return lr * (num_images / lr_batch) ** power


def _without(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The values but for some of `classifier`."""
    if "classifier" not in values:
        return values
    kept = {key: value for key, value in values["classifier"].items() if key not in keys}
    return {**values, "classifier": kept}


def _stated(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without nulls."""
    return {
        key: _stated(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees as one, `above` first."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        # A schedule's options belong to that schedule; half of another's would be an error.
        merged[key] = _over(under, value) if both and key != "scheduler_options" else value  # type: ignore[arg-type]
    return merged


def _in_proportion(values: Mapping[str, Any], factor: float) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            changed[key] = _in_proportion(value, factor)
        elif key == "warmup_epochs":
            changed[key] = round(value * factor, 3)
        else:
            changed[key] = round(value * factor) if key in LENGTHS else value
    return changed
