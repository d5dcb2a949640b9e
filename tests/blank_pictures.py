"""Figures that are made, but not drawn, which is half of a short run."""

import contextlib
from pathlib import Path
from unittest import mock

from matplotlib.figure import Figure
from PIL import Image


def _savefig(figure, file, *, format="png", **options):
    if format == "svg":
        content = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
        Path(file).write_bytes(content) if isinstance(file, str) else file.write(content)
    else:
        Image.new("L", (1, 1)).save(file, format)


@contextlib.contextmanager
def blanked():
    """Within it every picture is blank."""
    with (
        mock.patch.object(Figure, "savefig", _savefig),
        mock.patch.object(Figure, "findobj", return_value=[]),  # of texts, whose fonts nobody looks at
    ):
        yield
