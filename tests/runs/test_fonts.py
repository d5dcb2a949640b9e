"""Names in any script: with fonts that have their signs where the system has such, else it is said once."""

import pytest
from matplotlib.figure import Figure

from kcifar.runs import figures, fonts

pytestmark = pytest.mark.once

RARE = "\u02ef"  # which a font that matplotlib brings along has, and the usual one has not


@pytest.fixture(autouse=True)
def forget():
    fonts.families.cache_clear()
    fonts._told.clear()


def test_a_font_is_added_where_the_usual_one_lacks_a_sign(tmp_path, capsys):
    assert fonts.families("cat, Katze, кошка") == ([], set())
    (name,), missing = fonts.families(f"a{RARE}")
    assert not missing
    assert name != "DejaVu Sans"
    figure = Figure()
    text = figure.text(0, 0, RARE)
    with fonts.fitting(figure):
        assert text.get_fontfamily() == ["DejaVu Sans", name]
    figures.save(figure, tmp_path / "a.png")  # no warning of matplotlib's
    assert capsys.readouterr().err == ""


def test_signs_that_no_font_has_are_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fonts, "_fonts", lambda: ())
    for name in ("a", "b"):
        figure = Figure()
        figure.text(0.5, 0.5, f"漢{name}")
        figures.save(figure, tmp_path / f"{name}.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: no font here has '漢': in pictures such names are boxes")
