"""Valid inputs for every reader of files, and seeded damage to them: of bytes, and of what the formats claim."""

import functools
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tests.fuzz_claims import (
    PICKLE_PARTS,
    bomb,
    claiming_hdf5,
    claiming_image,
    claiming_npy,
    claiming_safetensors,
    claiming_torch,
    tangled_pickle,
    zip_bytes,
)

RECIPE = Path(__file__).parents[1] / "recipes" / "mixup.py"
_LONG = 4 * 2**20  # signs of a line
_DEEP = 100_000


# Valid inputs


def make_seeds(folder, readers):
    """Folders with valid inputs, a list for each of the readers by name, made below `folder`."""
    made = _Seeds(folder)
    return {reader: made.of(reader) for reader in readers}


class _Seeds:
    def __init__(self, folder):
        self.folder = folder

    def of(self, reader):
        maker = {
            "npz": self._npz,
            "CIFAR-10, Python": self._python,
            "CIFAR-10, binary": self._binary,
            "CIFAR-100, Python": self._python_100,
            "archive": self._archive,
            "folder of images": self._images,
            "TFDS": self._tfds,
            "cache": self._cache,
            "photo": self._photos,
            "PyTorch's weights": self._pytorch,
            "Keras's weights": self._keras,
            "saved model": self._model,
            "ensemble": self._ensemble,
            "state": self._state,
            "own parts": self._own_parts,
            "lock": self._lock,
            "recipe": lambda: [self._file("recipe", "recipe.py", RECIPE.read_bytes())],
            "overrides": self._overrides,
        }.get(reader, lambda: [self._of_run("run", "images.npz"), self._of_run("run", "images.npz")])
        if reader == "runs, voting":
            return [self._two_runs()]
        return maker()

    def _new(self, name):
        path = self.folder / f"{name}-{len(list(self.folder.glob('*'))) if self.folder.exists() else 0}"
        path.mkdir(parents=True)
        return path

    def _file(self, name, file, content):
        folder = self._new(name)
        (folder / file).write_bytes(content)
        return folder

    def _npz(self):
        from tests.data_fixtures import make, npz_arrays

        found = []
        for save, names in ((np.savez, {}), (np.savez_compressed, {"class_names": np.array(list("abcdefghij"))})):
            content = io.BytesIO()
            save(content, **npz_arrays(make()), **names)
            found.append(self._file("npz", "images.npz", content.getvalue()))
        return found

    def _published(self, folder, files):
        from tests.data_fixtures import write_files

        path = self._new("published")
        write_files(path / folder, files)
        return path

    def _python(self):
        from tests.data_fixtures import make, python_files

        styles = ("python2", "python3", "python4")
        return [self._published("cifar-10-batches-py", python_files(make(), style)) for style in styles]

    def _binary(self):
        from tests.data_fixtures import binary_files, make

        return [self._published("cifar-10-batches-bin", binary_files(make()))]

    def _python_100(self):
        from tests.data_fixtures import python_100_files

        return [self._published("cifar-100-python", python_100_files())]

    def _archive(self):
        from tests.data_fixtures import make, python_files, write_archive

        path = self._new("archive")
        write_archive(path / "cifar-10-python.tar.gz", "cifar-10-batches-py", python_files(make()))
        return [path]

    def _images(self):
        from PIL import Image

        path = self._new("images")
        for split in ("train", "test"):
            for name in ("cat", "dog"):
                folder = path / "images" / split / name
                folder.mkdir(parents=True)
                for place, form in enumerate(("png", "jpg", "bmp")):
                    Image.fromarray(_pixels(place)).save(folder / f"{place}.{form}")
        return [path]

    def _tfds(self):
        from tests.data.test_tfds import prepare

        path = self._new("tfds")
        os.rename(prepare(path / "made"), path / "tfds")
        shutil.rmtree(path / "made")
        return [path]

    def _cache(self):
        from kcifar.data import cache
        from tests.data_fixtures import make

        path = self._new("cache")
        cache._put(path / "entry", "signature", make())
        return [path]

    def _photos(self):
        return [self._file("photo", f"photo.{form}", content) for form, content in _encoded().items()]

    def _pytorch(self):
        import torch
        from safetensors.torch import save_file

        from tests.pytorch_networks import CifarResNet

        tensors, found = CifarResNet(3).state_dict(), []
        for how in ("zip", "legacy", "checkpoint", "safetensors"):
            path = self._new("weights") / f"weights.{how}"
            if how == "safetensors":
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
            elif how == "checkpoint":
                torch.save({"state_dict": tensors, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}}, path)
            else:
                torch.save(tensors, path, _use_new_zipfile_serialization=how == "zip")
            found.append(path.parent)
        return found

    def _keras(self):
        from kcifar.models import build

        paths = [self._new("weights") / name for name in ("weights.keras", "start.weights.h5")]
        model = build("tutorial_net")
        model.save(paths[0])
        model.save_weights(paths[1])
        return [path.parent for path in paths]

    def _model(self):
        from kcifar.runs.state import save_model

        path = self._new("model")
        save_model(_small_model(), path / "model.keras", tuple("abcdefghij"))
        (path / "photo.png").write_bytes(_encoded()["png"])
        return [path]

    def _ensemble(self):
        from kcifar.runs.state import save_model
        from kcifar.voting import ensemble

        path = self._new("ensemble")
        save_model(ensemble([_small_model(), _small_model()], "hard"), path / "ensemble.keras")
        shutil.copy(self._run / "images.npz", path)
        return [path]

    @functools.cached_property
    def _run(self):
        """A folder with a run that has ended, and its images."""
        from kcifar import data
        from kcifar.train import main as train

        path, drawn = self._new("trained"), data.load("demo")
        arrays = {"x_train": drawn.train.images[:60], "y_train": drawn.train.labels[:60]}
        np.savez(path / "images.npz", **arrays, x_test=drawn.test.images[:30], y_test=drawn.test.labels[:30])
        overrides = ["epochs=1", "batch_size=20", "select_from_epoch=1", "validation=0.2", "select_on=validation"]
        where = ["--data", str(path / "images.npz"), "--out", str(path / "run")]
        before, sys.argv = sys.argv, ["train.py", str(RECIPE)]  # as on the command line, for environment.json
        try:
            if train([str(RECIPE), *overrides, "model=tutorial_net()", "schedule=none", *where]):
                raise RuntimeError("the run for the seeds was not trained")
        finally:
            sys.argv = before
        return path

    def _of_run(self, *names):
        """A folder with these of the trained run's files and folders."""
        path = self._new("run")
        for name in names:
            source, target = self._run / name, path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        return path

    def _two_runs(self):
        path = self._of_run("run", "images.npz")
        shutil.copytree(path / "run", path / "other")
        return path

    def _state(self):
        import keras

        from kcifar.checksum import sha256
        from kcifar.models import build
        from kcifar.runs import generators
        from kcifar.runs.last import Last
        from kcifar.runs.state import save_model, save_state

        path, model = self._new("state"), build("tutorial_net")
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        model.optimizer.build(model.trainable_variables)
        last = Last(path / "run")
        last.make()
        save_model(model, last.next_best)
        record = {"epochs": 1, "best": 0.5, "best_epoch": 1, "best_sha256": sha256(last.next_best), "stopped": False}
        save_state(last, model, record | {"callbacks": [], "generators": generators.states()})
        return [path]

    def _own_parts(self):
        path = self._of_run("run/recipe.json", "run/environment.json")
        (path / "run" / "own_parts").mkdir()
        listed = {"folder": "/nowhere", "modules": {}}
        (path / "run" / "own_parts" / "modules.json").write_text(json.dumps(listed))
        return [path]

    def _lock(self):
        """The lock of a process that has ended."""
        path = self._new("lock")
        code = "import os, sys; from kcifar.runs import lock; lock._LEASE_SECONDS = 0.2; "
        code += "writer = lock.Writer(sys.argv[1]); writer.take(); os._exit(0)"
        subprocess.run([sys.executable, "-c", code, path], check=True)
        return [path]

    def _overrides(self):
        texts = [
            "epochs=30", "optimizer=SGD(learning_rate=0.1, momentum=0.9)", "transforms=[RandomFlip(), MixUp(alpha=1)]",
            "schedule=none", "freeze=stem,layer1", "mean=(0.5, 0.5, 0.5)", "std=(0.2, 0.2, 0.2)", "seed=7",
        ]  # fmt: skip
        return [self._file("overrides", "overrides.txt", "\n".join(texts).encode())]


