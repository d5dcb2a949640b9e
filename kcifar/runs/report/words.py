"""Numbers and names as a report's reader sees them."""

import math

UNKNOWN = "–"


def percent(fraction, digits=2):
    """A fraction as a percentage, "85.51 %" with a space that does not break; UNKNOWN for None and NaN."""
    return UNKNOWN if _unknown(fraction) else f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"


def number(value, form=","):
    """A number in Python's format; UNKNOWN for None and NaN."""
    return UNKNOWN if _unknown(value) else format(value, form)


def interval(bounds):
    """Two fractions as percentages, "84.8–86.2 %"."""
    return "{:.1f}–{:.1f}\N{NO-BREAK SPACE}%".format(*(100 * bound for bound in bounds))


def duration(seconds):
    """Seconds as "2 h 5 min", "13 min 29 s" or "5.7 s"; UNKNOWN for None and NaN."""
    if _unknown(seconds):
        return UNKNOWN
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def mebibytes(count):
    """Bytes as "965 MiB"; UNKNOWN for None."""
    return UNKNOWN if _unknown(count) else f"{count / 2**20:,.0f} MiB"


def arithmetic(flops):
    """Floating-point operations as "0.214 PFLOP"; UNKNOWN for None."""
    if _unknown(flops):
        return UNKNOWN
    scale, unit = next(found for found in _FLOPS if flops >= 0.1 * found[0] or found is _FLOPS[-1])
    return f"{flops / scale:,.3g} {unit}"


_FLOPS = (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")


def value(field):
    """A recipe's value as an override writes it, and a list of components one after the other."""
    if isinstance(field, tuple):
        return ", ".join(map(str, field)) or "none"
    return "none" if field is None else str(field).lower() if isinstance(field, bool) else str(field)


def _unknown(figure):
    return figure is None or not math.isfinite(figure)
