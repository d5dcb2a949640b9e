"""All that a vote of runs has to tell, and the ensemble that comes of it.

Keras is imported, which takes seconds, only where a model is made.
"""

import dataclasses

import numpy as np

from kcifar.errors import InputError
from kcifar.evaluation.scores import Scores, wilson_interval
from kcifar.output import cells, left, printable
from kcifar.voting import selection
from kcifar.voting.members import Members, members
from kcifar.voting.selection import MODES

_MOST_AGREEMENTS = 12  # members whose agreement is printed pair by pair
_SOUP_IMAGES, _SOUP_BATCH = 10_000, 100


@dataclasses.dataclass(frozen=True, eq=False)
class Election:
    """The votes of an ensemble's members.

    Attributes:
        members: `kcifar.voting.members.Members`.
        mode: that of the ensemble that is named and written.
        sizes: by mode, the `kcifar.voting.selection.Size`s.
        soup: the `Scores` of the mean of the weights on the test images; None where it is not asked for.
    """

    members: Members
    mode: str
    sizes: dict
    soup: Scores | None

    @property
    def best(self):
        """The `Size` that is named and written."""
        return selection.best(self.sizes[self.mode])

    def ties(self, size):
        """The number of test images for which classes tie for the most votes of a size's best members."""
        return selection.ties([self.members.test[place] for place in size.members])

    def figures(self):
        """All figures as plain values, as JSON can hold them."""
        found = self.members
        return {
            "test_images": len(found.dataset.test),
            "test_time_augmentation": found.tta,
            "validation_images": len(found.validation[0].labels) if found.validation else 0,
            "warnings": found.warnings,
            "members": [
                {
                    "run": str(run.path),
                    "validation_accuracy": found.validation[place].accuracy if found.validation else None,
                    "test_accuracy": scores.accuracy,
                    "test_accuracy_interval": scores.accuracy_interval(),
                    "selected_on": run.selected_on,
                }
                for place, (run, scores) in enumerate(zip(found.runs, found.test, strict=True))
            ],
            "agreement": selection.agreement(found.test).tolist(),
            "sizes": {mode: [self._size_figures(size) for size in self.sizes[mode]] for mode in MODES},
            "best": {"mode": self.mode, **self._size_figures(self.best)},
            "soup": None if self.soup is None else {"test_accuracy": self.soup.accuracy, "test_loss": self.soup.loss},
        }

    def _size_figures(self, size):
        return {
            "members": [str(self.members.runs[place].path) for place in size.members],
            "validation_accuracy": size.validation,
            "test_accuracy": size.test,
            "test_accuracy_interval": self._interval(size),
            "ties": self.ties(size),
            "all_test_accuracies": size.every.tolist(),
        }

    def _interval(self, size):
        return wilson_interval(size.test, len(self.members.dataset.test))

    def text(self):
        """The figures for people to read."""
        parts = [self._head(), self._members(), self._agreement(), *map(self._sizes, MODES), self._conclusion()]
        return "\n\n".join(parts)

    def _head(self):
        found = self.members
        chosen_on = (
            f", sizes chosen on {len(found.validation[0].labels):,} validation images" if found.validation else ""
        )
        members = f"{len(found.runs)} members, {len(found.dataset.test):,} test images of {found.dataset.source}"
        if found.tta != "none":
            members += f", test-time augmentation {found.tta}"
        return members + chosen_on

    def _members(self):
        found = self.members
        names = [printable(run.path) for run in found.runs]
        width = max(map(cells, names)) + 5
        lines = [f"{left('member', width)}validation    test   95 % interval"]
        for place, (name, scores) in enumerate(zip(names, found.test, strict=True)):
            low, high = scores.accuracy_interval()
            validation = _percent(found.validation[place].accuracy if found.validation else None)
            chosen_on_test = "*" if found.runs[place].selected_on == "test" else ""
            named = f"{place + 1:>2}  {name}{chosen_on_test}"
            lines.append(f"{left(named, width)}{validation:>10}  {scores.accuracy:6.2%}  {low:.1%} – {high:.1%}")
        if any(run.selected_on == "test" for run in found.runs):
            lines.append("* its epoch was chosen on the test set itself: not an honest estimate, nor is any below")
        return "\n".join(lines)

    def _agreement(self):
        shares = selection.agreement(self.members.test)
        pairs = shares[np.triu_indices(len(shares), 1)]
        lines = [f"two members agree on {pairs.mean():.1%} of the test images ({pairs.min():.1%} – {pairs.max():.1%})"]
        if 2 < len(shares) <= _MOST_AGREEMENTS:
            lines.append("    " + "".join(f"{place + 1:>6}" for place in range(len(shares))))
            for place, row in enumerate(shares[:-1]):
                cells = "".join(f"{share:6.1%}" if other > place else " " * 6 for other, share in enumerate(row))
                lines.append(f"{place + 1:>4}{cells}")
        return "\n".join(lines)

    def _sizes(self, mode):
        about = {
            "soft": "soft vote: the mean of the probabilities",
            "hard": "hard vote: the most frequent class, ties to the larger mean probability",
        }[mode]
        ties = "  ties" if mode == "hard" else ""
        lines = [about, f"size  validation    test{ties}  any of that size, test      members"]
        for size in self.sizes[mode]:
            tied = f"  {self.ties(size):>4}" if mode == "hard" else ""
            every = f"{size.every.mean():.2%} ({size.every.min():.2%} – {size.every.max():.2%})"
            names = " ".join(str(place + 1) for place in sorted(size.members))
            validation = _percent(size.validation)
            lines.append(f"{len(size.members):>4}  {validation:>10}  {size.test:6.2%}{tied}  {every:<26}{names}")
        return "\n".join(lines)

    def _conclusion(self):
        best = self.best
        how = "chosen on validation" if best.validation is not None else "not chosen: no image is left to choose it on"
        low, high = self._interval(best)
        members = "1 member" if len(best.members) == 1 else f"{len(best.members)} members, {self.mode} vote"
        reached = f"{best.test:.2%} on test (95 % interval {low:.1%} – {high:.1%})"
        lines = [f"best: {members} ({how}), {reached}"]
        if self.soup is not None:
            lines.append(f"the mean of the weights of all: {self.soup.accuracy:.2%} on test, loss {self.soup.loss:.4f}")
        return "\n".join(lines)

    def write(self, path, export=None, size=None):
        """Writes the ensemble of the best members as one `.keras` file, and beside it what `export` names.

        Args:
            size: of how many members; None for as many as are best on validation.

        Returns:
            The paths written.

        Raises:
            InputError: there are not so many, one alone is best, or what is exported differs from it.
        """
        expect_size(size, self.members.runs)
        of_size = self.best if size is None else self.sizes[self.mode][size - 1]
        chosen = [self.members.runs[place] for place in sorted(of_size.members)]
        if len(chosen) < 2:
            raise InputError(
                f"on validation one member is best, '{chosen[0].path}': take its best.keras, or give --size N or --all"
            )

        from kcifar.evaluation.models import open_model
        from kcifar.runs.state import save_model
        from kcifar.voting.ensembles import ensemble

        image_shape = self.members.dataset.image_shape
        model = ensemble([open_model(run.best) for run in chosen], self.mode, image_shape=image_shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, path, self.members.dataset.class_names)
        if not export:
            return [path]
        from kcifar.evaluation.onnx import COMPARED, export_onnx

        exported = path.with_suffix(".onnx")
        export_onnx(model, exported, self.members.dataset.test.images[:COMPARED])
        return [path, exported]