def _pixels(seed, shape=(32, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _small_model():
    import keras
    from keras import layers

    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=4, activation="relu", name="conv")(layers.Rescaling(1 / 255)(image))
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="norm")(x))
    return keras.Model(image, layers.Dense(10, name="logits")(layers.Dropout(0.1)(x)), name="small")


@functools.cache
def _encoded():
    """The same image in formats that Pillow writes, bytes by suffix."""
    from PIL import Image

    image, found = Image.fromarray(_pixels(0)), {}
    for form in ("png", "jpg", "gif", "bmp", "tif", "webp", "ico", "ppm", "tga", "pcx", "jp2", "eps"):
        content = io.BytesIO()
        image.save(content, {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(form, form.upper()))
        if form != "eps":  # which only a program of its own reads
            found[form] = content.getvalue()
    return found


# Damage


def damage(case, reader, rng, seeds):
    """Damages an input, the folder `case`, in one of many ways. Returns what was done, in words."""
    files = sorted(path for path in case.rglob("*") if path.is_file())
    path = rng.choice(files)
    if rng.random() < 0.06:
        how = rng.choice(_OF_FILES)
        how(path, rng)
    elif rng.random() < 0.05:
        other = rng.choice(sorted(p for p in rng.choice(seeds).parent.rglob("*") if p.is_file()))
        shutil.copy(other, path)
        return f"{path.relative_to(case)}: is {other.name}"
    else:
        content = path.read_bytes()
        known = _of_format(path, content)
        hows = known if known and rng.random() < 0.6 else _OF_BYTES
        how = rng.choice(hows)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            if content:
                content = how(content, rng)[: 2**27]
        path.write_bytes(content)
    return f"{path.relative_to(case)}: {how.__name__.strip('_')}"


def _pipe(path, rng):
    path.unlink()
    os.mkfifo(path)


def _endless(path, rng):
    path.unlink()
    path.symlink_to("/dev/zero")


def _loop(path, rng):
    path.unlink()
    path.symlink_to(path.name)


def _folder(path, rng):
    path.unlink()
    path.mkdir()


def _gone(path, rng):
    path.unlink()


def _sparse(path, rng):
    """More than any of these files has, and nothing in it."""
    with open(path, "r+b") as file:
        file.truncate(2**30)


def _unreadable(path, rng):
    path.chmod(0)


_OF_FILES = [_pipe, _endless, _loop, _folder, _gone, _sparse, _unreadable]


def _flip(content, rng):
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 4, 64])):
        if found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _flip_early(content, rng):
    """Where formats have their headers."""
    start = rng.choice([64, 512, 4096])
    return _flip(content[:start], rng) + content[start:]


