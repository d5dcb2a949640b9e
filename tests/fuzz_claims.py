"""Files that claim more than they hold: archives of gigabytes, arrays of terabytes, images of gigapixels."""

import functools
import io
import json
import pickle
import struct
import zlib
from typing import NamedTuple

import numpy as np

_BLOCK = 2**24


class Bomb(NamedTuple):
    """Few bytes that inflate to many."""

    packed: bytes
    size: int
    crc: int


@functools.cache
def bomb(start=b"", size=3 * 2**30):
    """`start` and so many zeros, deflated: each block is the same, as it refers to nothing before it."""
    packer = zlib.compressobj(9, wbits=-15)
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, wbits=-15)
    zeros = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    return Bomb(first + zeros * (size // _BLOCK) + b"\3\0", len(start) + size, 0)


def zip_bytes(members, method=0, claims=None):
    """A zip archive of [name, bytes or Bomb], deflated by method 8; `claims` is the size that one says it has."""
    parts, listed, place = [], [], 0
    for number, (name, content) in enumerate(members):
        size, crc, packed, how = _packed(content, method)
        if claims is not None and number == len(members) // 2:
            size = claims
        encoded = name.encode("utf-8", "surrogateescape")
        fields = struct.pack("<HHHHHIIIHH", 20, 0x800, how, 0, 33, crc, len(packed), size, len(encoded), 0)
        parts += [b"PK\3\4", fields, encoded, packed]
        listed += [b"PK\1\2", struct.pack("<H", 20), fields, struct.pack("<HHHII", 0, 0, 0, 0, place), encoded]
        place += 30 + len(encoded) + len(packed)
    directory = b"".join(listed)
    count = min(len(members), 0xFFFF)
    return b"".join(
        [*parts, directory, b"PK\5\6", struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), place, 0)]
    )


def _packed(content, method):
    if isinstance(content, Bomb):
        return content.size, content.crc, content.packed, 8
    packer = zlib.compressobj(1, wbits=-15)
    packed = content if method != 8 else packer.compress(content) + packer.flush()
    return len(content), zlib.crc32(content), packed, method


