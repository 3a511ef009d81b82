"""What is shared between samplers and averages: one more costs its own samples and features."""

import pytest
import torch

from harness.config.matrix import wanted
from harness.evaluate.evaluator import Evaluator
from harness.evaluate.extractors.raw import Raw
from harness.store.records import Request
from harness.train.machine import Machine
from harness.train.measure import by_sampling
from tests.cells import cell_of

N = 300


class Counted:
    """Counts calls of a method, and the rows of its first argument."""

    def __init__(self, monkeypatch, owner, name):
        self.calls = self.rows = 0
        self.method = getattr(owner, name)
        monkeypatch.setattr(owner, name, self)

    def __call__(self, x, *arguments, **named):
        self.calls += 1
        self.rows += len(x) if isinstance(x, torch.Tensor) else 0
        return self.method(x, *arguments, **named)


class CountedRaw(Raw):
    rows = 0

    def __call__(self, samples):
        self.rows += len(samples)
        return super().__call__(samples)


@pytest.mark.parametrize(
    "more",
    [
        {"samplers": ["exact", "stochastic"]},
        {"samplers": ["exact", "exact@trained", "gamma0.5"]},
        {"emas": [None, 0.9]},
    ],
)
def test_one_more_sampler_or_average_costs_its_own_samples_and_features(monkeypatch, more):
    def spent(**given):
        cell = cell_of("gmm", backbone={"width": 8, "depth": 1})
        request = Request([0], [2], ["alignment", "frechet", "kid"], ["raw"], N, **given)
        device = next(cell.network.parameters()).device
        times = cell.objective.trained_times(cell.teacher.spec)
        teacher, data, student = cell.teacher, cell.dataset, cell.student
        evaluator = Evaluator(teacher, data, request, Machine(device), None, trained_times=times)
        evaluator.extractors["raw"] = CountedRaw()
        counts = {
            "teacher": Counted(monkeypatch, teacher, "denoise"),
            "data": Counted(monkeypatch, data, "draw"),
            "jumps": Counted(monkeypatch, student, "jump"),
            "features": evaluator.extractors["raw"],
        }
        groups = by_sampling(wanted(request, cell.spec))
        for group in groups:
            assert len(evaluator.measure(student, group)) == 3
        monkeypatch.undo()
        return len(groups), counts

    _, once = spent()
    kinds, times = spent(**more)
    assert kinds == len(next(iter(more.values())))
    for name in ("teacher", "data"):
        assert times[name].calls == once[name].calls > 0, name
    assert times["jumps"].rows == kinds * once["jumps"].rows > 0
    drawn = times["features"].rows - once["features"].rows
    assert drawn == (kinds - 1) * N
