"""What a model did on each image, such that its metric follows for any weights of the images.

Shapes: I images, C classes, R weightings. Weights are [R, I]: image i counts `weights[r, i]` times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from components.evaluation.bootstrap import Floats, drawn_weights, mean_defined
from components.evaluation.coco_figures import ClassMatches, resampled_precisions
from components.evaluation.detection import affordable_resamples
from components.evaluation.multi_label import class_precisions

Resampled = tuple[NDArray[np.float64], NDArray[np.float64]]


class Records(Protocol):
    """A model on the images of a split.

    Models on the same images have figures of the same classes, since what is true decides.
    """

    @property
    def num_images(self) -> int:
        """I."""
        ...

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The C classes it has figures of."""
        ...

    def figures(self, weights: Floats) -> Resampled:
        """The metric [R], and each class's figure [R, C]; NaN where no image counts."""
        ...

    def of_images(self, positions: NDArray[np.intp]) -> Self:
        """The same on some of the images."""
        ...

    def of_classes(self, ids: Sequence[int]) -> Self:
        """The same with what belongs to some of the classes only."""
        ...

    def width(self) -> int:
        """Of the widest array that a weighting makes."""
        ...

    def affordable(self, wanted: int) -> int:
        """How many resamples of those wanted can be made in a reasonable time."""
        ...


@dataclass(frozen=True)
class LabelRecords:
    """Of a single-label classifier. A class's figure is its recall.

    Args:
        class_ids: C.
        targets: [I] true class ids.
        right: [I] whether the prediction was that.
        balanced: the metric is the mean of the recalls, not the share of right images.
    """

    class_ids: tuple[int, ...]
    targets: NDArray[np.int64]
    right: NDArray[np.bool_]
    balanced: bool = False

    @property
    def num_images(self) -> int:
        """See `Records`."""
        return len(self.targets)

    def figures(self, weights: Floats) -> Resampled:
        """See `Records`."""
        column = {class_id: k for k, class_id in enumerate(self.class_ids)}
        cells = (np.arange(len(self.targets)), [column[int(t)] for t in self.targets])
        shape = (len(self.targets), len(self.class_ids))
        of_class = sparse.csr_array((np.ones(len(self.targets)), cells), shape=shape)
        counted = np.asarray(weights @ of_class)
        right = np.asarray((weights * self.right) @ of_class)
        recalls = np.divide(right, counted, out=np.full_like(right, np.nan), where=counted > 0)
        if self.balanced:
            return mean_defined(recalls), recalls
        total = counted.sum(axis=1)
        share = np.divide(
            right.sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0
        )
        return share, recalls

    def of_images(self, positions: NDArray[np.intp]) -> LabelRecords:
        """See `Records`."""
        return replace(self, targets=self.targets[positions], right=self.right[positions])

    def of_classes(self, ids: Sequence[int]) -> LabelRecords:
        """See `Records`. Images of other classes are left out."""
        kept = np.flatnonzero(np.isin(self.targets, list(ids)))
        return replace(self.of_images(kept), class_ids=tuple(ids))

    def width(self) -> int:
        """See `Records`."""
        return max(self.num_images, len(self.class_ids))

    def affordable(self, wanted: int) -> int:
        """See `Records`."""
        return wanted


@dataclass(frozen=True)
class MultiLabelRecords:
    """Of a classifier for several labels an image. Figures are average precisions.

    Args:
        class_ids: C.
        probabilities: [I, C].
        truth: [I, C].
    """

    class_ids: tuple[int, ...]
    probabilities: NDArray[np.float64]
    truth: NDArray[np.bool_]

    @property
    def num_images(self) -> int:
        """See `Records`."""
        return len(self.truth)

    def figures(self, weights: Floats) -> Resampled:
        """See `Records`."""
        found = class_precisions(self.probabilities, self.truth, np.ascontiguousarray(weights.T))
        return mean_defined(found), found

    def of_images(self, positions: NDArray[np.intp]) -> MultiLabelRecords:
        """See `Records`."""
        return replace(
            self, probabilities=self.probabilities[positions], truth=self.truth[positions]
        )

    def of_classes(self, ids: Sequence[int]) -> MultiLabelRecords:
        """See `Records`."""
        columns = [self.class_ids.index(i) for i in ids]
        return MultiLabelRecords(tuple(ids), self.probabilities[:, columns], self.truth[:, columns])

    def width(self) -> int:
        """See `Records`."""
        return self.num_images

    def affordable(self, wanted: int) -> int:
        """See `Records`."""
        return wanted


@dataclass(frozen=True)
class BoxRecords:
    """Of a detector. Figures are COCO's average precisions.

    Args:
        matches: of every class with objects.
        num_images: I.
        at_50: at IoU 0.5, not the mean over 0.50 to 0.95.
    """

    matches: tuple[ClassMatches, ...]
    num_images: int
    at_50: bool = False

    @property
    def class_ids(self) -> tuple[int, ...]:
        """See `Records`."""
        return tuple(item.class_id for item in self.matches)

    def figures(self, weights: Floats) -> Resampled:
        """See `Records`."""
        if not self.matches:
            nothing = np.full((len(weights), 0), np.nan)
            return np.full(len(weights), np.nan), nothing
        found = resampled_precisions(self.matches, weights)
        by_class = found[:, :, 0] if self.at_50 else found.mean(axis=2)
        return mean_defined(by_class), by_class

    def of_images(self, positions: NDArray[np.intp]) -> BoxRecords:
        """See `Records`."""
        chosen = tuple(item.within(positions) for item in self.matches)
        return BoxRecords(chosen, len(positions), self.at_50)

    def of_classes(self, ids: Sequence[int]) -> BoxRecords:
        """See `Records`."""
        return replace(self, matches=tuple(i for i in self.matches if i.class_id in set(ids)))

    def width(self) -> int:
        """See `Records`."""
        return max([sum(len(m.right) for m in self.matches), *(len(m.image) for m in self.matches)])

    def affordable(self, wanted: int) -> int:
        """See `Records`."""
        return affordable_resamples(wanted, sum(len(item.image) for item in self.matches))


def resample(models: Sequence[Records], num_resamples: int, seed: int) -> list[Resampled]:
    """The figures of several models on the same resamples of the images.

    Args:
        models: their records on the same images, in the same order.
        num_resamples: R wanted; of very many boxes fewer are made.
        seed: the same seed gives the same resamples.

    Returns:
        For each model, `Records.figures` of the R resamples.
    """
    num_resamples = min(model.affordable(num_resamples) for model in models)
    width = max(model.width() for model in models)
    parts = [
        [model.figures(weights) for model in models]
        for weights in drawn_weights(models[0].num_images, num_resamples, seed, width)
    ]
    return [
        (np.concatenate([part[k][0] for part in parts]), np.concatenate([p[k][1] for p in parts]))
        for k in range(len(models))
    ]


def as_measured(model: Records) -> tuple[float, dict[int, float]]:
    """The metric on the images as they are, and by class id each class's figure; NaN for none."""
    main, by_class = model.figures(np.ones((1, model.num_images)))
    return float(main[0]), dict(zip(model.class_ids, by_class[0].tolist(), strict=True))
