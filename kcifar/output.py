"""Printing what users bring, and where the reader of the output may be gone, as in `| head`."""

import functools
import os
import sys

# Of a line that says what is wrong, and of its end, where it is longer: there stands what to do.
_MOST_SIGNS, _LAST_SIGNS = 300, 120


def say(text):
    """Prints a line at once; from the moment that nobody reads it, to nowhere."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()


def warn(text):
    """Prints a warning on stderr, in a line."""
    complain(f"warning: {text}")


@functools.cache
def warn_once(text):
    """`warn`, the first time alone."""
    warn(text)


def complain(text):
    """Prints what is wrong on stderr, whatever a file put into the text: one line, cut in its middle if it is long."""
    text = _cut(printable(_cut(" ".join(text.split()))))
    print(text, file=sys.stderr, flush=True)


def _cut(text):
    if len(text) <= _MOST_SIGNS:
        return text
    return f"{text[: _MOST_SIGNS - _LAST_SIGNS - 3]} … {text[-_LAST_SIGNS:]}"


def drop_output():
    """Sends all further output to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text):
    """The text with its line breaks, control characters and undecodable bytes as escapes: one line on any terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
