"""How many members, and which: every size of an ensemble, chosen on validation and confirmed on test."""

import dataclasses
import itertools

import numpy as np

MODES = ("soft", "hard")
_MOST_IN_ALL_SUBSETS = 11  # 2,047 subsets
_AT_ONCE = 16
_CLOSE = 1e-4  # more than float32 rounds a sum of eleven ballots by


@dataclasses.dataclass(frozen=True, eq=False)
class Size:
    """Ensembles of so many members.

    Attributes:
        members: places of the members that are best on validation; of the first ones, where there is none.
        validation: their accuracy there; None without.
        test: their accuracy on the test images.
        every: accuracies on the test images of all subsets of that size that were tried: chosen by nothing.
    """

    members: tuple[int, ...]
    validation: float | None
    test: float
    every: np.ndarray


def sizes(validation, test, mode):
    """The best ensemble of each size, and what the others of the size are worth.

    All subsets are tried where there are at most eleven members. Of more, each size adds to the one before the member
    that is best on validation (greedy forward selection, Caruana et al. 2004, without replacement). Of equally good
    ones it is the first.

    Args:
        validation: of each member the `Scores` on images that trained none of them; empty where there are none.
        test: of each member the `Scores` on the test images.
        mode: "soft" or "hard".

    Returns:
        A list of `Size`, of 1, 2, … members.
    """
    count = len(test)
    if count > _MOST_IN_ALL_SUBSETS:
        return _greedy(validation, test, mode)
    subsets = [list(itertools.combinations(range(count), size)) for size in range(1, count + 1)]
    return [_size(of_size, validation, test, mode) for of_size in subsets]


def best(found):
    """The `Size` that is best on validation, the smallest of equally good ones; without validation, all members."""
    if found[0].validation is None:
        return found[-1]
    return max(found, key=lambda size: size.validation)


def _size(subsets, validation, test, mode):
    on_validation = accuracies(validation, subsets, mode) if validation else None
    place = int(on_validation.argmax()) if validation else 0
    on_test = accuracies(test, subsets, mode)
    chosen = float(on_validation[place]) if validation else None
    return Size(subsets[place], chosen, float(on_test[place]), on_test)


def _greedy(validation, test, mode):
    found, members = [], ()
    for _ in test:
        left = [place for place in range(len(test)) if place not in members]
        candidates = [(*members, place) for place in (left if validation else left[:1])]
        found.append(_size(candidates, validation, test, mode))
        members = found[-1].members
    return found


def accuracies(scores, subsets, mode):
    """The accuracy of each subset's vote, by the definition of `kcifar.voting.Voting`, thousands of subsets a second.

    Args:
        scores: of each member, on the same images.
        subsets: tuples of places in `scores`.
        mode: "soft" or "hard".

    Returns:
        float64 (subsets,).
    """
    ballots = _ballots(scores, mode)
    rounded = np.ascontiguousarray(ballots, np.float32)
    chosen = np.zeros((len(subsets), len(scores)), np.float32)
    for row, subset in enumerate(subsets):
        chosen[row, list(subset)] = 1
    parts = np.split(chosen, range(_AT_ONCE, len(chosen), _AT_ONCE))
    return np.concatenate([_share_won(part, rounded, ballots, scores[0].labels) for part in parts])


def _ballots(scores, mode):
    """What each member gives to the label of each image and then to its other classes, (members, classes, n)."""
    ballots = np.stack([of_member.probabilities.T for of_member in scores])
    if mode == "hard":
        # One vote, and a part of a probability that all members' together cannot make up for a vote.
        votes = np.stack([np.eye(ballots.shape[1])[of_member.predicted].T for of_member in scores])
        ballots = votes + ballots / 2 ** len(scores).bit_length()  # exact, as equal sums have to stay equal
    classes = np.arange(ballots.shape[1])[:, None]
    labels = scores[0].labels
    order = np.where(classes == 0, labels, classes - (classes <= labels))
    return np.take_along_axis(ballots, order[None], axis=1)


def _share_won(chosen, rounded, ballots, labels):
    """The fraction of images that each row of `chosen` (subsets, members) votes right on, (subsets,).

    In float32, and where that is too close, in float64.
    """
    sums = (chosen @ rounded.reshape(len(rounded), -1)).reshape(len(chosen), -1, len(labels))
    lead = sums[:, 0] - sums[:, 1:].max(axis=1)
    won = lead > 0
    subset, image = np.nonzero(np.abs(lead) < _CLOSE)
    exact = np.einsum("pm,mcp->pc", chosen[subset], ballots[:, :, image])
    best_other = exact[:, 1:].max(axis=1)
    # Of equal ones the first class wins: where the first other that is as good is not before the label.
    first = exact[:, 1:].argmax(axis=1) >= labels[image]
    won[subset, image] = (exact[:, 0] > best_other) | ((exact[:, 0] == best_other) & first)
    return won.mean(axis=1)


def agreement(scores):
    """The fraction of images for which two members predict the same class, (members, members)."""
    predicted = np.stack([of_member.predicted for of_member in scores])
    return (predicted[:, None] == predicted).mean(axis=2)


def ties(scores):
    """The number of images for which classes tie for the most votes of equal members."""
    votes = sum(np.eye(s.log_probabilities.shape[1], dtype=int)[s.predicted] for s in scores)
    return int(((votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())
