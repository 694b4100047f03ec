"""The temperature makes probabilities say what they mean, and moves no image to another class."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.metrics import log_loss

from components.models.saved_model import InferenceModel
from components.models.temperature import HIGHEST, LOWEST, fit_temperature, rescaled


def drawn(num_images: int, too_sure: float, multi_label: bool, seed: int = 0):
    """Probabilities of logits `too_sure` times what the labels were drawn from, and the labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_images, 4)) * 1.5
    if multi_label:
        return expit(logits * too_sure), rng.random(logits.shape) < expit(logits)
    shares = softmax(logits, axis=1)
    targets = np.array([rng.choice(4, p=row) for row in shares])
    return softmax(logits * too_sure, axis=1), targets


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("too_sure", [0.6, 1.0, 3.0])
def test_it_undoes_what_made_the_model_too_sure(too_sure, multi_label):
    probabilities, targets = drawn(4000, too_sure, multi_label)
    assert fit_temperature(probabilities, targets) == pytest.approx(too_sure, rel=0.1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_grid_point_has_a_smaller_loss(multi_label):
    probabilities, targets = drawn(150, 2.0, multi_label)

    def loss(temperature):
        scaled = rescaled(probabilities, temperature, multi_label)
        return log_loss(targets.ravel(), scaled.ravel() if multi_label else scaled)

    best = loss(fit_temperature(probabilities, targets))
    assert all(best <= loss(t) + 1e-9 for t in np.geomspace(LOWEST, HIGHEST, 60))


def test_rescaling_keeps_the_order_and_undoes_itself():
    probabilities, _ = drawn(50, 2.0, False)
    scaled = rescaled(probabilities, 3.0)
    assert scaled.sum(axis=1) == pytest.approx(np.ones(50))
    assert (scaled.argsort(axis=1) == probabilities.argsort(axis=1)).all()
    assert rescaled(scaled, 1 / 3.0) == pytest.approx(probabilities)
    labels, _ = drawn(50, 2.0, True)
    assert rescaled(rescaled(labels, 3.0, True), 1 / 3.0, True) == pytest.approx(labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_that_is_always_or_never_right_stays_within_bounds(dtype):
    sure = np.array([[1.0, 0.0], [0.999, 0.001]], dtype=dtype)
    # A certain and wrong image asks for the highest; none wrong, for the lowest.
    assert fit_temperature(sure, np.array([1, 1])) == pytest.approx(HIGHEST, rel=0.01)
    assert fit_temperature(sure[1:], np.array([0])) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature(sure[:0], np.array([], dtype=int)) == 1.0


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        (np.ones((2, 3)) / 3, np.array([0]), "must be"),
        (np.ones(3) / 3, np.array([0]), "must be"),
        (np.array([[np.nan, 1.0]]), np.array([0]), "0 … 1"),
        (np.array([[-0.5, 1.5]]), np.array([0]), "0 … 1"),
    ],
)
def test_what_does_not_fit_is_refused(probabilities, targets, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(probabilities, targets)


class _Means(torch.nn.Module):
    """Logits: three times the mean of each colour."""

    def forward(self, images):
        return 3 * images.mean(dim=(2, 3))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_model_that_is_measured_and_exported_applies_it(multi_label):
    shared = {"image_size": (4, 4), "multi_label": multi_label}
    shared |= {"mean": (0.0,) * 3, "std": (1.0,) * 3, "channels": "rgb"}
    images = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
    plain, warm = (
        InferenceModel(
            SimpleNamespace(network=_Means()), SimpleNamespace(**shared, temperature=temperature)
        )(images)[0].numpy()
        for temperature in (1.0, 2.5)
    )
    assert warm == pytest.approx(rescaled(plain, 2.5, multi_label), abs=1e-6)
    assert abs(warm - plain).max() > 0.01
