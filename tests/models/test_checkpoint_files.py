"""`load_pretrained` of what people's programs write: told by content, whatever wraps it or lies beside it."""

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from keras import ops

from kcifar import InputError
from kcifar.backend.files import read_pytorch
from kcifar.models import build, load_pretrained
from tests.pytorch_networks import CifarResNet, ResNet, WideResNet

pytestmark = pytest.mark.once


def varied(net, seed=0):
    """With values of their own everywhere, BatchNorm's statistics among them."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            spread = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(spread + 0.5 if name.endswith(("running_var", "bn1.weight", "bn2.weight")) else spread - 0.5)
            if tensor.ndim > 1:
                tensor.mul_(2 / tensor[0].numel() ** 0.5)
    return net.eval()


@pytest.fixture(scope="module")
def tensors():
    return varied(CifarResNet(3)).state_dict()


@pytest.fixture(scope="module")
def model():
    return build("resnet20")


def loads(model, path, expected, source=None):
    """Whether the model has these tensors' head afterwards, and all else but what it had."""
    for variable in model.variables:
        variable.assign(np.full(variable.shape, 0.375))
    assert load_pretrained(model, source or path) == []
    assert not any(np.all(ops.convert_to_numpy(variable) == 0.375) for variable in model.variables)
    return np.array_equal(ops.convert_to_numpy(model.get_layer("head_logits").bias), expected["linear.bias"])


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "name",
    ["best.pth", "model_best.pth.tar", "last.ckpt", "resnet.th", "R20.PTH", "weights", "a.keras", "a.h5", "é.pt"],
)
def test_a_files_name_says_nothing(name, model, tensors, tmp_path):
    assert loads(model, saved(tmp_path / name, {"state_dict": tensors, "epoch": 3}), tensors)


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.backbone.", "my_net.model.module."]
)
def test_what_wrappers_put_before_every_name_is_understood(prefix, model, tensors, tmp_path):
    assert loads(model, saved(tmp_path / "a.pth", prefixed(tensors, prefix)), tensors)


def test_what_wrappers_put_into_names_is_understood(model, tensors, tmp_path):
    inside = {name.replace("layer2.", "layer2._orig_mod."): tensor for name, tensor in tensors.items()}
    inside = {name.replace("layer3.", "layer3._fsdp_wrapped_module."): tensor for name, tensor in inside.items()}
    assert loads(model, saved(tmp_path / "a.pth", inside), tensors)


def test_real_wrappers(model, tensors, tmp_path):
    net = varied(CifarResNet(3))
    for wrapped in (torch.nn.DataParallel(net), torch.optim.swa_utils.AveragedModel(net)):
        assert loads(model, saved(tmp_path / "a.pth", wrapped.state_dict()), tensors)


def test_what_lies_beside_a_network_is_left_out(model, tensors, tmp_path):
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    beside = {"loss_fn.weight": torch.ones(10), "acc.total": torch.tensor(3)}
    content = {"state_dict": prefixed(tensors, "model.") | beside, "optimizer_states": [optimizer], "epoch": 9}
    assert loads(model, saved(tmp_path / "a.ckpt", content), tensors)


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "ema"), ("model", "swa.model")],
)
def test_of_raw_and_averaged_weights_it_is_said_which_are_taken(
    raw, averaged, model, tensors, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    other = varied(CifarResNet(3), 1).state_dict()
    within = {averaged: other} if "." not in averaged else {averaged.split(".")[0]: {averaged.split(".")[1]: other}}
    path = saved(Path("a.pth"), {raw: tensors, **within, "epoch": 3})
    assert loads(model, path, other)
    expected = f"warning: '{path}' holds several models: taken is '{averaged}'; for another give '{path}:{raw}'\n"
    assert capsys.readouterr().err == expected
    assert loads(model, path, tensors, f"{path}:{raw}")
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match=f"has no 'x'; it has '{raw}', '{averaged}'"):
        load_pretrained(model, f"{path}:x")


def test_both_under_the_names_of_one_dictionary(model, tensors, tmp_path, capsys):
    other = varied(CifarResNet(3), 1).state_dict()
    both = (
        prefixed(tensors, "model.") | prefixed(other, "ema_model.module.") | {"ema_model.n_averaged": torch.tensor(7)}
    )
    path = saved(tmp_path / "a.ckpt", {"state_dict": both})
    assert loads(model, path, other)
    assert (
        capsys.readouterr().err
        == f"warning: '{path}' holds the network several times: taken is 'ema_model.module.', not 'model.'\n"
    )


