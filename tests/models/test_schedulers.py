"""Learning-rate schedules: their shape over a training, in epochs."""

import pytest
import torch

from components.models.schedulers import create_scheduler, list_schedulers

STEPS_PER_EPOCH = 7


def curve(scheduler, num_epochs: int = 12, lr: float = 0.1, **options) -> list[float]:
    """The learning rate of each step, stepped as Lightning would."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr, momentum=0.9)
    made = create_scheduler(
        optimizer, scheduler, lr, num_epochs * STEPS_PER_EPOCH, num_epochs, **options
    )
    rates = []
    for step in range(num_epochs * STEPS_PER_EPOCH):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if made["interval"] == "step" or (step + 1) % STEPS_PER_EPOCH == 0:
            made["scheduler"].step(*([1.0] if "monitor" in made else []))
    return rates


def epochs(rates: list[float]) -> list[float]:
    """The rate at the start of each epoch."""
    return rates[::STEPS_PER_EPOCH]


def test_multistep_milestones_are_epochs():
    """AutoTimm counts them in batches: [8, 11] drops the rate after eleven batches."""
    rates = curve("multistep", milestones=[8, 11], gamma=0.1)
    assert epochs(rates) == pytest.approx([0.1] * 8 + [0.01] * 3 + [0.001])
    assert rates[8 * STEPS_PER_EPOCH - 1] == pytest.approx(0.1)


def test_step_size_is_in_epochs():
    assert epochs(curve("step", step_size=5, gamma=0.5)) == pytest.approx(
        [0.1] * 5 + [0.05] * 5 + [0.025] * 2
    )


def test_exponential_falls_once_an_epoch():
    assert epochs(curve("exponential", gamma=0.9)) == pytest.approx(
        [0.1 * 0.9**epoch for epoch in range(12)]
    )


def test_cosine_falls_from_the_peak_to_its_floor():
    rates = curve("cosine", eta_min=0.001)
    assert rates[0] == pytest.approx(0.1)
    assert rates[len(rates) // 2] == pytest.approx((0.1 + 0.001) / 2, rel=1e-6)
    assert rates[-1] == pytest.approx(0.001, rel=0.1)
    assert rates == sorted(rates, reverse=True)


def test_cosine_may_end_before_the_training():
    rates = curve("cosine", T_max=6, eta_min=0.0)
    assert rates[6 * STEPS_PER_EPOCH :] == pytest.approx([0.0] * 6 * STEPS_PER_EPOCH)


def test_restarts_go_back_to_the_peak_after_ever_longer_times():
    rates = curve("cosine_with_restarts", T_0=4, T_mult=2, eta_min=0.0)
    assert [epochs(rates)[0], epochs(rates)[4]] == pytest.approx([0.1, 0.1])
    assert epochs(rates)[2] == pytest.approx(0.05, rel=1e-4)
    assert epochs(rates)[8] == pytest.approx(0.05, rel=1e-4)


def test_onecycle_rises_and_falls():
    rates = curve("onecycle", pct_start=0.25)
    assert max(rates) == pytest.approx(0.1, rel=1e-3)
    assert rates.index(max(rates)) == pytest.approx(len(rates) * 0.25, abs=1.5)
    assert rates[0] == pytest.approx(0.004) and rates[-1] < 1e-5


def test_plateau_watches_the_validation_loss_once_an_epoch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    made = create_scheduler(torch.optim.SGD([parameter], 0.1), "plateau", 0.1, 70, 10)
    assert (made["monitor"], made["interval"]) == ("val/loss", "epoch")
    assert epochs(curve("plateau", patience=2, factor=0.1)) == pytest.approx(
        [0.1] * 4 + [0.01] * 3 + [0.001] * 3 + [0.0001] * 2
    )


@pytest.mark.parametrize("name", ["cosine", "step", "multistep", "none", None])
def test_warmup_is_linear(name):
    rates = curve(name, warmup_epochs=2)
    rising = rates[: 2 * STEPS_PER_EPOCH]
    assert rising == pytest.approx([0.1 * (n + 1) / 15 for n in range(14)])
    assert rates[2 * STEPS_PER_EPOCH] == pytest.approx(0.1)


def test_none_is_constant():
    assert set(curve(None)) == set(curve("none")) == {0.1}


def test_yolox_is_quadratic_up_then_cosine_then_flat():
    rates = curve("yolox", warmup_epochs=2, no_aug_epochs=3)
    assert rates[0] == 0
    assert rates[7] == pytest.approx(0.1 * (7 / 14) ** 2)
    assert rates[14] == pytest.approx(0.1)
    assert rates[9 * 7 :] == pytest.approx([0.005] * 21)


def test_a_class_by_its_path_is_stepped_each_epoch():
    path = {"class": "torch.optim.lr_scheduler.StepLR", "params": {"step_size": 3, "gamma": 0.1}}
    assert epochs(curve(path, num_epochs=6)) == pytest.approx([0.1] * 3 + [0.01] * 3)


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        ("cosin", {}, r"unknown scheduler 'cosin'; did you mean cosine\? allowed: cosine, step"),
        ("cosine_with_restarts", {"T_0": 0}, r"scheduler_kwargs.T_0 = 0: must be at least"),
        ("step", {"step_size": 0}, r"scheduler_kwargs.step_size = 0: must be at least 1"),
        ("cosine", {"warmup_epochs": -1}, r"scheduler_kwargs.warmup_epochs = -1: must be"),
        ({"params": {}}, {}, r"needs a key 'class'"),
        ("step", {"gama": 1}, r"of 'step': no argument 'gama'; allowed: step_size, gamma, warmup"),
        ("onecycle", {"gamma": 1}, r"allowed: max_lr, pct_start, div_factor, final_div_factor$"),
        ({"class": "torch.optim.Adam"}, {}, r"'torch.optim.Adam' is not a .*LRScheduler"),
    ],
)
def test_a_wrong_one_is_answered_with_what_is_allowed(scheduler, options, message):
    with pytest.raises(ValueError, match=message):
        curve(scheduler, **options)


def test_every_listed_name_works():
    names = [name for names in list_schedulers().values() for name in names]
    assert set(names) >= {"cosine", "step", "multistep", "exponential", "onecycle", "plateau"}
    for name in names:
        assert len(curve(name)) == 12 * STEPS_PER_EPOCH
