"""Drawn splits: about the shares asked for, stable as data grows, nothing linked torn apart."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contract.accepted_splits import AcceptedSplits
from components.data.settings import PreprocessSettings
from components.data.splits import assign_splits
from components.errors import DataError


def table(num_images: int, **columns) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"image_id": range(num_images), "sha256": [f"{i:064x}" for i in range(num_images)]}
    )
    return frame.assign(**{"group": None, "split": None, **columns})


def labels(*names: str) -> pd.DataFrame:
    """One object an image, in order; a `+` in a name parts several."""
    rows = [(i, part) for i, name in enumerate(names) for part in name.split("+") if part]
    return pd.DataFrame(rows, columns=["image_id", "label"])


def split(images, objects=None, val=0.2, test=0.2, links=(), accepted=None, **more):
    objects = labels(*["a"] * len(images)) if objects is None else objects
    chosen = PreprocessSettings(val_fraction=val, test_fraction=test, **more)
    return assign_splits(images, objects, chosen, links, accepted)


class TestHash:
    def test_shares_are_about_what_is_asked(self):
        splits, source = split(table(4000), val=0.2, test=0.1)
        assert source == "hash"
        assert splits.value_counts(normalize=True).to_dict() == pytest.approx(
            {"train": 0.7, "val": 0.2, "test": 0.1}, abs=0.02
        )

    def test_the_rule_is_the_one_of_earlier_versions(self):
        splits, _ = split(table(12), stratify=False)
        assert "".join(name[1] for name in splits) == "eerrrarraeea"

    def test_a_larger_test_share_takes_only_from_the_neighbours(self):
        narrow, _ = split(table(900), test=0.1)
        wide, _ = split(table(900), test=0.2)
        assert (wide[narrow == "test"] == "test").all()

    def test_given_splits_are_respected(self):
        named = ["train", "val", "train", "test"]
        splits, source = split(table(4, split=named))
        assert splits.tolist() == named and source == "given"

    def test_only_train_given_is_as_if_none_were(self):
        splits, source = split(table(400, split=["train"] * 400))
        assert source == "hash" and splits.nunique() == 3

    @pytest.mark.parametrize(
        ("images", "more", "remedy"),
        [
            (table(3, split=["train", "test", "train"]), {}, "without splits"),
            (table(1), {}, "preprocess.val_fraction"),
            (table(40, group="one video"), {}, "preprocess.val_fraction"),
            (table(40), {"val": 0.0}, "preprocess.val_fraction"),
        ],
    )
    def test_an_empty_split_says_what_to_do(self, images, more, remedy):
        with pytest.raises(DataError, match=rf"the val split is empty .* {remedy}"):
            split(images, **more)


@st.composite
def data_sets(draw):
    """Images of few contents, some in groups, with classes, some linked as near-duplicates."""
    count = draw(st.integers(8, 60))
    contents = draw(st.lists(st.integers(0, 50), min_size=count, max_size=count))
    groups = draw(st.lists(st.none() | st.sampled_from("uvwxyz"), min_size=count, max_size=count))
    names = draw(
        st.lists(st.sampled_from(["", "a", "b", "a+b", "c"]), min_size=count, max_size=count)
    )
    rows = st.integers(0, count - 1)
    links = draw(st.lists(st.tuples(rows, rows), max_size=5))
    images = table(count, sha256=[f"{number:064x}" for number in contents], group=groups)
    return images, labels(*names), links


def drawn(images, objects, links=(), stratify=True, **more):
    try:
        return split(images, objects, links=links, stratify=stratify, **more)[0]
    except DataError:
        return None  # a set so small, or so linked, that val or train is empty


class TestProperties:
    @settings(max_examples=60, deadline=None)
    @given(data_sets(), st.booleans())
    def test_nothing_linked_is_torn_apart(self, data, stratify):
        images, objects, links = data
        splits = drawn(images, objects, links, stratify)
        if splits is not None:
            assert (splits.groupby(images["sha256"]).nunique() == 1).all()
            assert (splits.groupby(images["group"]).nunique() == 1).all()
            assert all(splits[one] == splits[other] for one, other in links)

    @settings(max_examples=60, deadline=None)
    @given(data_sets(), st.data())
    def test_the_hash_alone_never_moves_an_image(self, data, more):
        """Whatever is removed; and as removing is adding backwards, whatever is added."""
        images, objects, _ = data
        # A content belongs to one group, so that no copy links keys.
        images["sha256"] = [
            f"{row}{group}".ljust(64, "f")
            for row, group in zip(images.index, images["group"], strict=True)
        ]
        kept = sorted(more.draw(st.sets(st.sampled_from(range(len(images))), min_size=4)))
        before = drawn(images, objects, stratify=False)
        fewer = images.loc[kept]
        after = drawn(fewer, objects[objects["image_id"].isin(kept)], stratify=False)
        if before is not None and after is not None:
            assert (after == before[kept]).all()

    @settings(max_examples=60, deadline=None)
    @given(data_sets(), st.randoms())
    def test_order_of_the_rows_is_nothing(self, data, random):
        images, objects, _ = data
        order = list(range(len(images)))
        random.shuffle(order)
        first, second = drawn(images, objects), drawn(images.loc[order], objects)
        assert (first is None) == (second is None)
        if first is not None:
            assert (second.sort_index() == first).all()


class TestAcceptance:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(data_sets(), min_size=2, max_size=4), st.data())
    def test_an_accepted_image_never_moves(self, versions, more):
        """Data that grows, shrinks, is linked, grouped, labelled and set up anew at each version.

        The versions share their few contents, so that each holds some images of those before.
        """
        accepted, held = AcceptedSplits(), {}
        for images, objects, links in versions:
            chosen = {
                "stratify": more.draw(st.booleans()),
                "val": more.draw(st.sampled_from([0.1, 0.3])),
                "test": more.draw(st.sampled_from([0.0, 0.2])),
            }
            images["sha256"] = [content[::-1] for content in images["sha256"]]
            splits = drawn(images, objects, links, accepted=accepted, **chosen)
            if splits is None:
                continue
            now = dict(zip(images["sha256"], splits, strict=True))
            assert {key: held[key] for key in now if key in held} == {
                key: now[key] for key in now if key in held
            }
            assert (splits.groupby(images["sha256"]).nunique() == 1).all()
            self.check_new_images(images, links, splits, held)
            if more.draw(st.booleans()):
                accepted, held = accepted.updated(now), held | now

    def check_new_images(self, images, links, splits, held):
        """New images go with the accepted ones that they are linked to."""
        pairs = list(links)
        for column in ("sha256", "group"):
            rows = images[column].dropna()
            firsts = {value: row for row, value in reversed(list(rows.items()))}
            pairs += [(firsts[value], row) for row, value in rows.items()]
        label = components(len(images), pairs)
        for leader in set(label):
            members = [row for row in range(len(images)) if label[row] == leader]
            there = {held[k] for k in images["sha256"].iloc[members] if k in held}
            new = {splits[row] for row in members if images["sha256"][row] not in held}
            if there and new:
                assert new == {next(s for s in ("train", "val", "test") if s in there)}
            assert len(new) <= 1

    def test_only_new_images_are_lent(self):
        """A class of four accepted images in train: two new ones are lent to val and test."""
        rows = table(6)
        contents = [f"{number:x}".ljust(64, "0") for number in range(1, 7)]
        rows["sha256"] = contents
        accepted = AcceptedSplits().updated(dict.fromkeys(contents[:4], "train"))
        splits, _ = split(rows, accepted=accepted)
        assert splits[:4].tolist() == ["train"] * 4
        assert set(splits[4:]) == {"val", "test"}

    def test_without_acceptance_nothing_is_new(self):
        empty, _ = split(table(60), accepted=AcceptedSplits())
        none, _ = split(table(60))
        assert (empty == none).all()


class TestStratify:
    @pytest.mark.parametrize("seed", range(20))
    def test_each_class_with_enough_images_is_in_every_split(self, seed):
        sizes = {"one": 1, "two": 2, "three": 3, "six": 6, "many": 200}
        names = [name for name, size in sizes.items() for _ in range(size)]
        contents = [f"{seed}-{row}".rjust(64, "0") for row in range(len(names))]
        splits, _ = split(table(len(names), sha256=contents), labels(*names))
        found = {name: set(splits[np.array(names) == name]) for name in sizes}
        assert found["one"] == {"train"} and found["two"] == {"train", "val"}
        assert all(len(found[name]) == 3 for name in ("three", "six", "many"))

    @pytest.mark.parametrize("seed", range(5))
    def test_only_images_of_a_class_that_lacks_a_split_move(self, seed):
        names = ["many"] * 150 + ["rare"] * 4
        rng = np.random.default_rng(seed)
        contents = [rng.bytes(32).hex() for _ in names]
        images, objects = table(len(names), sha256=contents), labels(*names)
        plain, lent = (split(images, objects, stratify=choice)[0] for choice in (False, True))
        moved = plain != lent
        assert not moved[:150].any() and moved[150:].sum() <= 3

    def test_a_class_on_the_same_images_is_not_robbed(self):
        """`b` sits on one image of `a`: what `a` needs is taken from elsewhere."""
        names = ["a+b", *["a"] * 5]
        for seed in range(30):
            contents = [f"{seed}:{row}".rjust(64, "0") for row in range(len(names))]
            splits, _ = split(table(6, sha256=contents), labels(*names))
            assert splits[0] == "train" and splits.nunique() == 3

    def test_groups_go_whole(self):
        groups = [f"video {i // 10}" for i in range(60)]
        names = ["a"] * 30 + ["b"] * 30
        splits, _ = split(table(60, group=groups), labels(*names))
        assert (splits.groupby(groups).nunique() == 1).all()
        assert set(splits[:30]) == set(splits[30:]) == {"train", "val", "test"}

    def test_a_split_that_is_not_asked_for_stays_empty(self):
        splits, _ = split(table(30), test=0.0)
        assert set(splits) == {"train", "val"}


def components(count, links):
    """Smallest member of each position's component, by a slow flood."""
    label = list(range(count))
    changed = True
    while changed:
        changed = False
        for one, other in links:
            low = min(label[one], label[other])
            changed |= label[one] != low or label[other] != low
            label[one] = label[other] = low
    return label