def _flip_late(content, rng):
    """Where archives have their lists."""
    start = max(0, len(content) - rng.choice([64, 512, 4096]))
    return content[:start] + _flip(content[start:], rng)


def _truncate(content, rng):
    return content[: rng.choice([0, 1, rng.randrange(len(content) + 1), max(0, len(content) - rng.randrange(1, 65))])]


def _insert(content, rng):
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.randbytes(rng.choice([1, 8, 1000])) + content[place:]


def _cut(content, rng):
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[place + rng.choice([1, 4, 100, 5000]) :]


def _repeat(content, rng):
    place = rng.randrange(len(content) + 1)
    chunk = content[place : place + rng.choice([16, 500, 10_000])]
    return content[:place] + chunk * rng.choice([1, 2, 50]) + content[place:]


def _numbers(content, rng):
    """Huge ones, in place of what may be a length."""
    size, sign = rng.choice([("<H", 0xFFFF), ("<I", 0xFFFFFFFF), ("<i", 2**31 - 1), ("<Q", 2**62), ("<q", -1),
                             (">I", 0xFFFFFFF0), (">i", -1), ("<Q", 2**40), ("<I", 2**30)])  # fmt: skip
    if len(content) < 8:
        return content
    place = rng.randrange(min(len(content) - 7, rng.choice([64, 1024, 2**30])))
    return content[:place] + struct.pack(size, sign) + content[place + struct.calcsize(size) :]


def _text(content, rng):
    """Signs that a terminal obeys, or that are none, or very many."""
    place = rng.randrange(len(content) + 1)
    texts = [b"\0", b"\x1b[31m\x1b]0;title\x07", b"\r\n" * 9, b"A" * _LONG, b"\xff\xfe", "\u202e\u2028".encode()]
    return content[:place] + rng.choice(texts) + content[place:]


