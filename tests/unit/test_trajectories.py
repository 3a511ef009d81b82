"""What runs keep for pictures: trajectories, calibrated curves; the clock of earlier budgets."""

import json

import numpy as np
import pytest
import torch

from harness.api import create_precond, create_teacher
from harness.core.sampling import Walk
from harness.core.solver import solve
from harness.evaluate.trajectories import save_trajectories
from harness.store.run import Run
from harness.train.coefficients import fingerprint
from harness.train.measure import seconds_at


class Exact:
    """A student that needs no training: every jump is the teacher's own ODE."""

    def __init__(self, teacher):
        self.teacher = teacher

    def jump(self, x, t, s, labels=None):
        return solve(self.teacher.denoise, x, torch.stack([t[0], s[0]]), 256).float()


def save(folder, teacher, *steps):
    student = Exact(teacher)
    walks = {folder / f"{n}": (student, Walk.of("exact", n, teacher.spec)) for n in steps}
    save_trajectories(walks, teacher, 0, "cpu")


def test_an_exact_student_ends_where_its_teacher_does(tmp_path):
    teacher = create_teacher("gmm")
    save(tmp_path, teacher, 1, 2, 5)
    for nfe in (1, 2, 5):
        found = json.loads((tmp_path / f"{nfe}.json").read_text())
        truth, jumps = np.array(found["teacher"]), np.array(found["student"])
        assert truth.shape == (12, len(found["levels"]), 2)
        assert jumps.shape == (12, nfe + 1, 2)
        assert (found["levels"][0], found["nodes"][-1]) == (80, 0.002)
        assert jumps[:, 0] == pytest.approx(truth[:, 0], rel=1e-4)
        # modes are 0.54 apart; the two solutions differ in their steps alone
        assert np.abs(jumps[:, -1] - truth[:, -1]).max() < 0.02
        places = [int(np.abs(np.array(found["levels"]) - node).argmin()) for node in found["nodes"]]
        assert np.array(found["levels"])[places] == pytest.approx(found["nodes"], rel=1e-4)


def test_trajectories_are_of_the_plane_alone_and_written_once(tmp_path):
    line = create_teacher("gmm", preset="random", dim=3)
    save(tmp_path / "line", line, 1)
    assert not (tmp_path / "line").exists()
    path = tmp_path / "1.json"
    path.write_text("{}")
    save(tmp_path, create_teacher("gmm"), 1)
    assert path.read_text() == "{}"


def test_a_fingerprint_holds_the_curves_of_a_calibration_and_no_more():
    sigma = {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}
    assert "curves" not in fingerprint(create_precond("ctm", **sigma))
    levels = torch.tensor([80.0, 1.0, 0.1, 0.002], dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    artifact = {
        "sigma": levels,
        "l": torch.linspace(1, 0, 4, dtype=torch.float64),
        "log_S": zero,
        "log_S_centred": zero + 3,
        "flat": zero,
        "flat_centred": zero,
        "seconds": torch.tensor(1.0),
        "offset": torch.zeros(2),
    }
    for centre, log_S in ((False, 0.0), (True, 3.0)):
        precond = create_precond("analytic", centre=centre, **sigma).load(artifact)
        found = fingerprint(precond)["curves"]
        assert set(found) == {"sigma", "l", "log_S", "flat"}
        assert (found["sigma"], found["log_S"]) == (levels.tolist(), [log_S] * 4)


def test_the_clock_of_a_budget_survives_a_kill_before_its_evaluation(tmp_path):
    run = Run(tmp_path)
    run.log({"step": 10, "seconds": 1.5})
    run.log({"step": 20, "seconds": 3.0})
    assert seconds_at(run, 20) == 3.0
    assert seconds_at(run, 0) == 0.0
