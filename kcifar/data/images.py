"""A folder of images per class: `DIR/train/<class>/*`, `DIR/test/<class>/*` and, where there is one, `DIR/val/…`."""

import collections
import io
import os
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kcifar.data import decoding, folders
from kcifar.data.dataset import Dataset, Split
from kcifar.errors import InputError, one_line, some
from kcifar.output import printable, warn

SPLITS = ("train", "test")
VALIDATION = ("val", "valid", "validation")
"""What the folder of the validation split may be called."""


def read(root):
    """The `Dataset` in a folder of images of one size, read with Pillow as `kcifar.data.decoding.upright` says.

    Where all images are grey they have 1 channel, else 3. The classes are the sorted names of the folders. Where all
    names of a split are distinct whole numbers (`00042.png`), these give the order, which is then the one the images
    were numbered in; otherwise the order is by class and name. What of a folder are images `kcifar.data.folders.images`
    tells; a warning says what else there is. Names of classes are taken in Unicode's composed form (NFC), in which a
    folder from macOS is the same as one from elsewhere. A progress bar shows on stderr where that is a terminal.

    Raises:
        InputError: train or test is missing, the splits' classes differ, one is empty, a file is no image, or images
            have several sizes.
    """
    root = Path(root)
    names = {"train": "train", "test": "test"} | _validation_folder(root)
    classes = {split: _class_folders(root, name) for split, name in names.items()}
    for split, name in names.items():
        if classes[split].keys() != classes["train"].keys():
            raise InputError(
                f"'{root}' has the class folders {some(sorted(classes['train'].keys() ^ classes[split].keys()))} in "
                f"only one of train and {name}; expected the same classes in both: add or remove them"
            )
    listed = {split: _list(found) for split, found in classes.items()}
    _warn_of_others(root, [path for *_, others in listed.values() for path in others])
    listed = {split: (paths, labels) for split, (paths, labels, _) in listed.items()}
    with _progress(sum(len(labels) for _, labels in listed.values())) as advance, decoding.strict():
        arrays = Arrays(f"'{root}'", sum(len(labels) for _, labels in listed.values()))
        for path, content in _contents([path for paths, _ in listed.values() for path in paths]):
            arrays.add(path, _decode(path, content))
            advance()
    images, splits, start = arrays.images(), {}, 0
    for split, (paths, labels) in listed.items():
        splits[split] = Split(images[start : start + len(paths)], labels, len(classes["train"]))
        start += len(paths)
    return Dataset(**splits, class_names=tuple(classes["train"]), source=str(root))


def _validation_folder(root):
    found = [name for name in VALIDATION if (root / name).is_dir()]
    if len(found) > 1:
        raise InputError(f"'{root}' has the folders {' and '.join(found)}; expected one of them: remove the others")
    return {"validation": found[0]} if found else {}


def _class_folders(root, split):
    """The folders of a split's classes by the name of the class, sorted by it."""
    folder = root / split
    found = [entry for entry in folders.entries(folder) if entry.is_dir()] if folder.is_dir() else []
    if not found:
        others = [name for name in (*SPLITS, *VALIDATION) if name != split and (root / name).is_dir()]
        raise InputError(
            f"'{root}' has no class folders in '{split}' (it has {some(others) or 'no split'}); expected"
            f" {split}/<class>/<image> and the like: add {split}, for which no other split stands in"
        )
    by_name = {}
    for entry in found:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"'{folder}' has the class folder {os.fsencode(entry.name)!r}, whose name is no UTF-8; expected a name "
                "that can be written: rename it"
            ) from None
        name = unicodedata.normalize("NFC", entry.name)
        if name in by_name:
            raise InputError(
                f"'{folder}' has two folders '{name}', whose accents are encoded otherwise; expected one: join them"
            )
        by_name[name] = entry.path
    return dict(sorted(by_name.items()))


def _warn_of_others(root, others):
    if others:
        named = some((printable(os.path.relpath(path, root)) for path in others), 3)
        warn(f"'{root}': left out is what has no suffix of an image: {named}")


