"""Several runners on one results folder: on one machine, over a slow file system, by shards."""

import json

import pytest
import yaml

from harness.config.grid import load_grid
from harness.config.matrix import expand, shard
from tests.conftest import command
from tests.faults import plan


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_two_runners_over_a_slow_file_system_do_no_cell_twice(grid, tmp_path):
    """Files are opened, renamed and removed up to 0.15 s late, as over NFS."""
    text = yaml.safe_load(grid.read_text())
    text["axes"]["precond"] = ["ctm", "bcm"]
    text["budgets"], text["launch"]["slots"] = [10], 1
    grid.write_text(yaml.safe_dump(text))
    environment = plan.write(tmp_path / "faults", tmp_path / "results", [], delay=0.15)
    runners = [command("run", "--matrix", grid, environment=environment) for _ in range(2)]
    for process in runners:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
        assert "Leaderboard" in out
    runs = sorted((tmp_path / "results" / "runs").iterdir())
    assert len(runs) == 2
    for run in runs:
        steps = [record["step"] for record in lines(run / "train.jsonl")]
        assert steps == [5, 10]  # done once
        rows = [(row["nfe"], row["metric"]) for row in lines(run / "eval.jsonl")]
        assert len(rows) == len(set(rows)) == 4
        assert json.loads((run / "status.json").read_text())["state"] == "done"
        log = (run / "worker.log").read_text()
        assert "resumed" not in log
        assert "attempt" not in log
        assert not (run / ".lease").exists()
    for artifact in (tmp_path / "results" / "artifacts").glob("*/*"):
        assert artifact.suffix in (".json", ".safetensors")


@pytest.mark.parametrize(("cells", "count"), [(12, 2), (7, 3), (2, 4)])
def test_shards_cover_all_cells_once(grid, cells, count):
    whole = expand(load_grid(grid, [f"axes.seed={list(range(cells))}", "axes.precond=[ctm]"]))
    parts = [shard(whole, f"{part}/{count}").specs for part in range(1, count + 1)]
    ids = [spec.run_id for part in parts for spec in part]
    assert sorted(ids) == sorted(spec.run_id for spec in whole.specs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("which", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(which, grid, harness):
    code, _, err = harness("run", "--matrix", grid, "--shard", which)
    assert code == 2
    assert f"--shard {which}: write I/N" in err
    assert not (grid.parent / "results").exists()


def test_a_dry_run_of_a_shard_plans_that_shard_alone(grid, harness):
    arguments = ("--matrix", grid, "--set", "axes.seed=[0, 1, 2]")
    _, whole, _ = harness("plan", *arguments)
    assert "tiny: 6 cells" in whole
    code, out, err = harness("run", *arguments, "--dry-run", "--shard", "2/4")
    assert code == 0, err
    assert "tiny: shard 2/4, 2 of 6 cells" in out
    cells = [line for line in whole.splitlines() if " queued " in line]
    assert [line for line in out.splitlines() if " queued " in line] == [cells[1], cells[5]]
    assert "8 numbers each, 16 missing" in out
    code, out, _ = harness("run", *arguments, "--dry-run", "--launcher", "slurm")
    assert (code, "all at a time" in out) == (0, True)
