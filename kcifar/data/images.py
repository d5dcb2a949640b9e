"""A folder of images per class: `DIR/train/<class>/*` and `DIR/test/<class>/*`."""

import collections
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kcifar.data.dataset import IMAGE_SHAPE, Dataset, Split
from kcifar.errors import InputError

SPLITS = ("train", "test")

# What Pillow converts to 8-bit RGB by the book; it would clip 16-bit and float pixels.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})


def read(root):
    """The `Dataset` in a folder of images, read with Pillow.

    The classes are the sorted names of the folders. Where all names of a split are distinct whole numbers
    (`00042.png`), these give the order, which is then the one the images were numbered in; otherwise the order is by
    class and name. Names that begin with a dot are left out. A progress bar shows on stderr where that is a terminal.

    Raises:
        InputError: a split is missing, the classes of the two differ, one is empty, or a file is no 32×32 image.
    """
    root = Path(root)
    names = {split: _class_names(root, split) for split in SPLITS}
    if names["train"] != names["test"]:
        only = sorted(set(names["train"]) ^ set(names["test"]))
        raise InputError(
            f"'{root}' has the class folders {', '.join(only)} in only one of train and test; expected the same classes"
            " in both: add or remove them"
        )
    listed = {split: _list(root / split, names[split]) for split in SPLITS}
    with _progress(sum(len(labels) for _, labels in listed.values())) as advance:
        train, test = (
            Split(_decode_all(paths, advance), labels, len(names["train"])) for paths, labels in listed.values()
        )
    return Dataset(train=train, test=test, class_names=tuple(names["train"]), source=str(root))


def _class_names(root, split):
    folder = root / split
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".") if folder.is_dir() else []
    if not names:
        raise InputError(f"'{root}' has no class folders in '{split}'; expected {split}/<class>/<image> and the like")
    return names


def _list(folder, names):
    """The paths of a split in order, and their labels, int64."""
    paths, labels = [], []
    for label, name in enumerate(names):
        found = sorted(entry.path for entry in os.scandir(folder / name) if entry.name[0] != ".")
        if not found:
            raise InputError(f"'{folder / name}' is empty; expected at least one image of every class: add one")
        paths += found
        labels += [label] * len(found)
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            order = sorted(range(len(numbers)), key=numbers.__getitem__)
            paths, labels = [paths[i] for i in order], [labels[i] for i in order]
    return paths, np.array(labels, np.int64)


def _decode_all(paths, advance):
    images = np.empty((len(paths), *IMAGE_SHAPE), np.uint8)
    for i, (path, content) in enumerate(zip(paths, _contents(paths), strict=True)):
        images[i] = _decode(path, content)
        if i % 100 == 99:
            advance(100)
    return images


def _contents(paths, chunk=250, ahead=8):
    """The files' bytes in order, read by threads while the caller decodes.

    The threads only read: decoding so small an image holds the interpreter lock for most of its time, and several
    threads at it are slower than one.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting = collections.deque()
        for start in range(0, len(paths), chunk):
            waiting.append(pool.submit(lambda some: [_content(path) for path in some], paths[start : start + chunk]))
            if len(waiting) > ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _content(path):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _no_image(path, error) from error


def _decode(path, content):
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            size, mode = image.size, image.mode
            if size == IMAGE_SHAPE[:2] and mode in _MODES:
                # A palette may hold its transparency as bytes, which only RGBA can take; the alpha is then dropped.
                rgba = mode in ("P", "PA") and "transparency" in image.info
                return (image.convert("RGBA") if rgba else image).convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        raise _no_image(path, error) from error
    found = f"{size[0]}x{size[1]} pixels" if size != IMAGE_SHAPE[:2] else f"pixels of mode {mode}, which are not 8-bit"
    raise InputError(f"'{path}' has {found}; expected a 32x32 image of 8 bits a channel: convert it first")


def _no_image(path, error):
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return InputError(
        f"'{path}' is no image that Pillow reads ({reason}); expected images and nothing else: remove or replace it"
    )


class _progress:
    """A context that gives `advance(count)`; a bar on stderr, or nothing where that is no terminal."""

    def __init__(self, total):
        self.total, self.bar = total, None

    def __enter__(self):
        if not sys.stderr.isatty():
            return lambda count: None
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True)
        self.bar.start()
        task = self.bar.add_task("reading images", total=self.total)
        return lambda count: self.bar.advance(task, count)

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()
