"""Recipes: what stands in the file goes first, then the recipe, then the default."""

import pytest
import yaml
from data_helpers import make_store

from components.data.settings import AugmentParams
from components.errors import ParamsError
from components.training.fitted_augment import fitted
from components.training.recipes import RECIPES, recipe_values, step_lr
from tasks import params as params_module
from tasks.params import Params, load
from tasks.train import module_options


def resolved(task="classification", **train):
    return Params.model_validate({"base": {"task": task, "data": "raw"}, "train": train}).train


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("task", ["classification", "detection"])
def test_every_recipe_gives_valid_settings_and_all_it_says_is_in_force(name, task):
    if task not in RECIPES[name].tasks:
        with pytest.raises(ValueError, match=f"recipe = {name}: not for {task}; allowed: finetune"):
            resolved(task, recipe=name)
        return
    settings = resolved(task, recipe=name).model_dump(mode="json")

    def check(said, found):
        for key, value in said.items():
            if isinstance(value, dict):
                check(value, found[key])
            else:
                steps = key == "multi_scale" and isinstance(value, int)
                assert found[key] == ([-value, value] if steps else value), key

    check(recipe_values(name, task), settings)


def test_the_file_goes_first_and_null_means_the_recipes():
    own = recipe_values("finetune", "classification")
    given = {"lr": 0.5, "layer_decay": None, "augment": {"color": 0.3, "flip": None}}
    settings = resolved(**given)
    assert settings.recipe == "finetune", "the recipe where none is named"
    assert settings.lr == 0.5 and settings.layer_decay == own["layer_decay"] == 0.9
    assert settings.augment.color == 0.3, "set in the middle of a section"
    assert settings.augment.flip == "auto" and settings.augment.trivial_augment
    assert settings.precision == "32-true", "no recipe says anything of it"


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if "classification" in r.tasks])
def test_several_labels_take_no_value_that_is_for_one(name):
    base = {"task": "classification", "data": "raw", "multi_label": True}
    settings = Params.model_validate({"base": base, "train": {"recipe": name}}).train
    assert settings.classifier.label_smoothing == 0
    one = resolved(recipe=name)
    assert settings.epochs == one.epochs and settings.augment == one.augment


def test_lengths_go_with_the_epochs_unless_they_are_given():
    assert resolved().warmup_epochs == 2  # of 20
    assert resolved(epochs=5).warmup_epochs == 0.5
    assert resolved(epochs=1).warmup_epochs == 0.1
    assert resolved(epochs=5, warmup_epochs=1).warmup_epochs == 1
    short = resolved("detection", recipe="yolox", epochs=60)
    assert (short.warmup_epochs, short.augment.plain_epochs) == (1, 3)
    assert resolved(recipe="two_phase", epochs=10).freeze_epochs == 2


def test_a_recipe_knows_the_backbones_it_has_variants_for():
    small = resolved("detection", recipe="yolox")
    assert small.backbone == "yolox-s" and small.augment.mixup == 1
    nano = resolved("detection", recipe="yolox", backbone="yolox-nano")
    assert (nano.augment.mosaic, nano.augment.mixup) == (0.5, 0)
    assert nano.augment.multi_scale == (-3, 7) and nano.augment.degrees == 10


