"""How often the gate promotes models of known quality: `python -m benchmarks.gate_simulation`.

Draws what two models do on the test images, and applies the gate's rule: promote where the lower
end of the gain's interval lies above `min_gain`. Resampling N images with replacement draws the
numbers of those that only one model has right from a multinomial distribution, which is drawn here
directly. Prints the tables of docs/gate.md.
"""

from __future__ import annotations

import numpy as np

NUM_MODELS = 2000
RESAMPLES = 1000
DISAGREE = 0.10  # share of images on which one of the two is right, and the other not


def promoted(
    rng: np.random.Generator, wins: int, losses: int, num_images: int, min_gain: float
) -> bool:
    """The gate's rule on one pair of models."""
    shares = np.array([wins, losses, num_images - wins - losses]) / num_images
    drawn = rng.multinomial(num_images, shares, size=RESAMPLES)
    gains = (drawn[:, 0] - drawn[:, 1]) / num_images
    return bool(np.quantile(gains, 0.025) > min_gain)


def promotion_rate(gain: float, num_images: int, min_gain: float) -> float:
    """Share of challengers with this true gain that are promoted."""
    rng = np.random.default_rng(0)
    better, worse = (DISAGREE + gain) / 2, (DISAGREE - gain) / 2
    pairs = rng.multinomial(num_images, [better, worse, 1 - DISAGREE], size=NUM_MODELS)
    outcomes = [promoted(rng, int(won), int(lost), num_images, min_gain) for won, lost, _ in pairs]
    return float(np.mean(outcomes))


def year(rng: np.random.Generator, num_images: int, rule: str) -> float:
    """True accuracy after 52 challengers, less that of the first model.

    Each challenger's true accuracy is 0.90 with a standard deviation of one point; all meet on the
    same test images.
    """
    accuracy = start = 0.90
    champion = rng.random(num_images) < accuracy
    for _ in range(52):
        other = float(np.clip(rng.normal(0.90, 0.01), 0, 1))
        challenger = rng.random(num_images) < other
        wins, losses = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
        if wins > losses if rule == "higher" else promoted(rng, wins, losses, num_images, 0.0):
            accuracy, champion = other, challenger
    return accuracy - start


def main() -> None:
    """Print the tables."""
    gains = (-0.02, -0.01, 0.0, 0.01, 0.02, 0.04)
    print("| images | min_gain |" + "".join(f" {100 * g:+.0f} |" for g in gains))
    print("|---|---|" + "---|" * len(gains))
    for num_images in (100, 400, 2000):
        for min_gain in (0.0, -0.01):
            rates = [promotion_rate(gain, num_images, min_gain) for gain in gains]
            cells = "".join(f" {100 * rate:.1f} % |" for rate in rates)
            print(f"| {num_images:,} | {min_gain:g} |{cells}")
    print("\n| images | rule | mean change | years that end lower | by more than 1 point |")
    print("|---|---|---|---|---|")
    for num_images in (100, 400, 2000):
        for rule in ("gate", "higher"):
            rng = np.random.default_rng(1)
            ends = np.array([year(rng, num_images, rule) for _ in range(200)])
            print(
                f"| {num_images:,} | {rule} | {100 * ends.mean():+.2f} points "
                f"| {100 * (ends < 0).mean():.1f} % | {100 * (ends < -0.01).mean():.1f} % |"
            )


if __name__ == "__main__":
    main()
