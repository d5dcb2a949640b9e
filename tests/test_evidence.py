"""What benchmarks/evidence.py keeps of runs, and the tables that it writes from it."""

import importlib
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from kcifar import recipe
from kcifar.runs.folder import RunFolder
from tests.run_records import RECIPE, write_run

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
TEXT = "# Results\n    <!-- evidence: an example -->\n<!-- evidence: recipe=mixup -->\n<!-- end -->\nafter\n"


@pytest.fixture
def evidence(monkeypatch, tmp_path):
    """The program, in a folder of its own."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("evidence")


@pytest.fixture
def kept(evidence, capsys):
    """Calls the program with these results; its exit code, stdout and stderr."""

    def call(*arguments):
        code = evidence.main([*map(str, arguments), "--results", "results"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def seeds(tmp_path):
    """A folder of three seeds, in folders of folders, with accuracies of 70, 72 and 74 %."""
    for seed, accuracy in enumerate((0.70, 0.72, 0.74)):
        write_run(tmp_path / "runs" / "deep" / f"seed{seed}", accuracy, ["epochs=30"], seed)
    return tmp_path / "runs"


def files(folder="results"):
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_what_is_kept_of_a_run(kept, tmp_path):
    write_run(tmp_path / "run", 0.7, ["epochs=30", "transforms.MixUp.alpha=0.2"], 7, uncommitted_changes=True)
    code, out, err = kept("run")
    assert (code, err) == (0, "")
    path = Path(out.strip())
    assert path.parent == Path("results/mixup/2026-11-30-aaaaaaa")
    assert path.name.startswith("seed7-")
    found = json.loads(path.read_text())
    assert found["overrides"] == ["transforms.MixUp.alpha=0.2", "epochs=30"]
    assert (found["seed"], found["data"], found["data_sha256"][:7]) == (7, "cifar-10-batches-py", "02f0c53")
    assert found["versions"] == {"kcifar": "0.1.0", "python": "3.11.7", "keras": "3.15.1", "numpy": "2.4.6",
                                 "torch": "2.13.0"}  # fmt: skip
    assert (found["seconds"], found["images_per_second"], found["device"]) == (50, 1007, "cpu")
    assert found["epochs"] == {"epoch": [1, 2], "learning_rate": [0.001, 0.0013], "loss": [2.30259, 1.5],
                               "test_accuracy": [0.5, 0.7]}  # fmt: skip
    assert found["metrics"]["test_accuracy"] == 0.7
    assert (found["uncommitted_changes"], found["started"]) == (True, "2026-11-30T12:00:00+00:00")
    assert "/home/" not in path.read_text()


def test_the_command_makes_the_same_recipe(kept, tmp_path):
    run = write_run(tmp_path / "run", 0.7, ["epochs=30", "optimizer=SGD(learning_rate=0.1)"], 7, backend="jax")
    found = json.loads(Path(kept("run")[1].strip()).read_text())
    variable, *words = shlex.split(found["command"])
    assert variable == "KERAS_BACKEND=jax"
    assert words[:4] == ["python", "-m", "kcifar.train", "recipes/mixup.py"]
    *overrides, option, data = words[4:]
    assert (option, data) == ("--data", "cifar-10-batches-py")
    assert recipe.load(RECIPE).override([*overrides, f"data={run.recipe.data}"]) == run.recipe


def test_the_same_run_is_the_same_file_wherever_it_lies(kept, seeds):
    assert kept(seeds)[0] == 0
    first, times = files(), {path: Path(path).stat().st_mtime_ns for path in files()}
    assert len(first) == 3
    shutil.copytree(seeds / "deep" / "seed1", "elsewhere")
    assert kept(seeds, "elsewhere")[0] == 0
    assert files() == first
    assert {path: Path(path).stat().st_mtime_ns for path in first} == times


def test_of_a_run_that_does_not_say_when_it_began_the_end_counts(kept, tmp_path):
    run = write_run(tmp_path / "run", 0.7, started=None, commit=None)
    os.utime(run.metrics, (1_700_000_000, 1_700_000_000))
    assert kept("run")[1].startswith("results/mixup/2023-11-14-0.1.0/seed0-")


def test_a_run_that_has_not_ended_is_left_out_and_said(kept, seeds):
    (seeds / "deep" / "seed1" / "metrics.json").unlink()
    code, out, err = kept(seeds)
    assert (code, out.count("\n")) == (0, 2)
    assert err == f"evidence: left out: '{seeds / 'deep' / 'seed1'}' has not ended\n"


def test_a_table_of_three_seeds_by_hand(kept, seeds):
    write_run(seeds / "other", 0.5, ["epochs=2"], 42)
    kept(seeds)
    Path("page.md").write_text(TEXT)
    assert kept("--tables", "page.md") == (0, "page.md\n", "")
    lines = Path("page.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    # 4.3027 · 2 / √3 = 4.97
    one, several = [dict(zip(lines[4].strip("| ").split(" | "), row, strict=True)) for row in rows]
    assert several["overrides"] == "`epochs=30`"
    assert several["test accuracy"] == "72.00 ± 2.00 %"
    assert several["95 % interval"] == "67.03 to 76.97 %"
    assert (several["n"], several["seeds"], several["images/s"]) == ("3", "0–2", "1,001")
    assert (several["epoch chosen on"], several["commit"]) == ("test", "`aaaaaaa`")
    assert (one["test accuracy"], one["95 % interval"], one["n"]) == ("50.00 %", "–", "1")
    assert "the accuracy is not an honest estimate" in Path("page.md").read_text()
    assert lines[-2:] == ["<!-- end -->", "after"]
    assert kept("--tables", "page.md") == (0, "", "")  # as it was


def test_a_check_fails_where_a_number_is_another(kept, seeds):
    kept(seeds)
    Path("page.md").write_text(TEXT)
    kept("--tables", "page.md")
    assert kept("--tables", "--check", "page.md") == (0, "", "")
    written = Path("page.md").read_text()
    Path("page.md").write_text(written.replace("72.00 ±", "72.01 ±"))
    code, _, err = kept("--tables", "--check", "page.md")
    assert (code, err.count("\n")) == (2, 1)
    assert "'page.md', line 7: the table is not what 'results' says" in err
    assert "72.01" in Path("page.md").read_text()
    Path("page.md").write_text(written)
    path = Path(min(files()))
    path.write_text(path.read_text().replace('"test_accuracy": 0.7', '"test_accuracy": 0.8'))
    assert kept("--tables", "--check", "page.md")[0] == 2


def test_of_a_seed_that_there_is_twice_the_run_begun_last_counts(kept, seeds):
    write_run(seeds / "again", 0.80, ["epochs=30"], 2, started="2026-12-01T00:00:00+00:00", commit="b" * 40)
    kept(seeds)
    Path("page.md").write_text(TEXT)
    kept("--tables", "page.md")
    assert "| 74.00 ± 5.29 % |" in Path("page.md").read_text()  # 70, 72 and 80
    assert "| `aaaaaaa`, `bbbbbbb` |" in Path("page.md").read_text()


def test_other_data_backends_and_devices_have_rows_of_their_own(kept, seeds):
    for place, other in enumerate(({"backend": "jax"}, {"device": "H200"}, {"data_sha256": "f" * 64, "data": "a|`b"})):
        write_run(seeds / f"other{place}", 0.5, ["epochs=30"], 3, **other)
    kept(seeds)
    Path("page.md").write_text(TEXT)
    kept("--tables", "page.md")
    text = Path("page.md").read_text()
    assert text.count("| 50.00 % | – |") == 3
    assert r"| `` a\|`b `` `fffffff` |" in text
    Path("page.md").write_text(TEXT.replace("mixup", "mixup data=cifar-10-batches-py"))
    kept("--tables", "page.md")
    assert Path("page.md").read_text().count("| 50.00 % | – |") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no run is given"),
        (["none"], "'none' is not there; expected a folder that kcifar.train wrote"),
        (["empty"], "'empty' has no run in it"),
        (["page.md"], "'page.md' is a file"),
        (["begun"], "none of the runs has ended"),
        (["cut"], "metrics.json' is damaged"),
        (["code"], "recipe.py' is no literal recipe"),
        (["good", "--results", "page.md/results"], "cannot read or write"),
        (["--check"], "--check is of tables"),
        (["--tables", "none.md"], "there is no 'none.md'"),
        (["--tables", "latin.md"], "'latin.md' cannot be read"),
        (["--tables", "open.md"], "'open.md', line 1: the table has no end"),
        (["--tables", "unknown.md"], "line 1: of the recipe 'mixpu' there are no results; did you mean 'mixup'?"),
        (["--tables", "key.md"], "line 1: 'recpie=mixup' is no part of a table's line; did you mean 'recipe'?"),
        (["--tables", "none-said.md"], "line 1: it is not said which recipe"),
        (["--tables", "data.md"], "with data=demo"),
        (["--tables", "page.md", "--results", "nowhere"], "there are none in 'nowhere'"),
        (["--tables", "page.md", "--results", "damaged"], "seed0.json' is damaged (Expecting"),
        (["--tables", "page.md", "--results", "numbered"], "seed0.json' is damaged (overrides are [3])"),
        (["--tables", "page.md", "--results", "worded"], "seed0.json' is damaged (test_accuracy is 'high')"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(evidence, kept, tmp_path, capsys, arguments, said):
    run = write_run(tmp_path / "good", 0.7)
    assert kept("good")[0] == 0
    for name in ("begun", "cut", "code"):
        shutil.copytree(run.path, name)
    RunFolder("begun").metrics.unlink()
    RunFolder("cut").metrics.write_text("{")
    RunFolder("code").recipe_source.write_text("raise SystemExit('it was run')")
    Path("empty").mkdir()
    begin = "<!-- evidence: recipe=mixup -->\n"
    for name, text in {
        "page": TEXT,
        "open": begin + TEXT,
        "unknown": begin.replace("mixup", "mixpu") + "<!-- end -->",
        "key": begin.replace("recipe", "recpie") + "<!-- end -->",
        "none-said": "<!-- evidence: -->\n<!-- end -->",
        "data": begin.replace("mixup", "mixup data=demo") + "<!-- end -->",
    }.items():
        Path(f"{name}.md").write_text(text)
    Path("latin.md").write_bytes(b"\xe9")
    (written,) = files().values()
    for name, text in (
        ("damaged", "{"),
        ("numbered", written.decode().replace('"overrides": []', '"overrides": [3]')),
        ("worded", written.decode().replace("0.7,", '"high",', 1)),
    ):
        path = Path(name, "mixup", "2026-11-30-aaaaaaa", "seed0.json")
        path.parent.mkdir(parents=True)
        path.write_text(text)
    before = files(".")
    results = [] if "--results" in arguments else ["--results", "results"]
    assert evidence.main([*arguments, *results]) == 2
    said_on = capsys.readouterr()
    assert said in said_on.err
    assert said_on.err.splitlines()[-1].startswith("evidence: ")
    assert len([line for line in said_on.err.splitlines() if "left out" not in line]) == 1
    assert files(".") == before


def test_the_tables_of_this_repository_are_what_its_results_say(evidence):
    assert evidence.main(["--tables", "--check"]) == 0


def test_a_name_of_a_recipe_leads_nowhere_else(kept, tmp_path):
    """Of a recipe's file called "...py"."""
    write_run(tmp_path / "run", 0.7, command=["train.py", "a/...py"])
    assert kept("run")[0] == 0
    assert all(path.startswith("results/_./2026-") for path in files())
