"""Advice: each rule speaks when its numbers say so, and is silent otherwise."""

import pytest

from components.report.advice import advise
from components.report.facts import Facts


def facts(task="classification", **changes):
    """A run without anything to remark: eight even epochs, even classes, enough images."""
    detection, multi_label = task == "detection", changes.pop("multi_label", False)
    by_map = detection or multi_label
    main, metric = ("map", "ap") if by_map else ("accuracy", "f1")
    headline = {main: 0.8, **changes.pop("headline", {})}
    values = changes.pop("values", [0.5, 0.7, 0.78, 0.8, 0.81, 0.82, 0.82, 0.815])
    losses = changes.pop("losses", [1.0, 0.8, 0.7, 0.65, 0.62, 0.6, 0.6, 0.6])
    learnt = changes.pop("learnt", [1.0 - n / 20 for n in range(len(values))])
    classes = changes.pop("classes", {"cat": 0.8, "dog": 0.82, "cow": 0.79})
    counts = changes.pop("counts", dict.fromkeys(classes, 100))
    best = max(range(len(values)), key=lambda n: values[n])
    train = {
        "num_epochs": len(values),
        "best_epoch": best + 1,
        "best": values[best],
        "monitor": f"val/{main}",
        **changes.pop("train", {}),
    }
    evaluation = {
        "task": task,
        "multi_label": multi_label,
        "split": "test",
        "classes": list(classes),
        "headline": headline,
        "intervals": {main: changes.pop("interval", [0.78, 0.83])},
        "per_class": [{"class": name, metric: value} for name, value in classes.items()],
        "confusion": changes.pop("confusion", None),
    }
    parameters = {"train.pretrained": True, "train.num_workers": 0, **changes.pop("parameters", {})}
    assert not changes, changes
    return Facts(
        title="",
        made_at="",
        task=task,
        figures={"train": train},
        evaluation=evaluation,
        pictures={},
        validation={},
        dataset={},
        prepared={},
        images_per_split={"train": 300},
        per_class_and_split={name: {"train": count} for name, count in counts.items()},
        curves=[
            {"epoch": n + 1, main: value, "val_loss": loss, "train_loss": train_loss}
            for n, (value, loss, train_loss) in enumerate(zip(values, losses, learnt, strict=True))
        ],
        parameters=list(parameters.items()),
    )


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_a_run_without_remarks_gets_none(task):
    advice = advise(facts(task))
    assert advice.suggestions == advice.weak == advice.other == ()
    name = "AP" if task == "detection" else "accuracy"
    assert advice.lines == [
        f"In 8 epochs validation {name} went from 0.500 to 0.820, in epoch 6.",
        f"On the test split {name} is 0.800, between 0.780 and 0.830 with 95 % confidence.",
        "No single setting stands out from these figures.",
    ]


RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7]
OVERFITTED = {
    "values": [0.5, 0.8, 0.79, 0.78, 0.77, 0.77, 0.76, 0.76],
    "losses": [1.0, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0],
}
RARE = {
    "classes": {"cat": 0.4, "dog": 0.82, "cow": 0.8},
    "counts": {"cat": 9, "dog": 90, "cow": 80},
}


