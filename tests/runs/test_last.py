"""The states of a run: whole or refused, two of them, and the best model that is theirs."""

import numpy as np
import pytest

from kcifar import InputError
from kcifar.checksum import sha256
from kcifar.runs import sealed
from kcifar.runs.last import Last

pytestmark = pytest.mark.once

ARRAYS = {"variable_0": np.arange(6, dtype="float32").reshape(2, 3), "optimizer_0": np.array(7)}


def save(last, epoch, best=None):
    """What Checkpoint does behind an epoch, whose best model is `best`, bytes, where it is better."""
    last.make()
    if best:
        last.next_best.write_bytes(best)
        last.of_best = epoch, sha256(last.next_best)
    number, digest = last.of_best
    record = {"epochs": epoch, "best_epoch": number, "best_sha256": digest, "rows": [np.array(epoch)]}
    last.save(ARRAYS | {"optimizer_0": np.array(epoch)}, record)


@pytest.fixture
def last(tmp_path):
    """After three epochs, of which the second was the best."""
    last = Last(tmp_path)
    for epoch, best in ((1, b"one"), (2, b"two"), (3, None)):
        save(last, epoch, best)
    return last


def test_a_record_comes_back_with_its_arrays(tmp_path):
    path = tmp_path / "a.npz"
    sealed.write(path, ARRAYS, {"best": None, "callbacks": [{"others": [np.ones(2), np.zeros((0, 3))]}], "name": "ä"})
    arrays, record = sealed.read(path)
    assert list(arrays) == list(ARRAYS)
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert record["name"] == "ä"
    assert [array.shape for array in record["callbacks"][0]["others"]] == [(2,), (0, 3)]
    with np.load(path) as plain:  # it is a file of NumPy's
        assert set(ARRAYS) < set(plain.files)
    with pytest.raises(TypeError, match="callback's state holds"):
        sealed.write(path, {}, {"callbacks": [object()]})


def read_or_refused(path):
    try:
        return sealed.read(path)
    except InputError as error:
        return str(error)


def test_damage_is_noticed(tmp_path):
    """Of every third byte a bit is turned, and the file is cut there: refused, or else what was written comes back."""
    path = tmp_path / "a.npz"
    sealed.write(path, ARRAYS, {"epochs": 3})
    content = path.read_bytes()
    seal, taken = len(b"kcifar sha256 ") + 64, []
    for place in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        for damaged in (bytes(flipped), content[:place]):
            path.write_bytes(damaged)
            found = read_or_refused(path)
            if isinstance(found, str):
                assert "is damaged" in found
                assert "\n" not in found
            else:
                taken.append(place)
                assert found[1] == {"epochs": 3}
                assert all(np.array_equal(found[0][name], ARRAYS[name]) for name in ARRAYS)
    # Of the seal alone, without which each array's own checksum tells that it is whole.
    assert min(taken) >= len(content) - seal


def test_what_earlier_versions_wrote_is_read(tmp_path):
    text = np.frombuffer(b'{"epochs": 2, "callbacks": []}', np.uint8)
    np.savez(tmp_path / "state.npz", record=text, **ARRAYS)
    arrays, record = sealed.read(tmp_path / "state.npz")
    assert record == {"epochs": 2, "callbacks": []}
    assert list(arrays) == list(ARRAYS)


def test_the_newest_state_that_is_whole_is_taken(last):
    assert last.read().record["epochs"] == 3
    assert last.read().damaged is None
    last.newest.write_bytes(b"")
    state = last.read()
    assert state.record["epochs"] == 2
    assert state.record["rows"] == [2]
    assert "state.npz' is damaged (it is empty)" in state.damaged
    last.go_on_from(state)
    assert (last.newest.exists(), last.previous.exists()) == (True, False)
    save(last, 3)
    assert [sealed.read(path)[1]["epochs"] for path in (last.newest, last.previous)] == [3, 2]
    last.newest.unlink()
    assert last.read().record["epochs"] == 2
    last.previous.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"state-previous.npz' is damaged .*new run.*pretrained=.*best.keras"):
        last.read()
    last.previous.unlink()
    assert last.read() is None
    assert not last.exists


def test_a_training_that_begins_anew_leaves_no_state_of_another(last, tmp_path):
    again = Last(tmp_path)
    save(again, 1, b"new")
    assert not again.previous.exists()
    assert again.read().record["epochs"] == 1
    assert again.best.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("named", "found", "settled"),
    [
        # What the names best, next_best and previous_best are of, and of which epoch the best model is then.
        (("two", None, "one"), "two", True),
        (("two", "three", "one"), "two", True),  # killed before the state of the epoch that it is of
        (("one", "two", None), "two", True),  # killed behind its state
        (("three", None, "two"), "two", True),  # the newest state is lost
        ((None, None, "two"), "two", True),
        (("one", None, None), "one", False),
        ((None, "three", None), None, False),
    ],
)
def test_the_best_model_is_that_of_the_state(last, named, found, settled):
    paths = last.best, last.next_best, last.previous_best
    for path, content in zip(paths, named, strict=True):
        path.unlink(missing_ok=True)
        if content:
            path.write_bytes(content.encode())
    assert last.settle_best(last.read()) == settled
    assert (last.best.read_text() if last.best.exists() else None) == found
    assert not last.next_best.exists()


def test_a_run_without_a_best_model_yet_is_settled(tmp_path):
    last = Last(tmp_path)
    last.of_best = None, None
    save(last, 1)
    last.next_best.write_bytes(b"two")
    assert last.settle_best(last.read())
    assert not last.best.exists()
