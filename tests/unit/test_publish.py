"""publish: what is copied prints the same tables, and nothing of the machine goes with it."""

import pytest

from harness.api import create_precond
from harness.report.coefficients import read_coefficients, same_function
from harness.store.files import write_json
from harness.store.store import ResultStore
from harness.train.coefficients import fingerprint
from tests.synthetic_results import spec, write_results

CELLS = [spec("ctm", 0), spec("ctm", 1), spec("new", 0), spec("new", 1)]


@pytest.fixture
def store(tmp_path):
    store = write_results(tmp_path / "mine", CELLS)
    for cell in CELLS:
        run = store.run_at(cell.run_id).path
        (run / "request.json").write_text('{"home": "/home/me"}')
        (run / "worker.log").write_text("/home/me")
        (run / "latest.safetensors").write_bytes(b"weights")
        (run / "samples").mkdir()
        for step in (100, 200):
            (run / "samples" / f"step-{step:08d}-nfe2.png").write_bytes(b"png")
    return store


def test_a_published_folder_prints_the_same_tables(store, tmp_path, harness):
    out = tmp_path / "results" / "mine"
    code, said, err = harness("publish", store.root, "--out", out)
    assert code == 0, err
    assert "synthetic: 4 of 4 runs" in said
    assert harness("report", out)[1] == harness("report", store.root)[1]
    names = {path.name for path in out.rglob("*") if path.is_file() and "tables" not in path.parts}
    assert names <= {
        *("spec.json", "provenance.json", "status.json", "coefficients.json"),
        *("eval.jsonl", "train.jsonl", "step-00000200-nfe2.png"),
    }
    with_pictures = {path.parents[1].name for path in out.rglob("*.png")}
    assert with_pictures == {cell.run_id for cell in CELLS if cell.seed == 0}


def test_publishing_again_brings_what_is_new_and_keeps_other_grids(store, tmp_path, harness):
    out = tmp_path / "out"
    other = write_results(tmp_path / "other", [spec("ctm", 7)])
    (other.root / "tables" / "synthetic").rename(other.root / "tables" / "another")
    matrix = other.root / "tables" / "another" / "matrix.json"
    matrix.write_text(matrix.read_text().replace('"synthetic"', '"another"'))
    assert harness("publish", other.root, "--out", out)[0] == 0
    rows = store.run_at(CELLS[0].run_id).path / "eval.jsonl"
    whole = rows.read_text()
    rows.write_text(whole.splitlines(keepends=True)[0])
    assert harness("publish", store.root, "--out", out)[0] == 0
    rows.write_text(whole)
    assert harness("publish", store.root, "--out", out)[0] == 0
    assert (ResultStore(out).run_at(CELLS[0].run_id).path / "eval.jsonl").read_text() == whole
    assert {path.name for path in (out / "tables").iterdir()} == {"synthetic", "another"}


def test_a_run_that_never_began_is_counted(store, tmp_path, harness):
    import shutil

    shutil.rmtree(store.run_at(CELLS[3].run_id).path)
    code, said, _ = harness("publish", store.root, "--out", tmp_path / "out")
    assert code == 0
    assert "3 of 4 runs" in said
    coverage = (tmp_path / "out" / "tables" / "synthetic" / "coverage.txt").read_text()
    assert "1 of 4 cells lack numbers" in coverage


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{mine}", "--out", "{mine}"], "--out must be another folder"),
        (["{mine}", "--out", "{tmp}/x", "--grid", "sythetic"], "did you mean 'synthetic'"),
        (["{tmp}", "--out", "{tmp}/x"], "is no results folder"),
        (["{mine}", "--out", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_refusals(store, tmp_path, harness, words, told):
    words = [word.format(mine=store.root, tmp=tmp_path) for word in words]
    code, _, err = harness("publish", *words)
    assert code == 2
    assert told in err
    assert "Traceback" not in err


def test_published_coefficients_are_shorter_and_the_same_function(store, tmp_path, harness):
    precond = create_precond("ctm", sigma_data=0.5)
    for cell in CELLS:
        write_json(store.run_at(cell.run_id).path / "coefficients.json", fingerprint(precond))
    run = store.run_at(CELLS[0].run_id).path
    harness("publish", store.root, "--out", tmp_path / "out")
    copy = ResultStore(tmp_path / "out").run_at(CELLS[0].run_id).path
    mine, published = (read_coefficients(each) for each in (run, copy))
    assert same_function(mine, published)
    sizes = [(each / "coefficients.json").stat().st_size for each in (run, copy)]
    assert sizes[1] < 0.8 * sizes[0]
    kept = {path.parent.name for path in (tmp_path / "out").rglob("coefficients.json")}
    assert kept == {cell.run_id for cell in CELLS if cell.seed == 0}  # they depend on no seed
    assert harness("report", tmp_path / "out")[1] == harness("report", store.root)[1]