def _another(content, rng):
    return rng.choice([b"", b"\0" * 5000, rng.randbytes(5000), b"<html>", b"PK\5\6" + bytes(18), b"[" * _DEEP])


_OF_BYTES = [_flip, _flip, _flip_early, _flip_early, _flip_late, _truncate, _truncate, _insert, _cut, _repeat,
             _numbers, _numbers, _numbers, _text, _another]  # fmt: skip


def _of_format(path, content):
    """The ways to damage that know the format of a file, by its content."""
    of_torch = [_torch] if path.stem == "weights" else []
    if content.startswith(b"PK"):
        return [_member, _member, _member, _member, _zip_bomb, _renamed, _doubled, _zip_sizes, *of_torch]
    if content.startswith(b"\x93NUMPY"):
        return [_npy]
    if content.startswith(b"\x89HDF"):
        return [_hdf5]
    if content[8:9] == b"{":
        return [_safetensors]
    if content[:1] in (b"\x80", b"}", b"("):
        return [_pickle, _pickle, _tangle, *of_torch]
    if content[:1] in (b"{", b"[") and _is_json(content):
        return [_json]
    if content.startswith(b"\x1f\x8b"):
        return [_gzip, _gzip, _gzip_bomb]
    if path.suffix == ".csv":
        return [_table]
    if path.suffix in (".py", ".txt"):
        return [_code, _code, _code, _text]
    if path.suffix[1:] in _encoded():
        return [_image]
    return []


def _is_json(content):
    try:
        json.loads(content)
        return True
    except (ValueError, RecursionError):
        return False


def _members(content):
    """[name, content] of each member of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [[name, archive.read(name)] for name in archive.namelist()]


def _guarded(damages):
    """Damages an archive whose members can be read, and another one's bytes."""

    @functools.wraps(damages)
    def guarded(content, rng):
        try:
            members = _members(content)
        except Exception:  # it was damaged before
            members = []
        return damages(members, rng) if members else _flip(content, rng)

    return guarded


@_guarded
def _member(members, rng):
    chosen = rng.choice(members)
    hows = _of_format(Path(chosen[0]), chosen[1]) * 3 + _OF_BYTES
    chosen[1] = rng.choice(hows)(chosen[1], rng)
    return zip_bytes(members, rng.choice([0, 8]))


@_guarded
def _zip_bomb(members, rng):
    chosen = rng.choice(members)
    start = chosen[1][: chosen[1].find(b"\n") + 1] if chosen[1].startswith(b"\x93NUMPY") else b""
    if rng.random() < 0.5:
        start = claiming_npy((rng.choice([1, 3]) * 2**30,), "|u1") if chosen[0].endswith(".npy") else start
    chosen[1] = bomb(start)
    return zip_bytes(members)


@_guarded
def _renamed(members, rng):
    names = ["../../outside", "/tmp/kcifar-fuzz-outside", "a\0b", "\x1b[31m.npy", "A" * 60_000, "assets/../../outside"]
    rng.choice(members)[0] = rng.choice(names)
    return zip_bytes(members)


@_guarded
def _doubled(members, rng):
    chosen = rng.choice(members)
    most = 2**23 // max(1, len(chosen[1]))
    return zip_bytes([*members, *[chosen] * rng.choice([1, min(3000, most)])])


@_guarded
def _zip_sizes(members, rng):
    return zip_bytes(members, claims=rng.choice([2**32 - 2, 2**30, 0]), method=rng.choice([0, 8, 8, 12, 99]))


def _npy(content, rng):
    shapes = [(2**40,), (2**31, 2**31), (-1,), (2**63,), (0, 2**62), (10,) * 60, (), (3 * 10**8,), ("a",), (2**20,)]
    dtypes = ["|u1", "<f8", "|O", "<U1000000", "|V0", "<U0", "<M8[ns]", [("a", "<f8", (1000, 1000))], "nonsense"]
    return claiming_npy(rng.choice(shapes), rng.choice(dtypes)) + content[128 : rng.choice([128, 1000, len(content)])]


def _hdf5(content, rng):
    return claiming_hdf5(content, rng)


def _safetensors(content, rng):
    return claiming_safetensors(content, rng, _DEEP)


