"""Which labels are drawn for figures: as often as the real images have them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ditkit.data.contract import open_dataset
from ditkit.errors import UsageError
from ditkit.evaluation.features import open_extractor
from ditkit.evaluation.judge import Judge
from ditkit.evaluation.label_plan import plan_labels, spread
from ditkit.evaluation.metrics import statistics
from ditkit.evaluation.reference import open_reference
from ditkit.recipes import load


@pytest.mark.parametrize(
    ("numbers", "count", "times"),
    [
        ([270, 30], 10, [9, 1]),
        ([1, 1, 1], 6, [2, 2, 2]),
        ([1, 1, 1], 4, [2, 1, 1]),
        ([0, 5, 0], 7, [0, 7, 0]),
        ([997, 2, 1], 10, [10, 0, 0]),
        ([50, 30, 20], 33, [16, 10, 7]),
        ([10**9, 1], 10**4, [10**4, 0]),
    ],
)
def test_each_label_is_drawn_its_share_of_times_rounded_by_largest_remainders(numbers, count, times):
    drawn = spread(numbers, count)
    assert [drawn.count(index) for index in range(len(numbers))] == times
    assert drawn == spread(numbers, count)


def test_labels_are_mixed_evenly_and_even_ones_are_drawn_in_turn():
    first_tenth = spread([900, 100], 1000)[:100]
    assert Counter(first_tenth) == {0: 90, 1: 10}
    assert spread([7, 7, 7], 9) == [0, 1, 2] * 3


def test_shares_are_off_by_less_than_one_image_for_any_number():
    source = np.random.default_rng(0)
    for _ in range(50):
        numbers, count = source.integers(0, 1000, 12).tolist(), int(source.integers(10, 300))
        drawn = Counter(spread(numbers, count))
        assert sum(drawn.values()) == count
        assert all(abs(drawn[i] - count * n / sum(numbers)) < 1 for i, n in enumerate(numbers))


@pytest.mark.parametrize(
    ("known", "real", "labels_as", "way", "said"),
    [
        (("a", "b"), {"a": 3, "b": 1}, "data", "data", "as often as the real images have them: a 75.0%, b 25.0%"),
        (("a", "b"), {"b": 9}, "data", "data", "b 100.0%"),
        (("a", "b"), {"a": 3, "b": 1}, "even", "even", "in turn, as --labels-as even asks"),
        (("a", "b"), {}, "data", "even", "in turn, because the real images have none"),
        (("a", "b"), {"a": 3, "c": 1}, "data", "even", "one that the model does not know: 'c'"),
        (("a", "b"), {"a": 3, "c": 0}, "data", "data", "a 100.0%"),
        ((), {"a": 3}, "data", None, None),
    ],
)
def test_the_way_is_said_and_falls_back_to_labels_in_turn_where_it_has_to(known, real, labels_as, way, said):
    plan = plan_labels(known, real, 8, labels_as)
    assert plan.labels_as == way and len(plan.labels) == 8
    assert plan.said is None if said is None else said in (plan.said or "")
    if way == "even":
        assert plan.labels == ["a", "b"] * 4


def test_another_word_is_refused():
    with pytest.raises(UsageError, match="unknown word for --labels-as: 'evn'") as caught:
        plan_labels(("a",), {}, 10, "evn")
    assert "did you mean 'even'" in str(caught.value.hint)


class Uneven:
    """Nine zeros in ten of the digits."""

    def __init__(self, numbers: dict[int, int], first: int = 0):
        self._all = open_dataset(load("mnist").data, "train")
        ids = np.asarray([self._all[index][1] for index in range(8000)])
        rows = [np.flatnonzero(ids == label)[first : first + number] for label, number in numbers.items()]
        self._rows = np.concatenate(rows).tolist()
        self.labels, self.fingerprint = self._all.labels, f"{numbers}, {first}"

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        return self._all[self._rows[index]]


def test_a_perfect_generator_gets_its_right_value_on_uneven_labels(monkeypatch):
    """Real digits that were held out stand for drawn ones."""
    monkeypatch.setattr("ditkit.evaluation.judge.FEW", 2)
    config, extractor = load("mnist").data, open_extractor("lenet")
    reference = open_reference(Uneven({0: 270, 1: 30}), config, extractor)
    assert {label: number for label, number in reference.labels.items() if number} == {"0": 270, "1": 30}
    judge, scores = Judge(extractor=extractor, reference=reference), {}
    for way in ("data", "even"):
        labels = plan_labels(("0", "1"), reference.labels, 300, way).labels
        held_out = Uneven({digit: labels.count(str(digit)) for digit in (0, 1)}, first=270)
        images = [held_out[index] for index in range(len(held_out))]
        scores[way] = judge.score([image for image, _ in images], [str(label) for _, label in images])
    right = scores["data"]
    assert right["frechet"] < 0.4 and abs(right["kid"]) < 3 * right["kid_error"]
    assert right["frechet"] < right["frechet_real"] + 3 * right["frechet_error"]
    assert scores["even"]["frechet"] > 10 and scores["even"]["kid"] > 0.5


def test_a_cached_reference_without_labels_is_looked_at_again():
    from ditkit.io import safetensors
    from ditkit.io.paths import cache_folder

    few, extractor = Uneven({0: 9, 1: 3}), open_extractor("lenet")
    fingerprint = open_reference(few, load("mnist").data, extractor).fingerprint
    path = cache_folder("references") / f"{fingerprint}.safetensors"
    tensors = safetensors.parse(bytearray(path.read_bytes()), path)
    path.write_bytes(b"".join(map(bytes, safetensors.pieces({k: v for k, v in tensors.items() if k != "labels"}))))
    looked: list[int] = []
    again = open_reference(few, load("mnist").data, extractor, lambda *done: looked.append(1))
    assert looked and again.labels["0"] == 9 and again.fingerprint == fingerprint
    assert statistics(again.features_NF).images == 12


def test_of_few_images_no_distance_of_real_ones_is_stated():
    """Their labels are as chance has them, and those of drawn ones in proportion."""
    reference = open_reference(Uneven({0: 40, 1: 40}), load("mnist").data, open_extractor("lenet"))
    assert Judge(extractor=open_extractor("lenet"), reference=reference).real_part(30) == 0
