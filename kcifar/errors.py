"""The error that a user caused and can mend."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that says what was received, what was expected and what to do. The commands print it
    on stderr and exit with code 2; in a notebook it is an ordinary `ValueError`.

    Attributes:
        advice: how to go on, with which the message ends, where it is a command: it is shown whole.
    """

    def __init__(self, message, advice=""):
        super().__init__(f"{message}; {advice}" if advice else message)
        self.advice = advice


class ProcessLost(InputError):
    """Another of several processes that train together has ended, so this one cannot go on."""


SYNONYMS = {"lr": "learning_rate", "weight_decay": "l2", "wd": "l2"}
"""What others call what kcifar, after Keras, calls otherwise."""

_MOST_COMPARED = 200  # characters of a name: those of a text of megabytes would take gigabytes


def nearest(name, known, cutoff=0.6):
    """What to add to a message about an unknown name: the nearest known one if there is one, else all, or the first.

    Args:
        cutoff: how alike they have to be, from 0 to 1.
    """
    import difflib

    known, name = list(known), name[:_MOST_COMPARED]
    alike = [SYNONYMS[name]] if SYNONYMS.get(name) in known else known
    close = difflib.get_close_matches(name, alike, n=1, cutoff=0.0 if alike is not known else cutoff)
    return f"did you mean '{close[0]}'?" if close else f"known: {some(known, 20)}"


def one_line(error):
    """The text of another library's error in one line, cut where it is long; without a text, the name of its kind."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def some(texts, most=12):
    """The first of these texts, joined by commas, and how many more there are."""
    texts = list(texts)
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
