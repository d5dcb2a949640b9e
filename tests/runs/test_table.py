"""Runs as a table of CSV and of LaTeX, and their figures as files: what is in them, and names that mean something."""

import csv
import dataclasses
import io
import statistics

import numpy as np
import pytest

from kcifar.evaluation.scores import Scores, wilson_interval
from kcifar.runs import figures
from kcifar.runs.report import drawings, pictures, records, table
from kcifar.runs.report.reported import Reported
from tests.data_fixtures import make
from tests.run_records import write_run

pytestmark = pytest.mark.once


def scores(right):
    """Of ten images of two classes, so many of them right."""
    probabilities = [[0.8, 0.2] if place < right else [0.2, 0.8] for place in range(10)]
    return Scores(np.log(probabilities), np.zeros(10, np.int64))


def reported(path, right, **options):
    run = write_run(path, right / 10, **options)
    return Reported(run, records.metrics(run), scores(right))


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one recipe, one with other epochs, and one on the other backend."""
    seeds = [reported(tmp_path / name, right, seed=seed) for seed, (name, right) in enumerate(NAMED.items())]
    other = reported(tmp_path / "c", 9, overrides=["epochs=3", "select_on=last"])
    return [*seeds, other, reported(tmp_path / "jax", 2, backend="jax")]


NAMED = {"=SUM(A1)": 5, "[a]_b&%$#{}~^\\---": 6, "@x": 8}


def test_a_row_for_each_run_and_one_for_those_of_several_seeds(runs):
    found = list(csv.DictReader(io.StringIO(table.csv_text(table.rows(runs)))))
    assert list(found[0]) == table.COLUMNS
    assert [row["rows"] for row in found] == ["run"] * 5 + ["seeds"]
    assert [row["test_accuracy"] for row in found[:5]] == ["0.5", "0.6", "0.8", "0.9", "0.2"]
    assert float(found[0]["low"]) == wilson_interval(0.5, 10)[0]
    assert [row["differences"] for row in found[2:4]] == ["epochs=200 select_on=test", "epochs=3 select_on=last"]
    seeds = found[-1]
    assert (seeds["seed"], seeds["n"], seeds["selected_on"]) == ("0 1 2", "3", "test")
    deviation = statistics.stdev([0.5, 0.6, 0.8])
    assert float(seeds["test_accuracy"]) == pytest.approx(1.9 / 3)
    assert float(seeds["test_accuracy_std"]) == pytest.approx(deviation)
    assert float(seeds["high"]) == pytest.approx(1.9 / 3 + 4.3027 * deviation / 3**0.5, abs=1e-5)
    assert float(seeds["images_per_second"]) == 1001
    assert seeds["validation_accuracy"] == ""


def test_a_run_that_has_not_ended_counts_for_itself_alone(runs):
    runs[2].run.metrics.unlink()
    found = table.rows(runs)
    assert [row["rows"] for row in found] == ["run"] * 5 + ["seeds"]
    assert found[-1]["seed"] == "0 1"


def test_the_same_seed_twice_counts_once(tmp_path):
    twice = [reported(tmp_path / name, right, seed=seed) for name, right, seed in (("a", 5, 0), ("b", 6, 0))]
    assert len(table.rows(twice)) == 2
    third = reported(tmp_path / "c", 7, seed=1)
    assert table.rows([*twice, third])[-1]["test_accuracy"] == pytest.approx(0.65)
    earlier = reported(tmp_path / "d", 1, seed=0, started="2026-11-29T12:00:00+00:00")
    assert table.rows([*twice, third, earlier])[-1]["test_accuracy"] == pytest.approx(0.65)
    elsewhere = reported(tmp_path / "e", 1, seed=2, device="H200")
    assert table.rows([*twice, third, elsewhere])[-1]["n"] == 2


def test_however_the_training_was_started_its_recipe_is_known(tmp_path):
    """`kcifar train`, `python -m kcifar.train`, `python -m kcifar train`."""
    commands = [["kcifar", "train"], ["train.py"], ["__main__.py", "train"]]
    command = [[*start, "recipes/mixup.py", "--seed", "0"] for start in commands]
    runs = [reported(tmp_path / str(seed), 5, seed=seed, command=each) for seed, each in enumerate(command)]
    assert [row["recipe"] for row in table.rows(runs)] == ["mixup"] * 4
    runs = [reported(tmp_path / "evaluated", 5, command=["kcifar", "evaluate", "mixup.py"])]
    assert table.rows(runs)[0]["recipe"] == "evaluated"


def test_no_name_is_a_formula_of_a_spreadsheet(runs):
    found = list(csv.DictReader(io.StringIO(table.csv_text(table.rows(runs)))))
    assert [row["run"] for row in found] == ["'=SUM(A1)", "[a]_b&%$#{}~^\\---", "'@x", "c", "jax", ""]


def test_latex(runs):
    text = table.latex_text(table.rows(runs), "a_b & 100 %\nof it")
    lines = text.splitlines()
    assert lines[0] == r"% Needs \usepackage{booktabs}. Test images: a_b & 100 %\nof it"
    name = r"{[}a{]}\_b\&\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}-{}-{}-$^{*}$"
    (row,) = [line for line in lines if line.startswith("{[}a")]
    assert row.split(" & ")[:4] == [name, r"epochs=200 select\_on=test", "1", "60.00"]
    rules = [line for line in lines if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    seeds = lines[lines.index(r"\bottomrule") - 1].removesuffix(r" \\").split(" & ")
    assert seeds[2:5] == ["0--2 ($n = 3$)", r"$63.33 \pm 15.28$", "25.39--101.28"]
    assert lines[-2].startswith(r"\multicolumn{7}{l}{$^{*}$ epoch chosen on the test set itself")
    assert lines[-1] == r"\end{tabular}"
    columns = lines[2].removeprefix(r"\begin{tabular}{").removesuffix("}")
    assert all(line.count(" & ") == len(columns) - 1 for line in lines if " & " in line and line[0] not in "%\\")


def test_figures_are_files_with_text_and_without_a_date(tmp_path):
    dataset = make(names=("cat", "$5"))
    dataset = dataclasses.replace(dataset, test=dataset.test.take(slice(10)))
    run = reported(tmp_path / "run", 6)
    first = {path: path.read_bytes() for path in drawings.draw([run], dataset, "pdf", tmp_path / "report.html")}
    names = ["curves", "learning_rate", "classes", "confusion", "predictions", "reliability"]
    assert list(first) == [tmp_path / "run" / f"{name}.pdf" for name in names]
    for content in first.values():
        assert b"Date" not in content
        assert b"/FontFile2" in content  # TrueType
        assert b"/Type3" not in content
    again = tmp_path / "run" / "predictions.pdf"
    pictures.save(again, figures.predictions, dataset.test, run.test.probabilities, dataset.class_names)
    assert again.read_bytes() == first[again]


def test_figures_of_several_runs_compare_them_beside_the_page(runs, tmp_path):
    paths = drawings.draw(runs, None, "svg", tmp_path / "all.html")
    assert paths == [tmp_path / "all-test_accuracy.svg"]
    written = paths[0].read_text(encoding="utf-8")
    assert "=SUM(A1)</text>" in written
    assert "date>" not in written
    assert "#010203" not in written  # the ink of the page
    drawings.draw(runs, None, "svg", tmp_path / "all.html")
    assert paths[0].read_text(encoding="utf-8") == written
