"""The error that a user caused and can mend."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that says what was received, what was expected and what to do. The commands print it
    on stderr and exit with code 2; in a notebook it is an ordinary `ValueError`.
    """


def nearest(name, known):
    """What to add to a message about an unknown name: the nearest known one if there is one, else all of them."""
    import difflib

    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def one_line(error):
    """The text of another library's error in one line, cut where it is long; without a text, the name of its kind."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def some(texts, most=12):
    """The first of these texts, joined by commas, and how many more there are."""
    texts = list(texts)
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
