"""Metric and logging configs: what they refuse, and the metrics made from them."""

import json

import pytest
import torch
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MultilabelF1Score
from torchmetrics.detection import MeanAveragePrecision

from components.models.metrics import (
    LoggingConfig,
    MetricConfig,
    MetricManager,
    computed,
    create_metric,
)

GOOD = {
    "name": "accuracy",
    "backend": "torchmetrics",
    "metric_class": "Accuracy",
    "params": {"task": "multiclass"},
    "stages": ["train", "val", "test"],
}


class CountsSeen(Metric):
    """A user's metric that wants to know the number of classes, and no more."""

    def __init__(self, num_classes, scale=1):
        super().__init__()
        self.num_classes, self.scale = num_classes, scale
        self.add_state("seen", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, preds, target):
        self.seen += len(target)

    def compute(self):
        return self.seen * self.scale


class TakesNothing(CountsSeen):
    def __init__(self):
        super().__init__(num_classes=-1)


def not_a_metric():
    return 3


def metric(**changes):
    return MetricConfig(**(GOOD | changes))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": ""}, r"name = ''; must be a non-empty text"),
        ({"name": "a.b"}, r"name = 'a.b'; must be .* without a dot"),
        ({"name": "keys"}, r"name = 'keys'; .* not an attribute of nn.ModuleDict"),
        ({"backend": "keras"}, r"backend = 'keras'; allowed: torchmetrics, custom"),
        ({"metric_class": ""}, r"metric_class = ''; must be the name of a class"),
        ({"backend": "custom"}, r"metric_class = 'Accuracy'; .* dotted path"),
        ({"params": None}, r"params = None; must be a dict"),
        ({"params": {"a": [torch.ones(1)]}}, r"params.a\[0\] = tensor.*; allowed: numbers"),
        ({"params": {3: "a"}}, r"params has the key 3; keys are texts"),
        ({"stages": []}, r"stages = \[\]; must be a list of train, val, test"),
        ({"stages": "val"}, r"stages = 'val'; must be a list"),
        ({"stages": ["val", "predict"]}, r"stage = 'predict'; allowed: train, val, test"),
        ({"prog_bar": "yes"}, r"prog_bar = 'yes'; allowed: True, False"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(changes, error):
    with pytest.raises(ValueError, match=error):
        metric(**changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"log_learning_rate": 1}, r"log_learning_rate = 1; allowed: True, False"),
        ({"predictions_per_epoch": -1}, r"predictions_per_epoch = -1; must be .* >= 0"),
        ({"verbosity": 3}, r"verbosity = 3; allowed: 0, 1, 2"),
    ],
)
def test_a_logging_field_that_cannot_be_used_is_named(changes, error):
    with pytest.raises(ValueError, match=error):
        LoggingConfig(**({"log_learning_rate": True, "log_gradient_norm": False} | changes))


def test_defaults_are_the_documented_ones():
    config = metric()
    assert (config.log_on_step, config.log_on_epoch, config.prog_bar) == (False, True, False)
    assert LoggingConfig(True, False).to_dict() == {
        "log_learning_rate": True,
        "log_gradient_norm": False,
        "log_weight_norm": False,
        "log_confusion_matrix": False,
        "log_predictions": False,
        "predictions_per_epoch": 8,
        "verbosity": 1,
    }


def test_backend_and_stages_may_be_written_in_capitals():
    config = metric(backend="TorchMetrics", stages=("Val", "VAL", "test"))
    assert (config.backend, config.stages) == ("torchmetrics", ["val", "test"])


def test_a_config_is_not_changed_through_what_it_was_made_from():
    params, stages = {"task": "multiclass"}, ["val"]
    config = metric(params=params, stages=stages)
    params["task"], stages[0] = "binary", "test"
    assert (config.params, config.stages) == ({"task": "multiclass"}, ["val"])
    with pytest.raises(AttributeError):
        config.name = "other"


def test_configs_survive_a_checkpoint(tmp_path):
    manager = MetricManager([metric(), metric(name="f1", metric_class="F1Score")], 5)
    logging = LoggingConfig(True, False, verbosity=2)
    saved = {"metrics": manager.to_dict(), "logging": logging.to_dict()}
    torch.save(saved, tmp_path / "a.ckpt")
    for loaded in (
        torch.load(tmp_path / "a.ckpt", weights_only=True),
        json.loads(json.dumps(saved)),
    ):
        again = MetricManager.from_dict(loaded["metrics"])
        assert again.configs == manager.configs and again.num_classes == 5
        assert LoggingConfig.from_dict(loaded["logging"]) == logging


def test_an_unknown_key_is_not_ignored():
    with pytest.raises(ValueError, match="MetricConfig has no field colour; allowed: name, back"):
        MetricConfig.from_dict(GOOD | {"colour": "red"})


@pytest.mark.parametrize(
    ("metric_class", "params", "kind", "num_classes", "num_labels"),
    [
        ("Accuracy", {"task": "multiclass"}, MulticlassAccuracy, 7, None),
        ("Accuracy", {"task": "binary"}, BinaryAccuracy, None, None),
        ("F1Score", {"task": "multilabel"}, MultilabelF1Score, None, 7),
        ("MulticlassAccuracy", {}, MulticlassAccuracy, 7, None),
        ("MultilabelF1Score", {}, MultilabelF1Score, None, 7),
        # What the user says counts.
        ("MultilabelF1Score", {"num_labels": 4}, MultilabelF1Score, None, 4),
        ("Accuracy", {"task": "multiclass", "num_classes": 3}, MulticlassAccuracy, 3, None),
    ],
)
def test_the_number_of_classes_reaches_who_takes_it(
    metric_class, params, kind, num_classes, num_labels
):
    made = create_metric(metric(metric_class=metric_class, params=params), 7)
    assert type(made) is kind
    assert getattr(made, "num_classes", None) == num_classes
    assert getattr(made, "num_labels", None) == num_labels


