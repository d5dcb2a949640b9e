"""What goes to the terminal: text that users bring in it is shown as text, and its reader may be gone, as in `| head`.

Commands print by `say`, `say_json`, `note` and `warn` alone: no control character reaches a terminal by them.
"""

import contextlib
import functools
import json
import os
import re
import sys
import unicodedata

_JOINERS = "\u200c\u200d"  # within words of Persian and Indian languages, and within emoji

# Of a line that says what is wrong, and of what stands in it before a long command.
_MOST_SIGNS, _LEAST_SIGNS = 300, 180


def say(text=""):
    """Prints text at once; from the moment that nobody reads it, to nowhere.

    It may have several lines: names that may hold a line break are given as `printable`.
    """
    _print("\n".join(map(printable, str(text).split("\n"))), sys.stdout)


def say_json(value):
    """Prints a value as one JSON document, in ASCII without control characters."""
    say(json.dumps(value, indent=2).replace("\x7f", r"\u007f"))


def note(text):
    """Prints a line on stderr, for people to read."""
    _print(printable(text), sys.stderr)


def warn(text):
    """Prints a warning on stderr, in a line."""
    complain(f"warning: {text}")


@functools.cache
def warn_once(text):
    """`warn`, the first time alone."""
    warn(text)


def _print(text, stream):
    with unbroken():
        print(text, file=stream, flush=True)


@contextlib.contextmanager
def unbroken():
    """Within it output that nobody reads any more is no error, but goes to nowhere."""
    try:
        yield
    except BrokenPipeError:
        drop_output()


def complain(text, advice=""):
    """Prints what is wrong on stderr, whatever a file put into the text: one line, cut in its middle if it is long.

    Args:
        advice: how to go on, at the end of the line: it is not cut, as a command with half a path is none.
    """
    advice = f"; {printable(_from_here(advice))}" if advice else ""
    most = max(_MOST_SIGNS - len(advice), _LEAST_SIGNS)
    text = _cut(printable(_cut(_from_here(" ".join(str(text).split())), most)), most)
    _print(f"{text}{advice}", sys.stderr)


def _from_here(text):
    """The text, in which a path in the working directory is a relative one, which is shorter."""
    with contextlib.suppress(FileNotFoundError):  # it may have been deleted
        here = os.getcwd()
        return text.replace(f"{here}{os.sep}", "") if here != os.sep else text
    return text


def _cut(text, most):
    """At most so many signs of the text: what is cut first is the middle of long words, as of paths."""
    if len(text) > most:
        text = re.sub(r"\S{61,}", lambda word: f"{word[0][:20]}…{word[0][-39:]}", text)
    last = most * 2 // 5  # there stands what to do
    return text if len(text) <= most else f"{text[: most - last - 3]} … {text[-last:]}"


def drop_output():
    """Sends all further output that nobody reads to nowhere: that on stdout, and on stderr where it goes there too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def printable(text):
    """The text in one line of any terminal: control characters, as those of escape codes, of line breaks and of a
    direction of writing, and undecodable bytes are shown as their codes."""
    text = str(text)
    if text.isprintable():
        return text
    with contextlib.suppress(UnicodeEncodeError):  # bytes of a file's name, which are UTF-8 perhaps
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(map(_shown, text))


def _shown(sign):
    if sign.isprintable() or sign in _JOINERS or unicodedata.category(sign) == "Zs":
        return sign
    return sign.encode("unicode_escape").decode()


def cells(text):
    """How many places of a terminal a text takes: two of each square sign of East Asia, none of an accent."""
    from rich.cells import cell_len

    return cell_len(text)


def left(text, width):
    """The text and so many spaces behind it that both take `width` places."""
    return text + " " * (width - cells(text))


def right(text, width):
    """The text and so many spaces before it that both take `width` places."""
    return " " * (width - cells(text)) + text


def cut(text, width):
    """As much of the text as fits `width` places."""
    from rich.cells import set_cell_size

    return text if cells(text) <= width else set_cell_size(text, width).rstrip()
