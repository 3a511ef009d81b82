"""`rm` and `gc`: what goes, what stays, and what is said before."""

import pytest

from harness.store.lease import lease, taken
from harness.store.store import ResultStore


@pytest.fixture
def finished(grid, tmp_path, harness):
    """Results of two cells, with artifacts."""
    code, _, err = harness("run", "--matrix", grid, "--set", "evaluate.metrics=[alignment]")
    assert code == 0, err
    return tmp_path / "results"


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_rm_and_gc_delete_what_is_named_and_what_nobody_needs(finished, grid, harness):
    before = files(finished)
    ctm, analytic = sorted(run.run_id for run in ResultStore(finished).runs())[::-1]
    words = ["--results", finished]
    code, out, _ = harness("rm", ctm, *words, "--dry-run")
    assert (code, files(finished)) == (0, before)
    assert f"would delete {finished / 'runs' / ctm} (" in out
    held = lease(finished / "runs" / ctm / ".lease")
    assert taken(held)
    code, _, err = harness("rm", analytic, ctm, *words)
    assert (code, files(finished) - {held.lock_file}) == (2, files(finished))
    assert f"{ctm} is being worked on" in err
    held.release()
    assert harness("rm", "nothing", *words)[0] == 2
    code, out, _ = harness("gc", finished)
    assert (code, out) == (0, "nothing that no run needs\n")
    code, _, _ = harness("rm", ctm[:12], *words)
    assert code == 0
    assert [run.run_id for run in ResultStore(finished).runs()] == [analytic]
    assert harness("gc", finished)[1] == "nothing that no run needs\n"  # the other has that teacher
    code, out, _ = harness("gc", finished, "--checkpoints")
    assert code == 0
    assert f"deleted {finished / 'runs' / analytic / 'checkpoints'} (" in out
    kept = ResultStore(finished).run(analytic)
    assert list(kept.path.rglob("ema*"))
    assert len(kept.rows()) == 4
    harness("rm", analytic, *words)
    code, out, _ = harness("gc", finished)
    assert code == 0
    assert out.count("deleted") == 3  # a calibration, a backbone, the teacher's trajectories
    assert not list((finished / "artifacts").rglob("*.safetensors"))
    code, _, err = harness("run", "--matrix", grid)
    assert code == 0, err