def test_detection_metric_uses_the_installed_backend_and_does_not_warn_of_its_cap():
    made = create_metric(metric(metric_class="MeanAveragePrecision", params={}), 7)
    assert isinstance(made, MeanAveragePrecision)
    assert made._coco_backend.backend == "faster_coco_eval"
    assert made.warn_on_many_detections is False
    chosen = metric(metric_class="MeanAveragePrecision", params={"backend": "pycocotools"})
    assert create_metric(chosen, 7)._coco_backend.backend == "pycocotools"
    box = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([6])}
    made.update([box | {"scores": torch.tensor([0.9])}], [box])
    assert made.compute()["map"] == 1


def test_a_custom_class_is_given_only_what_it_takes():
    path = f"{__name__}.CountsSeen"
    made = create_metric(metric(backend="custom", metric_class=path, params={"scale": 2}), 7)
    assert (made.num_classes, made.scale) == (7, 2)
    assert create_metric(
        metric(backend="custom", metric_class=f"{__name__}.TakesNothing", params={}), 7
    )


@pytest.mark.parametrize(
    ("backend", "metric_class", "params", "error"),
    [
        ("torchmetrics", "Acuracy", {}, "'m': torchmetrics has no metric 'Acuracy'; .* Accuracy"),
        ("torchmetrics", "Accuracy", {}, "'m': Accuracy refuses its params: .*'task'"),
        ("torchmetrics", "MeanMetric", {"foo": 1}, "'m': MeanMetric refuses its params: .*foo"),
        ("custom", "nowhere.Metric", {}, "'m': metric_class = 'nowhere.Metric': No module"),
        ("custom", "torch.Nothing", {}, "'m': .* torch has no class 'Nothing'"),
        ("custom", f"{__name__}.not_a_metric", {}, "'m': .* is not a torchmetrics.Metric"),
    ],
)
def test_a_class_that_cannot_be_used_is_named(backend, metric_class, params, error):
    config = metric(name="m", backend=backend, metric_class=metric_class, params=params)
    with pytest.raises(ValueError, match=error):
        create_metric(config, 7)


@pytest.mark.parametrize(
    ("configs", "num_classes", "error"),
    [
        ([], 3, "configs is empty"),
        ([GOOD], 3, "configs holds .*; allowed: MetricConfig"),
        ([metric()], 0, "num_classes = 0; must be a whole number >= 1"),
        ([metric(), metric()], 3, "two metrics of stage 'train' are named 'accuracy'"),
    ],
)
def test_a_manager_refuses(configs, num_classes, error):
    with pytest.raises(ValueError, match=error):
        MetricManager(configs, num_classes)


def test_a_manager_gives_metrics_by_stage_and_name():
    accuracy = metric(stages=["train", "val"])
    f1 = metric(name="f1", metric_class="F1Score", stages=["test"], prog_bar=True)
    manager = MetricManager([accuracy, f1], num_classes=3)
    assert (len(manager), list(manager), manager[1]) == (2, [accuracy, f1], f1)
    assert list(manager.get_train_metrics()) == ["accuracy"]
    assert list(manager.get_test_metrics()) == ["f1"]
    train, val = manager.get_train_metrics()["accuracy"], manager.get_val_metrics()["accuracy"]
    # Each stage counts for itself.
    assert train is not val and train is manager.get_train_metrics()["accuracy"]
    assert manager.get_metric_by_name("accuracy") is val
    assert manager.get_metric_by_name("accuracy", stage="train") is train
    assert manager.get_metric_by_name("accuracy", stage="test") is None
    assert manager.get_metric_by_name("nothing") is None
    assert manager.get_metric_config("test", "f1") is f1
    assert manager.get_metric_config("val", "f1") is None
    assert manager.get_config_by_name("f1") is f1
    assert manager.get_config_by_name("nothing") is None
    with pytest.raises(ValueError, match="stage = 'fit'; allowed: train, val, test"):
        manager.get_metric_config("fit", "f1")


def test_the_same_name_may_mean_two_metrics_in_two_stages():
    per_class = metric(stages=["test"], params={"task": "multiclass", "average": "none"})
    manager = MetricManager([metric(stages=["val"]), per_class], 3)
    logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
    for stage, shape in (("val", ()), ("test", (3,))):
        made = manager.get_metric_by_name("accuracy", stage)
        made.update(logits, labels)
        assert made.compute().shape == shape


class MeanAndCount(Metric):
    """Has a state of each kind."""

    def __init__(self):
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("kinds", torch.zeros(()), dist_reduce_fx=None)

    def update(self, values):
        self.values.append(values)
        self.count += len(values)

    def compute(self):
        return torch.cat(self.values).sum() / self.count, self.kinds.shape


def test_a_metric_of_lists_and_numbers_is_over_all_processes(monkeypatch):
    ours, theirs = MeanAndCount(), MeanAndCount()
    ours.update(torch.tensor([1.0]))
    theirs.update(torch.tensor([2.0, 3.0]))
    theirs.update(torch.tensor([6.0]))
    monkeypatch.setattr("components.models.metrics.num_processes", lambda: 2)
    monkeypatch.setattr(
        "components.models.metrics.gathered", lambda own: [own, theirs.metric_state]
    )
    assert computed(ours, everywhere=False) == (1, ())
    assert computed(ours) == (3, (2,))
    ours.reset()
    assert ours.values == [] and ours.count == 0