@pytest.mark.parametrize(
    ("optimizer", "lr_batch", "batch_size", "expected"),
    [
        ("sgd", 64, 16, 0.25),
        ("adamw", 64, 16, 0.5),
        ("lamb", 64, 256, 2),
        ("adamw", 0, 16, 1),  # the rate is what it says
        ("sgd", 16, 16, 1),
    ],
)
def test_the_rate_is_scaled_with_the_batch(optimizer, lr_batch, batch_size, expected):
    assert step_lr(1.0, lr_batch, optimizer, batch_size) == pytest.approx(expected)
    settings = resolved(lr=1, optimizer=optimizer, lr_batch=lr_batch, batch_size=batch_size)
    assert module_options(settings)["lr"] == pytest.approx(expected), "it reaches the model"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"recipe": "finetun"}, "train.recipe = 'finetun'"),
        ({"recipe": "yolox"}, "train.recipe = yolox: not for classification"),
        ({"augment": {"flip": "sometimes"}}, "train.augment.flip"),
        ({"augment": {"scale": [0.5, 1.5]}}, "train.augment.scale: classification crops"),
        ({"epochs": "many"}, "train.epochs = 'many'"),
        ([], "train"),
    ],
)
def test_a_faulty_section_is_named(tmp_path, train, message):
    tree = {"base": {"task": "classification", "data": "raw"}, "train": train}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ParamsError) as error:
        load(tmp_path / "params.yaml")
    assert message in str(error.value)


def test_the_command_prints_values_and_where_they_are_from(tmp_path, capsys):
    file = tmp_path / "params.yaml"
    file.write_text("base: {task: detection, data: raw}\ntrain: {lr: 0.5, augment: {flip: null}}\n")
    assert params_module.main([str(file), "--recipe", "from_scratch"]) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in printed.splitlines()}
    assert lines["train.lr"] == "0.5 # params.yaml; the recipe says 0.01"
    assert lines["train.augment.flip"] == '"auto" # recipe from_scratch'
    assert lines["train.num_threads"] == "0 # default"
    assert params_module.main([str(file)]) == 0
    assert "recipe finetune: 1 of its 17 values" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "flip"),
    [
        (("cat", "dog"), 0.5),
        (("hand_left", "hand_right"), 0),
        (("Turn Right", "stop"), 0),
        (("bright", "cleft"), 0.5),  # not a word of its own
        (("0", "1"), 0),
        (("a", "cat"), 0.5),
    ],
)
def test_flip_auto_goes_by_the_class_names(tmp_path, classes, flip):
    store = make_store(tmp_path / "store", "classification")
    object.__setattr__(store.info, "classes", classes)
    augment, reasons = fitted(AugmentParams(flip="auto"), store)
    assert augment.flip == flip and len(reasons) == 1


def test_scale_auto_goes_by_the_objects_or_the_input(tmp_path):
    wanted = AugmentParams(scale="auto")
    boxes = make_store(tmp_path / "boxes")  # sides of 32 pixels in 64
    assert fitted(wanted, boxes)[0].scale == (0.6, 1.5)
    boxes._boxes = boxes._boxes.copy()
    boxes._boxes[:, 2:] = 16  # 8 pixels stored: smaller than zooming out may make them
    augment, reasons = fitted(wanted, boxes)
    assert augment.scale == (1.0, 1.5) and "below 8 pixels" in reasons[0]
    boxes._boxes[:, 2:] = 32
    assert fitted(wanted, boxes)[0].scale == (0.75, 1.5)
    small = make_store(tmp_path / "small", "classification")
    assert fitted(wanted, small)[0].scale == (0.7, 1.0)
    large = make_store(tmp_path / "large", "classification", image_size=(128, 128))
    assert fitted(wanted, large)[0].scale == (0.4, 1.0)


def test_what_is_given_is_left_alone(tmp_path):
    store = make_store(tmp_path / "store", "classification")
    object.__setattr__(store.info, "classes", ("left", "right"))
    augment, reasons = fitted(AugmentParams(flip=0.25, scale=(0.3, 0.9)), store)
    assert (augment.flip, augment.scale, reasons) == (0.25, (0.3, 0.9), [])


def test_the_focal_loss_takes_no_smoothing_from_a_recipe():
    assert resolved(classifier={"loss_fn": "focal"}).classifier.label_smoothing == 0
    with pytest.raises(ValueError, match=r"label_smoothing: with loss_fn: focal .* 0, not 0.1"):
        resolved(classifier={"loss_fn": "focal", "label_smoothing": 0.1})
