"""Which GPUs a process sees: one of its own, where several train together."""

import pytest

from kcifar import InputError, gpus

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("visible", "place", "own"),
    [("0,1,2", "1", "1"), ("GPU-a,GPU-b", "0", "GPU-a"), ("3", "1", "3"), ("", "0", ""), ("-1", "5", "-1")],
)
def test_each_process_sees_its_own(visible, place, own, monkeypatch):
    """Where one is visible, a batch system gave it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("LOCAL_RANK", place)
    gpus.take_own()
    assert gpus.os.environ["CUDA_VISIBLE_DEVICES"] == own


@pytest.mark.parametrize(
    ("place", "message"),
    [("2", "process 2 of this machine finds 2 GPUs"), ("", "LOCAL_RANK is '', so it is not known"), ("x", "is 'x'")],
)
def test_which_is_not_known(place, message, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("LOCAL_RANK", place)
    with pytest.raises(InputError, match=message):
        gpus.take_own()


def test_all_of_the_machine(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: GPU-1)'\necho '  MIG 1g Device 0:'\necho 'GPU 1: H200'\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus.visible() == ["0", "1"]
