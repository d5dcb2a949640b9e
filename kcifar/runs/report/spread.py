"""What several runs say together: mean, standard deviation and interval over their seeds."""

import dataclasses
import math
import statistics

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure of runs that differ in the seed alone.

    Attributes:
        n: how many runs.
        mean: of the figure.
        deviation: the sample standard deviation, with n − 1 in the denominator; None of a single run.
        interval: (low, high) in which the mean over all seeds lies, by Student's t (1908) at 95 %: mean ± t·s/√n with
            n − 1 degrees of freedom. It takes the figure as normally distributed, is not cut at 0 and 1, and covers the
            choice of the seeds, not that of the images. None of a single run.
    """

    n: int
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def spread(figures):
    """The `Spread` of the figures of runs, at least one."""
    figures = list(map(float, figures))
    mean = statistics.mean(figures)
    if len(figures) == 1:
        return Spread(1, mean, None, None)
    from scipy.special import stdtrit  # takes a second

    # A loss may be infinite.
    deviation = statistics.stdev(figures) if math.isfinite(mean) else math.nan
    half = float(stdtrit(len(figures) - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(len(figures))
    return Spread(len(figures), mean, deviation, (mean - half, mean + half))


def ranges(numbers):
    """Whole numbers in short: "0–2, 5" of 0, 1, 2 and 5."""
    found = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(
        str(low) if low == high else f"{low}{'–' if high > low + 1 else ', '}{high}" for low, high in found
    )