def expect_size(size, runs):
    """Raises InputError where runs give no ensemble of that size; None is any."""
    if size is not None and not 2 <= size <= len(runs):
        raise InputError(f"size is {size}; expected 2 to {len(runs)}, the number of members")


def elect(runs, mode="soft", source=None, with_soup=False, tta="none"):
    """The `Election` of runs.

    Args:
        runs: see `kcifar.voting.members.members`.
        mode: "soft" or "hard", of the ensemble that is named.
        source: of the data; None for that of the first run that has one.
        with_soup: also the mean of the weights.
        tta: test-time augmentation of each member; in the file of the ensemble it is not.

    Raises:
        InputError: as `members`, and where the soup's models are not of one architecture.
    """
    found = members(runs, source, tta)
    sizes = {each: selection.sizes(found.validation, found.test, each) for each in MODES}
    return Election(found, mode, sizes, _soup(found) if with_soup else None)


def _soup(found):
    from kcifar.data import Batches
    from kcifar.evaluation.models import evaluate, open_model
    from kcifar.voting.soups import soup

    train = (found.runs[0].splits(found.dataset) or found.dataset).train
    few = train.take(slice(_SOUP_IMAGES))
    batches = Batches(few, min(_SOUP_BATCH, len(few)), shuffle=False, drop_last=True)
    return evaluate(soup([open_model(run.best) for run in found.runs], batches), found.dataset.test, found.tta)


def _percent(fraction):
    return "–" if fraction is None else f"{fraction:.2%}"