@pytest.mark.parametrize(
    ("task", "changes", "setting", "why"),
    [
        ("detection", {"values": RISING}, "train.epochs above 8", "brought +0.100"),
        (
            "classification",
            OVERFITTED,
            "train.augment.trivial_augment: true",
            "since epoch 2 validation loss rose from 0.600 to 1.000 and training loss fell from "
            "0.950 to 0.650; epoch 2 of 8",
        ),
        (
            "classification",
            {**OVERFITTED, "parameters": {"train.augment.trivial_augment": True}},
            "train.augment with a wider scale, or a smaller train.lr",
            "by heart",
        ),
        (
            "classification",
            RARE,
            "train.classifier.balanced_sampling: true",
            "cat is weak and rare: 9 in training, 80 in the median class",
        ),
        (
            "classification",
            {**RARE, "multi_label": True},
            "train.classifier.class_weights: balanced",
            "cat is weak and rare",
        ),
        ("detection", RARE, "train.detector.repeat_threshold: 0.12", "cat is weak and rare"),
        (
            "detection",
            {**RARE, "parameters": {"train.detector.repeat_threshold": 0.1}},
            "more training images with cat",
            "weak and rare",
        ),
        (
            "detection",
            {"headline": {"map_small": 0.3, "map_large": 0.7}},
            "a larger preprocess.image_size",
            "AP 0.300 against 0.700",
        ),
        (
            "classification",
            {"parameters": {"train.pretrained": False}},
            "train.pretrained: true",
            "300 training images are few",
        ),
    ],
)
def test_a_rule_speaks_from_its_numbers(task, changes, setting, why):
    (suggestion,) = advise(facts(task, **changes)).suggestions
    assert suggestion.setting == setting and why in suggestion.why and suggestion.gain > 0


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("detection", {"values": [0.5, 0.79, 0.791, 0.791, 0.792, 0.793, 0.794, 0.795]}),
        ("classification", {**OVERFITTED, "losses": [1, 0.6, 0.6, 0.62, 0.6, 0.6, 0.62, 0.62]}),
        ("detection", {"headline": {"map_small": -1.0, "map_large": 0.7}}),
        ("classification", {**RARE, "counts": {"cat": 80, "dog": 90, "cow": 80}}),
        ("classification", {"parameters": {"train.pretrained": "weights.safetensors"}}),
        ("classification", {"classes": {"cat": 0.2}}),
    ],
    ids=["levelled out", "loss is even", "no small objects", "weak, not rare", "a file", "alone"],
)
def test_a_rule_is_silent_without_its_numbers(task, changes):
    assert advise(facts(task, **changes)).suggestions == ()


def test_the_largest_gap_comes_first():
    advice = advise(
        facts("detection", values=RISING, headline={"map_small": 0.1, "map_large": 0.9})
    )
    assert [s.setting.split()[-1] for s in advice.suggestions] == ["preprocess.image_size", "8"]
    assert advice.lines[2].startswith("Most likely to help: a larger preprocess.image_size: small")
    assert advice.lines[3].startswith("Then: train.epochs above 8: ")


def test_weak_classes_are_named_with_what_they_are_taken_for():
    advice = advise(facts(**RARE, confusion=[[4, 5, 1], [1, 9, 0], [0, 0, 9]]))
    assert advice.weak == (
        "Weak: cat, F1 0.400, 9 training images, most often taken for dog (50%).",
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"interval": [0.6, 0.9]}, "differences below 0.15 cannot be told from chance"),
        ({"train": {"best": 0.95}}, "Validation promised more (0.950) than the test split gives"),
        ({"train": {"data_share": 0.4}}, "40% of its time: train.num_workers above 0 would"),
        (
            {"train": {"data_share": 0.4}, "parameters": {"train.num_workers": "auto"}},
            "train.num_workers set by hand, above what auto chose, would make it faster",
        ),
    ],
)
def test_other_remarks(changes, text):
    (line,) = advise(facts(**changes)).other
    assert text in line


def test_boxes_that_are_inexact_are_told_of():
    learnt = advise(facts("detection", headline={"map_50": 0.9, "map_75": 0.5})).learnt
    assert "framed inexactly: AP50 is 0.900, AP75 0.500" in learnt[-1]


def test_a_weak_class_is_not_taken_for_the_background_nor_for_what_it_is_hardly_taken_for():
    classes = {"cat": 0.4, "dog": 0.8, "cow": 0.8}
    missed = [[50, 10, 0, 40], [0, 100, 0, 0], [0, 0, 100, 0], [70, 0, 0, 0]]
    weak = advise(facts("detection", classes=classes, confusion=missed)).weak
    assert weak == ("Weak: cat, AP 0.400, 100 training objects, most often taken for dog (10%).",)
    missed[0] = [57, 3, 0, 40]
    assert "taken for" not in advise(facts("detection", classes=classes, confusion=missed)).weak[0]


def test_a_training_that_diverges_has_learnt_nothing_by_heart():
    rising = [1.0, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    said = " ".join(advise(facts("classification", **OVERFITTED, learnt=rising)).lines)
    assert "by heart" not in said
