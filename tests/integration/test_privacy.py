"""What a run leaves behind names neither its user, nor the machine, nor anybody's home."""

import json
import socket

import pytest
import yaml

from tests.conftest import command
from tests.unit.image_files import layout, write_zip

PLUGIN = """\
from harness.api import Coeffs, Preconditioning, register_precond

@register_precond("mine")
class Mine(Preconditioning):
    def coeffs(self, t, s):
        return Coeffs(s / t, 1 - s / t)
"""


@pytest.mark.slow
def test_results_name_nobody(tmp_path):
    home = tmp_path / "home" / "ada-lovelace"
    (home / "data").mkdir(parents=True)
    images = write_zip(home / "data" / "images.zip", layout(6))
    (home / "mine.py").write_text(PLUGIN)
    data = {"name": "zip", "params": {"path": str(images)}}
    grid = {
        "version": 1,
        "name": "private",
        "axes": {
            "precond": ["mine"],
            "teacher": [{"name": "empirical", "params": {"dataset": data, "bandwidth": 0.1}}],
            "objective": ["cd"],
            "dataset": [data, {"name": "zip", "params": {"path": f"{home}/absent.zip"}}],
        },
        "train": {"batch": 4, "log_every": 1},
        "backbone": {"channels": 8, "fit_steps": 2, "fit_batch": 4},
        "budgets": [1],
        "evaluate": {"nfe": [1], "samples": 8, "metrics": ["alignment"], "ode_steps": 16},
        "launch": {"device": "cpu", "threads": 1, "environment": {"TOKEN": "s3cret-t0ken"}},
        "report": {"baseline": "mine"},
        "results": str(home / "results"),
    }
    (home / "grid.yaml").write_text(yaml.safe_dump(grid))
    process = command(
        *["run", "--matrix", home / "grid.yaml", "--plugin", home / "mine.py"],
        environment={"HOME": str(home), "USER": "ada-lovelace", "LOGNAME": "ada-lovelace"},
    )
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    secrets = ["ada-lovelace", "s3cret-t0ken", f'"{socket.gethostname()}"']
    (run,) = (home / "results" / "runs").iterdir()
    files = [path for path in (home / "results").rglob("*.*") if path.suffix != ".log"]
    names = {path.name for path in files}
    assert names >= {"spec.json", "request.json", "status.json", "provenance.json"}
    assert names >= {"coefficients.json", "matrix.json", "eval.jsonl", "leaderboard.csv"}
    for path in files:
        content = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, f"{path} names {secret}"
    request = json.loads((run / "request.json").read_text())
    assert request["plugins"] == ["~/mine.py"]
    spec = json.loads((run / "spec.json").read_text())
    assert spec["dataset"]["params"]["path"] == "~/data/images.zip"
