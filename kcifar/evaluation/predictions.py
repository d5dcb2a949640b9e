"""What a run's best model predicts, computed once and kept in its folder."""

import contextlib
import functools

import numpy as np

from kcifar import reading
from kcifar.checksum import sha256
from kcifar.evaluation.scores import Scores
from kcifar.runs.files import replacing


def predictions(run, name, split, tta="none"):
    """The `Scores` of a run's best model on a split: from `RUN/predictions/` where they are there, else computed.

    What is kept is of the checksums of the model's file and of the images; a file of others is written anew. Of a model
    that is a file nothing is kept.

    Args:
        run: what `kcifar.runs.saved.find` gives.
        name: of the split, "test" or "validation".
        split: a `kcifar.data.Split`.
        tta: test-time augmentation, see `kcifar.evaluation.models.evaluate`.

    Raises:
        InputError: the run has no best model yet, or it is damaged, or of another number of classes.
    """
    path = run.predictions(name, tta)
    key = {"model": _sha256_of(run.expect_best()), "images": split.fingerprint}
    kept = path and _kept(path, key)
    if kept is not None and kept.shape == (len(split), split.classes):
        return Scores(kept, split.labels)

    from kcifar.evaluation.models import evaluate, load_model  # they import Keras, which takes seconds

    scores = evaluate(load_model(run.best), split, tta)
    if path:
        keep(path, key, scores)
    return scores


def _sha256_of(path):
    found = path.stat()
    return _sha256(path, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=64)
def _sha256(path, *changes):
    return sha256(path)


def keep(path, key, scores):
    """Writes the scores of the model and images that the key names, where that can be written."""
    with contextlib.suppress(OSError):  # of a full disk, or a folder that may only be read: they are computed again
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            np.savez(temporary, log_probabilities=scores.log_probabilities, **key)


def _kept(path, key):
    """The logarithms of the probabilities at `path`; None where there are none of this model and these images."""
    try:
        with reading.npz(path) as arrays:
            same = all(str(arrays[name]) == value for name, value in key.items())
            return arrays["log_probabilities"] if same else None
    except MemoryError:
        raise
    except Exception:  # a damaged archive raises anything
        return None
