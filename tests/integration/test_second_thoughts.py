"""What people do after a first run: edit, repair, filter, ask for more. Nothing is passed off."""

import json
import shutil

import pytest

from tests.conftest import TINY, command

MINE = """\
from harness.api import DenoiserForm, register_precond

@register_precond("mine")
class Mine(DenoiserForm):
    def outer(self, t, s):
        return 1 - s / t, s / t
"""


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A grid of ctm and a plugin of one's own, run."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "mine.py").write_text(MINE)
    text = TINY.replace("[ctm, analytic]", "[ctm, mine]").replace("[10, 25]", "[10]")
    (folder / "tiny.yaml").write_text(text)
    results = f"results={folder / 'results'}"
    words = ["run", "--matrix", folder / "tiny.yaml", "--plugin", folder / "mine.py"]
    process = command(*words, "--set", results)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert "one seed: its noise is unknown" in err
    return folder


@pytest.fixture
def done(once, tmp_path):
    """A copy of it, and how to go on with it."""
    folder = shutil.copytree(once, tmp_path / "copy")
    words = ["--matrix", folder / "tiny.yaml", "--results", folder / "results"]
    return folder, [*words, "--plugin", folder / "mine.py"]


def run_of(folder, name):
    (run,) = (folder / "results" / "runs").glob(f"{name}-*")
    return run


def test_an_edited_plugin_is_told(done):
    folder, words = done
    mine = folder / "mine.py"
    for verb in ("plan", "run"):
        assert "was edited" not in say(verb, *words)[2]
    mine.write_text(mine.read_text().replace("s / t, s / t", "s / t, 1 - (1 - s / t)"))
    for verb in ("plan", "run"):
        code, _, err = say(verb, *words)
        assert code == 0
        assert "the file of precond mine was edited since 1 of these runs" in err
    mine.write_text(mine.read_text().replace("    def outer", "    revision = 2\n\n    def outer"))
    assert "was edited" not in say("plan", *words)[2]


MEASURED = """\
from harness.api import Extractor, Metric, register_extractor, register_metric

@register_metric("spread")
class Spread(Metric):
    def compute(self, generated, reference):
        return float((generated.var(0).sum() / reference.var(0).sum()).log().abs())

@register_extractor("radius")
class Radius(Extractor):
    def __call__(self, samples):
        return samples.flatten(1).double().norm(dim=1, keepdim=True)
"""


def test_an_edited_metric_is_told_and_its_numbers_are_not_mixed_in_silence(done):
    folder, words = done
    file = folder / "measured.py"
    file.write_text(MEASURED)
    words = [*words, "--plugin", file, "--set", "axes.precond=[ctm]", "--set", "name=measured"]
    words += ["--set", "evaluate.metrics=[spread]", "--set", "evaluate.extractors=[radius]"]
    code, out, err = say("run", *words)
    assert (code, "was edited" in out + err) == (0, False), err
    rows = (run_of(folder, "ctm") / "eval.jsonl").read_text().splitlines()
    (digest,) = {json.loads(row)["plugins"]["metric spread"] for row in rows if "spread" in row}
    assert all("plugins" not in json.loads(row) for row in rows if "spread" not in row)

    file.write_text(MEASURED.replace(".log().abs()", ".log().abs() * 2"))
    code, _, err = say("plan", *words)
    assert code == 0
    for plugin in ("metric spread", "extractor radius"):
        assert f"the file of {plugin} was edited since 1 of these runs" in err
    code, out, err = say("run", *words, "--set", "evaluate.nfe=[1, 2, 3]")
    assert "made with 2 versions of it" in err
    found = [json.loads(row) for row in (run_of(folder, "ctm") / "eval.jsonl").open()]
    versions = {row["nfe"]: row["plugins"]["metric spread"] for row in found if "plugins" in row}
    assert versions[1] == versions[2] == digest != versions[3]
    assert "2 versions" in say("report", folder / "results", "--table", "coverage")[1]

    text = file.read_text()  # as the note says
    for kind in ("Metric", "Extractor"):
        text = text.replace(f"({kind}):\n", f"({kind}):\n    revision = 2\n")
    file.write_text(text)
    code, out, err = say("run", *words)
    assert (code, "was edited since" in err) == (0, False), err
    last = json.loads((run_of(folder, "ctm") / "eval.jsonl").read_text().splitlines()[-1])
    assert (last["metric"], last["extractor"]) == ("spread.r2", "radius.r2")


