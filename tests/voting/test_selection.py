"""The choice of members against plain loops over all subsets, and against the voting layer."""

import itertools

import keras
import numpy as np
import pytest

from kcifar.evaluation.scores import Scores
from kcifar.voting import Voting
from kcifar.voting.selection import accuracies, agreement, best, sizes, ties

pytestmark = pytest.mark.once

CLASSES = 4


def drawn(members, n, seed, exact=False):
    """Scores of members that are right more often than not.

    If exact, probabilities are sixteenths whose logarithms lose nothing: many are equal, and so are many sums.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    found = []
    for _ in range(members):
        if exact:
            p = 3 + np.array([rng.permutation(part) for part in rng.multinomial(4, [0.4, 0.3, 0.2, 0.1], n)])
            log = np.log(p / 16)
            np.testing.assert_array_equal(np.exp(log), p / 16)
            found.append(Scores(log, labels))
            continue
        logits = rng.normal(size=(n, CLASSES)) * 1.5
        logits[np.arange(n), labels] += rng.uniform(0.3, 1.2)
        found.append(Scores(logits - np.log(np.exp(logits).sum(1, keepdims=True)), labels))
    return found


def vote(scores, subset, mode):
    """The class voted for of each image."""
    chosen = []
    for image in range(len(scores[0].labels)):
        rows = [scores[member].probabilities[image].tolist() for member in subset]
        mean = [sum(row[k] for row in rows) for k in range(CLASSES)]
        votes = [sum(row.index(max(row)) == k for row in rows) for k in range(CLASSES)]
        preferred = mean if mode == "soft" else [(votes[k], mean[k]) for k in range(CLASSES)]
        chosen.append(preferred.index(max(preferred)))
    return np.array(chosen)


def accuracy(scores, subset, mode):
    return float((vote(scores, subset, mode) == scores[0].labels).mean())


def some_subsets(members, count, seed):
    rng = np.random.default_rng(seed)
    return [
        tuple(sorted(rng.choice(members, rng.integers(1, members + 1), replace=False).tolist())) for _ in range(count)
    ]


# --- Accuracies ---


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("members", [2, 5, 13])
def test_accuracies_are_those_of_the_voting_layer(members, mode):
    scores = drawn(members, 120, members)
    subsets = some_subsets(members, 40, members)
    stacked = np.stack([of_member.probabilities for of_member in scores]).astype("float32")
    expected = []
    for subset in subsets:
        chosen = keras.ops.convert_to_numpy(Voting(mode)(stacked[list(subset)])).argmax(1)
        expected.append((chosen == scores[0].labels).mean())
    found = accuracies(scores, subsets, mode)
    assert found.dtype == np.float64
    assert found.tolist() == expected
    assert len(set(expected)) > 2
    assert found.tolist() == [accuracy(scores, subset, mode) for subset in subsets]


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("members", [2, 4, 5])
def test_where_classes_are_just_equal_the_first_wins(members, mode):
    scores = drawn(members, 300, members, exact=True)
    subsets = [s for size in range(1, members + 1) for s in itertools.combinations(range(members), size)]
    assert accuracies(scores, subsets, mode).tolist() == [accuracy(scores, subset, mode) for subset in subsets]


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_just_equal_classes_by_hand(mode):
    """Opposite members: 0 and 1 tie for votes and means, the layer says 0, and 0 is right for one of two images."""
    with np.errstate(divide="ignore"):
        opposite = [Scores(np.log(np.float64([row, row])), np.array([0, 1])) for row in ([1, 0, 0], [0, 1, 0])]
    voted = Voting(mode)(np.float32([[[1, 0, 0]], [[0, 1, 0]]]))
    assert keras.ops.convert_to_numpy(voted).argmax() == 0
    assert accuracies(opposite, [(0, 1)], mode) == [0.5]


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_a_member_alone_has_the_accuracy_of_its_scores(mode):
    """Also one that finds all classes equally probable, as a net does whose last layer is 0."""
    undecided = Scores(np.log(np.full((8, CLASSES), 0.25)), np.arange(8) % CLASSES)
    right = Scores(np.log(0.7 * np.eye(CLASSES)[np.arange(8) % CLASSES] + 0.1 - 0.025), np.arange(8) % CLASSES)
    assert undecided.accuracy == 0.25
    assert accuracies([undecided, right], [(0,), (1,)], mode).tolist() == [0.25, 1]


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_the_modes_differ_by_hand(mode):
    """A majority is for 0 a little, the others are for 1 a lot: the votes say 0 however many they are, the mean 1."""
    rows = [[0.34, 0.33, 0.33]] * 7 + [[0.01, 0.98, 0.01]] * 6
    scores = [Scores(np.log([row]), np.array([0])) for row in rows]
    subsets = [(0, 1, 7), tuple(range(13))]
    assert accuracies(scores, subsets, mode).tolist() == [mode == "hard"] * 2


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_the_order_of_a_subset_does_not_matter(mode):
    scores = drawn(6, 100, 0)
    assert len(set(accuracies(scores, list(itertools.permutations([1, 3, 4])), mode))) == 1


# --- All subsets ---


def best_subset(validation, subsets, mode):
    """The first of the subsets that are best on validation, and its accuracy."""
    chosen, found = subsets[0], -1.0
    for subset in subsets:
        here = accuracy(validation, subset, mode)
        if here > found:
            chosen, found = subset, here
    return chosen, found


def assert_is(size, members, validation, test, every):
    assert tuple(size.members) == members
    assert size.validation == validation
    assert size.test == test
    assert sorted(size.every) == sorted(every)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_every_size_of_all_subsets(mode):
    """Few validation images, so that many subsets are equally good there and the first one has to be taken."""
    validation, test = drawn(5, 15, 1), drawn(5, 80, 2)
    found, equally_good = sizes(validation, test, mode), 0
    assert [len(size.members) for size in found] == [1, 2, 3, 4, 5]
    for size in found:
        subsets = list(itertools.combinations(range(5), len(size.members)))
        chosen, there = best_subset(validation, subsets, mode)
        equally_good += sum(accuracy(validation, subset, mode) == there for subset in subsets) > 1
        every = [accuracy(test, subset, mode) for subset in subsets]
        assert_is(size, chosen, there, accuracy(test, chosen, mode), every)
    assert equally_good
    accuracies_there = [size.validation for size in found]
    chosen = best(found)
    assert chosen is found[accuracies_there.index(max(accuracies_there))]


@pytest.mark.parametrize("members", [3, 11])
def test_without_validation_the_first_members_of_each_size(members):
    test = drawn(members, 20, 3)
    found = sizes([], test, "soft")
    for count, size in enumerate(found, start=1):
        assert tuple(size.members) == tuple(range(count))
        assert size.validation is None
        assert size.test == accuracy(test, range(count), "soft")
    assert [len(size.every) for size in found] == [
        len(list(itertools.combinations(range(members), count))) for count in range(1, members + 1)
    ]
    assert best(found) is found[-1]


def test_the_smallest_of_equally_good_sizes_is_best():
    """One member is always right; with it others are right too."""
    labels = np.arange(12) % CLASSES
    sure = Scores(np.log(0.9 * np.eye(CLASSES)[labels] + 0.025), labels)
    wrong = Scores(np.log(0.6 * np.eye(CLASSES)[(labels + 1) % CLASSES] + 0.1), labels)
    found = sizes([wrong, sure, sure], [wrong, sure, sure], "soft")
    assert [size.validation for size in found] == [1, 1, 1]
    assert best(found) is found[0]
    assert tuple(found[0].members) == (1,)
    assert tuple(found[1].members) == (0, 1)  # the first of the equally good in the order of combinations


# --- Greedy, where all subsets are too many ---


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_twelve_members_are_added_one_by_one(mode):
    validation, test = drawn(12, 40, 4), drawn(12, 60, 5)
    found, members = sizes(validation, test, mode), ()
    assert len(found) == 12
    for size in found:
        tried = [(*members, place) for place in range(12) if place not in members]
        members, there = best_subset(validation, tried, mode)
        assert sorted(size.members) == sorted(members)
        assert size.validation == there
        assert size.test == accuracy(test, members, mode)
        assert sorted(size.every) == sorted(accuracy(test, subset, mode) for subset in tried)
    of_pairs = best_subset(validation, list(itertools.combinations(range(12), 2)), mode)[1]
    assert of_pairs >= found[1].validation
    there = [size.validation for size in found]
    assert best(found) is found[there.index(max(there))]


def test_twelve_members_without_validation_are_taken_in_their_order():
    test = drawn(12, 30, 6)
    found = sizes([], test, "hard")
    for count, size in enumerate(found, start=1):
        assert tuple(size.members) == tuple(range(count))
        assert size.validation is None
        assert size.test == accuracy(test, range(count), "hard")
    assert best(found) is found[-1]


def test_sixty_members_take_a_moment():
    """No time is measured: were all subsets tried, this would never end."""
    found = sizes(drawn(60, 20, 7), drawn(60, 20, 8), "hard")
    assert [len(size.members) for size in found] == list(range(1, 61))


# --- Agreement and ties ---


def test_agreement_by_a_loop_and_by_hand():
    scores = drawn(4, 50, 9)
    expected = [
        [sum(a == b for a, b in zip(x.predicted, y.predicted, strict=True)) / 50 for y in scores] for x in scores
    ]
    np.testing.assert_allclose(agreement(scores), expected, rtol=1e-15)
    assert 0 < agreement(scores)[0, 1] < 1


@pytest.mark.parametrize(
    ("predicted", "tied"),
    [
        ([0, 1], True),
        ([1, 1], False),
        ([0, 1, 2], True),
        ([0, 1, 1], False),
        ([0, 0, 1, 1], True),
        ([0, 0, 1, 2], False),
        ([0, 0, 1, 1, 2], True),
        ([0, 1, 1, 2, 3], False),
    ],
)
def test_ties_by_hand(predicted, tied):
    """Of the votes of members, of one image beside two on which all agree."""
    rows = 0.6 * np.eye(CLASSES)[predicted] + 0.1
    same = 0.6 * np.eye(CLASSES)[[3, 2]] + 0.1
    scores = [Scores(np.log(np.concatenate([same, row[None]])), np.array([0, 1, 2])) for row in rows]
    assert ties(scores) == tied
