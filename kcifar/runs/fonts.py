"""Fonts for names in any script: of those on the system the ones that have their signs."""

import contextlib
import functools
import logging
import warnings

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from kcifar.output import warn

_USUAL = "DejaVu Sans"  # which matplotlib brings along
_told = set()  # signs of which it was said that no font has them


@contextlib.contextmanager
def fitting(figure):
    """Gives each text in a figure, which is drawn within it, fonts that have its signs.

    Where no font on the system has some, a warning says so once, in the place of matplotlib's own for each.
    """
    missing = set()
    for text in figure.findobj(Text):
        extra, boxes = families(text.get_text())
        missing |= boxes
        if extra:
            text.set_fontfamily([_USUAL, *extra])
    if missing - _told:
        _told.update(missing)
        signs = "".join(sorted(missing)[:5])
        warn(f"no font here has '{signs}': in pictures such names are boxes; install one, as fonts-noto-cjk")
    log = logging.getLogger("matplotlib.font_manager")  # which tells of weights that a font has not
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from font", UserWarning)
            yield
    finally:
        log.setLevel(level)


@functools.lru_cache(maxsize=4096)
def families(text):
    """The names of fonts that have what of a text the usual font has not, as few as are found in their order, and a
    set of the signs that none has."""
    missing = set(text) - {"\n"} - _signs(font_manager.findfont(_USUAL))
    chosen = []
    for font in _fonts() if missing else ():
        if found := missing & _signs(font.fname):
            chosen.append(font.name)
            missing -= found
        if not missing:
            break
    return chosen, missing


@functools.cache
def _fonts():
    """Those on the system: upright and of usual weight first, those for many scripts before others, none of boxes."""

    def place(font):
        return font.style != "normal", font.weight != 400, "Noto" not in font.name, font.name

    return sorted((font for font in font_manager.fontManager.ttflist if "Last Resort" not in font.name), key=place)


@functools.cache
def _signs(path):
    try:
        return {chr(code) for code in FT2Font(path).get_charmap()}
    except (OSError, RuntimeError):  # a damaged font
        return set()