def say(*words):
    """A verb as a process of its own: plugins of another test are not known to it."""
    process = command(*words)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_a_plugin_cannot_take_a_built_in_name(done):
    folder, words = done
    (folder / "mine.py").write_text(MINE.replace('"mine"', '"ctm"'))
    for verb in ("plan", "run"):
        code, _, err = say(verb, *words, "--set", "axes.precond=[ctm]")
        assert (code, "two precond plugins are called 'ctm'" in err) == (2, True), err


def test_a_preconditioning_without_its_boundary_is_not_trained(done):
    folder, words = done
    text = MINE.replace("1 - s / t, s / t", "1 - s / t, s / t + 0.5").replace("mine", "skewed")
    (folder / "mine.py").write_text(text)
    changed = [
        "--set",
        "axes.precond=[skewed]",
        "--set",
        "report.baseline=skewed",
        "--set",
        "name=skewed",
    ]
    code, _, err = say("run", *words, *changed)
    assert code == 2, err
    assert "precond 'skewed' breaks its contract (boundary: not exact at s = t" in err
    assert f"harness check skewed --plugin {folder / 'mine.py'}`" in err
    assert not list((folder / "results" / "runs").glob("skewed-*"))


def test_damage_that_was_repaired_leaves_no_trace(done):
    folder, words = done
    rows = run_of(folder, "ctm") / "eval.jsonl"
    whole, tables = rows.read_text(), say("run", *words)[1]
    rows.write_text("{\n" + whole)
    assert say("run", *words)[0] == 1
    rows.write_text(whole)
    code, out, _ = say("run", *words)
    assert (code, out) == (0, tables)
    spec = run_of(folder, "ctm") / "spec.json"
    before = spec.read_text()
    spec.unlink()
    code, _, err = say("run", *words)
    assert code == 0, err
    assert json.loads(spec.read_text()) == json.loads(before)


def test_a_part_or_a_variant_of_a_grid_takes_nothing_from_its_tables(done):
    """`--only` and `--set` under the name of a grid; the file itself says what the grid is."""
    folder, words = done
    tables = say("run", *words)[1].splitlines()[1:]
    for part in (
        ["--only", "precond=mine"],
        ["--set", "axes.precond=[ctm]"],
        ["--set", "evaluate.nfe=[1]"],
        ["--set", "evaluate.metrics=[frechet]", "--only", "precond=ctm"],
    ):
        code, out, err = say("run", *words, *part)
        assert (code, out.splitlines()[1:], "stay at" in err) == (0, tables, False), part
    more = ["--set", "budgets=[10, 11]", "--only", "precond=ctm"]
    code, out, err = say("run", *words, *more)
    assert code == 0
    assert out.splitlines()[-len(tables) :] == tables
    assert "those of grid 'tiny' hold what all of its cells were asked for" in err
    assert "mine" in say("leaderboard", folder / "results")[1]
    code, out, err = say("run", *words, "--set", "evaluate.nfe=[3]")  # of all cells: added
    assert (code, "stay at" in err) == (0, False)
    board = say("leaderboard", folder / "results")[1]
    assert all(f"NFE {nfe}" in board for nfe in (1, 2, 3))
    say("run", *words, "--set", "axes.precond=[mine, ctm]")  # all of its cells: in that order
    cells = json.loads((folder / "results/tables/tiny/matrix.json").read_text())["cells"]
    assert [cell["precond"]["name"] for cell in cells] == ["mine", "ctm"]
    say("run", *words)  # the file alone
    assert "NFE 3" not in say("leaderboard", folder / "results")[1]


def test_what_eval_asked_is_not_what_the_run_owes(done):
    folder, _ = done
    run, results = run_of(folder, "ctm"), folder / "results"
    request, status = (json.loads((run / f"{n}.json").read_text()) for n in ("request", "status"))
    ask = ["eval", run.name, "--results", results]
    code, _, err = say(*ask, "--extractors", "digits-cnn", "--metrics", "frechet")
    assert code != 0
    assert "digits-cnn" in err
    assert "4 new numbers of 1 run" in say(*ask, "--nfe", "3", "4")[1]
    assert "2 new numbers of 1 run" in say(*ask, "--metrics", "energy")[1]  # NFE 1 and 2
    assert json.loads((run / "request.json").read_text()) == request
    after = json.loads((run / "status.json").read_text())
    assert (after["state"], after["step"]) == (status["state"], status["step"]) == ("done", 10)