def test_several_models_of_which_none_is_known(model, tensors, tmp_path):
    path = saved(tmp_path / "a.pth", {"teacher": tensors, "student": tensors})
    with pytest.raises(InputError, match=r"several models, 'teacher', 'student': say which, '.*a.pth:teacher'"):
        load_pretrained(model, path)
    assert loads(model, path, tensors, f"{path}:student")


OTHERS = {
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
    "HTML": b"<!DOCTYPE html>\n<html></html>",
    "gzip": b"\x1f\x8b\x08\x00",
    "empty": b"",
    "no file of weights": b"GIF89a",
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_file_of_weights_is_named(what, model, tmp_path):
    (tmp_path / "a.pth").write_bytes(OTHERS[what])
    with pytest.raises(InputError, match=what):
        load_pretrained(model, tmp_path / "a.pth")


def test_a_pickle_that_claims_more_than_there_is(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x80\2\x8e" + (2**62).to_bytes(8, "little") + bytes(100))
    with pytest.raises(InputError, match="is no file of torch"):
        read_pytorch(tmp_path / "a.pth")


def test_tuples_of_the_same_tuples_again_and_again(tmp_path):
    """To hash such a key, which takes a few bytes, would take for ever."""
    key = ()
    for _ in range(12):
        key = (key,) * 10
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\2}" + pickle.dumps(key, 2)[2:-1] + b"K\1s.")
    with pytest.raises(InputError, match="a tuple of 1e"):
        read_pytorch(path)


def test_folders_pipes_and_archives(model, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(__file__, "a.py")
    with pytest.raises(InputError, match=r"an archive \(tar\)"):
        load_pretrained(model, tmp_path / "a.tar")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(InputError, match="neither file nor folder"):
        load_pretrained(model, tmp_path / "pipe.pth")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.keras").touch()
    with pytest.raises(InputError, match=r"but a folder: give '.*best\.keras'"):
        load_pretrained(model, tmp_path / "run")


def same_logits(model, net, size=32):
    images = np.random.default_rng(0).normal(size=(3, size, size, 3)).astype("float32")
    with torch.no_grad():
        expected = net(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    found = ops.convert_to_numpy(model(images, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9)])
def test_akamasters_resnets_for_cifar(name, blocks, tmp_path):
    """Whose shortcuts pad channels on both sides: the channels change their places, the logits stay."""
    net, model = varied(CifarResNet(blocks)), build(name)
    path = saved(tmp_path / "resnet.th", {"state_dict": prefixed(net.state_dict(), "module."), "best_prec1": 91.7})
    assert load_pretrained(model, path) == []
    same_logits(model, net)


def test_xternalzs_wide_resnet(tmp_path):
    net, model = varied(WideResNet(2)), build("wrn28_2")
    path = saved(tmp_path / "model_best.pth.tar", {"state_dict": prefixed(net.state_dict(), "module.")})
    assert load_pretrained(model, path) == []
    same_logits(model, net)


def test_kuanglius_resnet(tmp_path):
    """Its shortcut and linear; a stem for CIFAR."""
    net, model = ResNet("basic", (2, 2, 2, 2), 10, torch.nn.ReLU), build("resnet18", stem="cifar")
    net.conv1, net.pool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    names = {
        name: name.replace("downsample", "shortcut").replace("fc.", "linear.") for name in varied(net).state_dict()
    }
    tensors = {f"module.{names[name]}": tensor for name, tensor in net.state_dict().items()}
    path = saved(tmp_path / "ckpt.pth", {"net": tensors, "acc": 95.1, "epoch": 9})
    assert load_pretrained(model, path) == []
    same_logits(model, net)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_tensor_of_more_values_than_the_file_has(dtype, new, model, tensors, tmp_path):
    vast = tensors | {"linear.bias": torch.zeros(1, dtype=dtype).expand(2**40)}
    torch.save(vast, tmp_path / "vast.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=r"its tensors would have 4,398,04\d"):
        load_pretrained(model, tmp_path / "vast.pth")


def test_a_dictionary_that_is_in_many_places(model, tensors, tmp_path):
    """A billion of them, by way of a thousand that each hold one a thousand times."""
    inside = {}
    for _ in range(3):
        inside = {f"place{number}": inside for number in range(1000)}
    with pytest.raises(InputError, match="no dictionary of tensors"):
        load_pretrained(model, saved(tmp_path / "many.pth", inside))
    assert loads(model, saved(tmp_path / "one.pth", {"others": inside, "state_dict": tensors}), tensors)
