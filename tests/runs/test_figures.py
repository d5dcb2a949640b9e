"""The pictures of a run: of few classes and of many, of grey images, with names that mean something to matplotlib."""

import numpy as np
import pytest

from kcifar.data import Split
from kcifar.runs import figures
from kcifar.runs.report import pictures

pytestmark = pytest.mark.once


def names(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def matrix(classes):
    """Each class is right 6 times of 10, and else taken for the next."""
    return 6 * np.eye(classes, dtype=int) + 4 * np.roll(np.eye(classes, dtype=int), 1, axis=1)


@pytest.mark.parametrize("classes", [4, 20])
def test_few_classes_have_numbers_in_their_confusion(classes, tmp_path):
    figure = figures.confusion(matrix(classes), [f"name {place}" for place in range(classes)])
    (axes,) = figure.axes
    assert sorted(text.get_text() for text in axes.texts) == ["40"] * classes + ["60"] * classes
    assert names(axes) == [f"name {place}" for place in range(classes)]


def test_a_class_without_images_has_a_dash_in_its_confusion():
    (axes,) = figures.confusion(np.diag([5, 0, 5]), ["a", "b", "c"]).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "100", (1, 1): "–", (2, 2): "100"}


@pytest.mark.parametrize(("classes", "shown"), [(21, 21), (100, 100), (300, 100)])
def test_many_classes_have_colours_and_as_many_names_as_there_is_room_for(classes, shown):
    (axes,) = figures.confusion(matrix(classes), [f"name {place}" for place in range(classes)]).axes
    assert not axes.texts
    assert names(axes)[:2] == ["name 0", f"name {classes // shown}"]
    assert len(names(axes)) == shown
    points = 72 * axes.figure.get_size_inches()[0] / shown
    assert axes.get_xticklabels()[0].get_fontsize() < points
    red, _, blue, depth = np.moveaxis(axes.images[0].get_array(), 2, 0)
    right, wrong = np.eye(classes, dtype=bool), matrix(classes) == 4
    np.testing.assert_allclose(depth, 0.6 * right + 1.0 * wrong)  # the most frequent mistake has the full colour
    assert (blue[right] > red[right]).all()
    assert (blue[wrong] < red[wrong]).all()


@pytest.mark.parametrize("name", ["$5_bill", "price_$10_to_$20", r"a\$b$", "$$", r"\frac{", "x^2_{", "a\nb"])
def test_a_name_is_text_and_no_formula(name, tmp_path):
    """Drawn, and by its length no longer than it is: a formula that cannot be read would raise an error."""
    split = Split(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), 2)
    images, labels = np.zeros((2, 8, 8, 1)), np.array([[0.5, 0.5], [0, 1]])
    for place, figure in enumerate(
        (
            figures.confusion(matrix(2), [name, "other"]),
            figures.predictions(split, np.eye(2), [name, "other"]),
            figures.transforms(split, [(images, labels)], [name, "other"]),
        )
    ):
        figures.save(figure, tmp_path / f"{place}.png")
    label = figures.confusion(matrix(2), [name, "other"]).axes[0].get_xticklabels()[0]
    shown, is_formula = label._preprocess_math(label.get_text())
    assert not is_formula
    assert shown == name.replace("\n", r"\n")


def test_a_long_name_is_cut():
    assert figures.plain("n" * 40) == "n" * 31 + "…"
    assert figures.plain("n" * 32) == "n" * 32
    assert figures.plain("漢" * 17) == "漢" * 15 + "…"  # each as wide as two
    assert figures.plain("漢" * 16) == "漢" * 16


def test_grey_images_are_shown_as_they_are():
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    split = Split(pixels, np.array([0]), 1)
    shown = figures.predictions(split, np.ones((1, 1)), ["one"]).axes[0].images[0]
    np.testing.assert_array_equal(shown.get_array(), pixels[0, ..., 0])
    assert shown.get_clim() == (0, 255)
    assert shown.get_cmap().name == "gray"


def test_the_curves_of_a_run_that_went_on_from_another_begin_where_that_was():
    figures_of = {"accuracy": 0.5, "loss": 1.0, "train_accuracy": 0.5, "train_loss": 1.0, "learning_rate": 0.1}
    rows = [{"epoch": epoch, **figures_of} for epoch in (31, 32, 33)]
    drawn = [figures.curves(rows, "last"), pictures.learning_rate(rows), pictures.comparison([("a", rows)], "accuracy")]
    assert {axes.get_xlim() for figure in drawn for axes in figure.axes} == {(30.5, 33.5)}