def _pickle(content, rng):
    place = rng.choice([2, len(content) - 1, rng.randrange(len(content))])
    return content[:place] + rng.choice(PICKLE_PARTS) + content[place:]


def _tangle(content, rng):
    return tangled_pickle(rng)


def _torch(content, rng):
    return claiming_torch(rng)


def _json(content, rng):
    """A value of another kind or size somewhere, or a key gone."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return _flip(content, rng)
    holder, key = _somewhere(found, rng)
    values = [None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**400, 2**63, "x" * _LONG, "\x1b[31m\0\n", [], {},
              [[]] * 3, {"name": "a", "arguments": {}}, {"name": 3, "arguments": 3}, {"array": "record_0"},
              {"array": 3}, "test", ["a", 1, None], "DEEP", "DIGITS", "../../outside", 10**12, 10**7, "os",
              "Lambda"]  # fmt: skip
    if holder is None:
        found = rng.choice(values)
    elif rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(values)
    text = json.dumps(found)
    deep = rng.choice(["[" * _DEEP + "]" * _DEEP, '{"a":' * _DEEP + "1" + "}" * _DEEP])
    return text.replace('"DEEP"', deep).replace('"DIGITS"', "9" * 100_000).encode()


def _somewhere(found, rng):
    """(container, key or index) anywhere in a JSON value; (None, None) where it holds nothing."""
    places, waiting = [], [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            keys = list(value) if isinstance(value, dict) else range(len(value))
            places += [(value, key) for key in keys]
            waiting += [value[key] for key in keys]
    return rng.choice(places) if places else (None, None)


def _gzip(content, rng):
    """What is inside damaged, and packed again."""
    try:
        inside = zlib.decompress(content, 31)
    except zlib.error:
        return _flip(content, rng)
    for _ in range(rng.choice([1, 3])):
        inside = rng.choice([*_OF_BYTES, _tar_header])(inside, rng)
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(inside) + packer.flush()


def _tar_header(content, rng):
    """The type, or the size, of a member is another."""
    found, place = bytearray(content), 512 * rng.randrange(max(1, len(content) // 512))
    found[place + 124 : place + 136] = rng.choice([b"77777777777\0", b"\x80" + b"\x7f" * 11, b"00000000000\0"])
    found[place + 156 : place + 157] = rng.choice([b"1", b"2", b"5", b"x", b"L", b"S", b"0"])
    return bytes(found)


def _gzip_bomb(content, rng):
    try:
        inside = zlib.decompressobj(31).decompress(content, 512)
    except zlib.error:
        return _flip(content, rng)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bomb(inside).packed


def _table(content, rng):
    """Columns and figures that are none."""
    lines = content.decode("latin1").splitlines()
    row = rng.randrange(len(lines)) if lines else 0
    cells = lines[row].split(",") if lines else [""]
    values = ["", "nan", "inf", "-1", "1e999", "1e308", "x", '"', "9" * 5000, "\0", "1,2", "epoch", "loss"]
    cells[rng.randrange(len(cells))] = rng.choice(values)
    lines[row : row + 1] = [",".join(cells)] * rng.choice([1, 1, 0, 3])
    return "\n".join(lines).encode("latin1") + b"\n"


def _code(content, rng):
    """Texts that Python's parser, or what reads what it gives, may not bear."""
    places = [place for place, sign in enumerate(content) if sign in b"=(,\n"] or [0]
    place = rng.choice(places) + 1
    parts = [b"(" * _DEEP, b"[" * 300 + b"]" * 300, b"-" * _DEEP + b"1", b"9" * 100_000, b"1e999", b"0x" + b"f" * 9000,
             b"'", b"\0", b"\xff", b"\x1b[31m", b"None", b"True", b"lambda: 1", b"2**99999999", b"*", b"a:b()", b"a.b",
             b"F(" * 3000 + b")" * 3000, b"1+" * 5000 + b"1", b"{}", b"[[1]]", b"f'{1}'", b"nan", b"a=1,a=2",
             b"# coding: nonsense\n", b"A" * 100_000, b"(1,)*9", b"1j", b"b'a'", b"...", b"\xe2\x80\xae",
             b"not "]  # fmt: skip
    return content[:place] + rng.choice(parts) + content[place:]


def _image(content, rng):
    return claiming_image(rng)
