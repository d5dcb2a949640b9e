"""Printing what users bring, and where the reader of the output may be gone, as in `| head`."""

import functools
import os
import sys


def say(text):
    """Prints a line at once; from the moment that nobody reads it, to nowhere."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()


def warn(text):
    """Prints a warning on stderr, in a line."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


@functools.cache
def warn_once(text):
    """`warn`, the first time alone."""
    warn(text)


def drop_output():
    """Sends all further output to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text):
    """The text with its line breaks, control characters and undecodable bytes as escapes: one line on any terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
