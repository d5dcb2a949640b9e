"""The report as an HTML file."""

import functools

import jinja2

from kcifar.output import printable
from kcifar.runs.report import single
from kcifar.runs.report.comparison import compare


def render(runs, split, class_names, source):
    """The report of one run, or of several compared, as HTML that needs nothing else: equal bytes for equal runs.

    Args:
        runs: `Reported` of each, at least one, all on the same test images.
        split: the test images, a `kcifar.data.Split`.
        class_names: a name for each class.
        source: where the test images are from, for people to read.
    """
    overviews = [single.overview(reported, class_names) for reported in runs]
    common = {"class_names": class_names, "images": f"{len(split):,}", "source": source, "runs": overviews}
    if len(runs) > 1:
        return template("report.html.j2").render(comparison=compare(runs, split, class_names), **common)
    return template("report.html.j2").render(
        comparison=None,
        samples=single.samples(runs[0], split, class_names),
        mistakes=single.mistakes(runs[0], split, class_names),
        wrong=f"{(~runs[0].test.correct).sum():,}",
        **common,
    )


@functools.cache
def template(name):
    """A template of the folder, by the name of its file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kcifar.runs.report", "."),
        autoescape=True,
        finalize=_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _text(value):
    """What is put into the page: text without control characters, which a page may not hold. Markup is left."""
    return printable(value) if type(value) is str else value