def _list(classes):
    """The paths of a split in order, their labels, int64, and the paths of what is no image."""
    paths, labels, others = [], [], []
    for label, folder in enumerate(classes.values()):
        found, left_out = folders.images(folder)
        if not found:
            raise InputError(f"'{folder}' has no image; expected at least one image of every class: add one")
        paths += found
        labels += [label] * len(found)
        others += left_out
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            order = sorted(range(len(numbers)), key=numbers.__getitem__)
            paths, labels = [paths[i] for i in order], [labels[i] for i in order]
    return paths, np.array(labels, np.int64), others


class Arrays:
    """Images that are added one after another, as one array: grey until the first one with colours comes."""

    def __init__(self, where, count):
        self.where, self.count = where, count
        self.sizes, self.examples = collections.Counter(), {}
        self.array, self.added, self.on_white = None, 0, 0
        self.waiting = []  # the first one, until a second says that this is the size of all

    def add(self, path, image):
        """Adds a Pillow image of mode "L" or "RGB"."""
        self.on_white += image.info.get(decoding.ON_WHITE, False)
        self.sizes[image.size] += 1
        self.examples.setdefault(image.size, path)
        if len(self.sizes) > 1:
            return  # only counted, for the message
        self.waiting.append(image)
        if len(self.waiting) + self.added >= min(2, self.count):
            for each in self.waiting:
                self._put(each)
            self.waiting.clear()

    def _put(self, image):
        if self.array is None:
            self.array = np.empty((self.count, *image.size[::-1], 1 if image.mode == "L" else 3), np.uint8)
        if image.mode == "RGB" and self.array.shape[3] == 1:
            self.array = np.repeat(self.array, 3, axis=3)
        self.array[self.added] = np.asarray(image).reshape(*image.size[::-1], -1)
        self.added += 1

    def images(self):
        """uint8 (n, height, width, channels). Raises InputError where there are several sizes."""
        if len(self.sizes) > 1:
            raise InputError(
                f"{self.where} has images of {len(self.sizes)} sizes: {some(self._counted(), 6)}; expected one size:"
                " scale them first"
            )
        if self.on_white:
            warn(f"{self.where}: transparent pixels of {self.on_white:,} images are put on white")
        return self.array

    def _counted(self):
        """The sizes, the most frequent first, with how many images have each, and of the others the first of them."""
        for place, ((width, height), count) in enumerate(self.sizes.most_common()):
            path = self.examples[width, height]
            example = f", as {path}" if place and path else ""
            yield f"{height}×{width} ({count:,} image{'s' * (count > 1)}{example})"


def _contents(paths, chunk=250, ahead=8):
    """(path, the file's bytes) in order, read by threads while the caller decodes.

    The threads only read: decoding so small an image holds the interpreter lock for most of its time, and several
    threads at it are slower than one.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting = collections.deque()
        for start in range(0, len(paths), chunk):
            some_paths = paths[start : start + chunk]
            waiting.append(pool.submit(lambda these: [(path, _content(path)) for path in these], some_paths))
            if len(waiting) > ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _content(path):
    try:
        return folders.content(path)
    except (OSError, InputError) as error:
        raise _no_image(path, error) from error


def _decode(path, content):
    try:
        return decoding.upright(io.BytesIO(content))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        raise _no_image(path, error) from error


def _no_image(path, error):
    reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"
    return InputError(
        f"'{path}' is no image that can be read ({reason}); expected images and nothing else: remove or replace it"
    )


class _progress:
    """A context that gives `advance()`; a bar on stderr, or nothing where that is no terminal."""

    def __init__(self, total):
        self.total, self.bar, self.waiting = total, None, 0

    def __enter__(self):
        if not sys.stderr.isatty():
            return lambda: None
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True)
        self.bar.start()
        self.task = self.bar.add_task("reading images", total=self.total)
        return self._advance

    def _advance(self):
        self.waiting += 1
        if self.waiting == 100:
            self.bar.advance(self.task, self.waiting)
            self.waiting = 0

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()