def claiming_npy(shape, dtype):
    """The header of an `.npy` file of this shape and dtype, 128 bytes or more."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    text = text.ljust(117 if len(text) < 117 else len(text)) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


def claiming_hdf5(content, rng):
    """Weights of Keras, one of them a dataset that is not in the file, or very often, or of another kind."""
    import h5py

    file = io.BytesIO(content)
    try:
        with h5py.File(file, "r+") as opened:
            places = []
            opened.visititems(lambda name, item: places.append(name) if isinstance(item, h5py.Dataset) else None)
            name = rng.choice(places)
            rng.choice(_HDF5)(opened, name, opened[name].shape)
    except Exception:  # it was damaged before
        return content[: len(content) // 2]
    return file.getvalue()


def _empty(opened, name, shape):
    del opened[name]
    opened.create_dataset(name, (2**20, 2**10), "f4", chunks=(64, 64))


def _vast(opened, name, shape):
    del opened[name]
    opened.create_dataset(name, (2**40,), "f8", chunks=(2**10,), compression="gzip")


def _dense(opened, name, shape):
    del opened[name]
    opened.create_dataset(name, data=np.zeros((2**12, 2**14), "f4"), compression="gzip", compression_opts=1)


def _external(opened, name, shape):
    del opened[name]
    opened.create_dataset(name, shape, "f4", external=[("/etc/hostname", 0, 4 * int(np.prod(shape)))])


def _linked(opened, name, shape):
    import h5py

    del opened[name]
    opened[name] = h5py.ExternalLink("/etc/hostname", "/a")


def _soft_loop(opened, name, shape):
    import h5py

    del opened[name]
    opened[name] = h5py.SoftLink(f"/{name}")


def _often(opened, name, shape):
    """One array of 4 MB under a thousand names."""
    group = opened[name].parent
    group.create_dataset("900", data=np.zeros(2**20, "f4"))
    for number in range(901, 1900):
        group[str(number)] = group["900"]


def _cycle(opened, name, shape):
    opened[f"{name}-again"] = opened["/"]


def _texts(opened, name, shape):
    del opened[name]
    opened.create_dataset(name, data=["a" * 1000] * 100)


def _named(opened, name, shape):
    opened[name].parent.attrs["name"] = np.zeros(7000)


_HDF5 = [_empty, _vast, _dense, _external, _linked, _soft_loop, _often, _cycle, _texts, _named]


def claiming_safetensors(content, rng, deep):
    """Another header than the tensors have."""
    (size,) = struct.unpack("<Q", content[:8])
    try:
        header, tensors = json.loads(content[8 : 8 + size]), content[8 + size :]
    except (ValueError, RecursionError):
        return content[: len(content) // 2]
    if rng.random() < 0.2:
        return struct.pack("<Q", rng.choice([2**63, 2**40, 0, 10**8, size - 1])) + content[8:]
    name = rng.choice(sorted(header))
    values = [
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [2**62, 2**62 + 4]},
        "DEEP",
        3,
    ]
    header[rng.choice([name, "A" * 2**20, "\x1b[31m"])] = rng.choice(values)
    text = json.dumps(header).replace('"DEEP"', '{"a":' * deep + "1" + "}" * deep).encode()
    return struct.pack("<Q", len(text)) + text + tensors


PICKLE_PARTS = [
    b"r\xff\xff\xff\x7f", b"p99999999999\n", b"B\xff\xff\xff\xff", b"\x8e" + struct.pack("<Q", 2**62),
    b"\x96" + struct.pack("<Q", 2**33), b"X\xff\xff\xff\xff", b"T\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f",
    b"\x95" + struct.pack("<Q", 2**62), b"I" + b"9" * 5000 + b"\n", b"L" + b"9" * 100_000 + b"L\n", b"(" * 100_000,
    b"cos\nsystem\n(U\x1atouch /tmp/kcifar-fuzz-outsidetR.", b"cbuiltins\neval\n(U\x03a+btR", b"Pid\n", b"U\2idQ",
    b"cnumpy\nndarray\n)R", b"cnumpy.core.multiarray\n_reconstruct\n}U\x0b__globals__}s\x86b", b"2" * 50, b"0" * 50,
    b"e", b"u", b"s", b"b", b"R", b"o", b".", b"\x81", b"\x92", b"]" * 50_000 + b"a" * 49_999, b"N\x85" * 50_000,
    b"c_codecs\nencode\nX\1\0\0\0aX\6\0\0\0latin1\x86R", b"h\xff", b"\x8f\x90", b"\x97\x98", b"\x82\1",
]  # fmt: skip


def tangled_pickle(rng):
    """A few bytes that stand for very much, since all they hold is the same few objects."""
    deep = rng.choice([12, 40])
    tuples, lists = (), []
    for _ in range(deep):
        tuples, lists = (tuples,) * 10, [lists] * 10
    number = (rng.choice([0, 1]), b"x") if rng.random() < 0.5 else b"label_names"
    values = [{b"label_names": lists}, {b"label_names": tuples}, {b"data": lists, b"labels": tuples}, lists, tuples]
    parts = [pickle.dumps(value, rng.choice([2, 4])) for value in values]
    # A key whose hash takes for ever is none that Python itself could write.
    key = pickle.dumps(tuples, 2)[2:-1]
    parts += [b"\x80\2}" + key + b"K\1s.", b"\x80\2}" + pickle.dumps(number, 2)[2:-1] + key + b"s."]
    parts += [b"\x80\2cnumpy\ndtype\n" + key + b"R.", b"\x80\2cnumpy\ndtype\n" + key + b"\x85R."]
    return rng.choice(parts)


def claiming_torch(rng):
    """A file of torch.save: of tensors that have more values than bytes, of the same few objects again and again."""
    import torch

    base, small = torch.zeros(1), torch.zeros(2, 2)
    contents = [
        {"conv1.weight": base.expand(2**32)}, {"conv1.weight": base.half().expand(2**33)},
        {"a": dict.fromkeys(map(str, range(50_000)), 3)}, {"model": [[{}]] * 9, "\x1b[31m" * 9: small},
        {"A" * 2**20: small}, {"a": small.to_sparse()}, {1: small}, {"a": small.to(torch.complex64)},
        {f"model{number}": {"w": small} for number in range(3000)}, _tangled({}), _tangled({"weight": small}),
        {"a": base.as_strided((0, 2**62), (1, 1)), "b": small},
    ]  # fmt: skip
    file = io.BytesIO()
    torch.save(rng.choice(contents), file, _use_new_zipfile_serialization=rng.random() < 0.5)
    return file.getvalue()


def _tangled(inside):
    for _ in range(3):
        inside = {f"k{number}": inside for number in range(1000)}
    return inside


_SIDE = 9400  # 88 million pixels: as many as Pillow reads without a warning
_LARGE = (
    ("RGBA", (_SIDE, _SIDE), "PNG"), ("LA", (_SIDE, _SIDE), "PNG"), ("I;16", (_SIDE, _SIDE), "PNG"),
    ("P", (_SIDE, _SIDE), "PNG"), ("RGB", (_SIDE, _SIDE), "WEBP"), ("RGB", (_SIDE, _SIDE), "TIFF"),
    ("CMYK", (_SIDE, _SIDE), "TIFF"), ("L", (_SIDE, _SIDE), "GIF"), ("1", (1, 2**26), "PNG"),
    ("L", (20_000, 20_000), "PNG"), ("RGB", (_SIDE, _SIDE), "JPEG"),
)  # fmt: skip


def claiming_image(rng):
    """An image of many pixels in few bytes, or a header that claims them."""
    if rng.random() < 0.1:
        return large_image(*rng.choice(_LARGE))
    return rng.choice([
        _png(2**31 - 1, 1), _png(60_000, 60_000), _png(9000, 9000), _png(1, 1, b"zTXt", b"a\0\0" + _inflating(2**28)),
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, 9000, -9000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;",
        b"P6 9000 9000 255\n", b"P6 " + b"9" * 5000 + b" 1 255\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(12) * 65535,
    ])  # fmt: skip


@functools.cache
def large_image(mode, sides, form):
    """A black image, encoded."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS, before = None, Image.MAX_IMAGE_PIXELS
    file = io.BytesIO()
    extra = {"transparency": 0} if mode == "P" else {"compression": "tiff_deflate"} if form == "TIFF" else {}
    try:
        Image.new(mode, sides).save(file, form, **extra)
    finally:
        Image.MAX_IMAGE_PIXELS = before
    return file.getvalue()


@functools.cache
def _inflating(size):
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(_BLOCK)) for _ in range(size // _BLOCK)) + packer.flush()


def _png(width, height, kind=b"tEXt", more=b"a\0b"):
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (kind, more),
        (b"IDAT", b"x\x9c\3\0\0\0\0\1"),
    ]
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body
