"""A measurement is divided over the processes of a cell, and does not depend on their number."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.api import create_teacher, make_params
from harness.core import group
from harness.registry import registry
from harness.store import artifacts
from harness.store.records import PluginSpec
from harness.train.cell import calibrated

HERE = Path(__file__)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{(processes, rank): everything that this process got}."""
    out = tmp_path_factory.mktemp("processes")
    script = HERE.with_name("calibration_processes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(out)],
        cwd=HERE.parents[2],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        (world, rank): load_file(out / f"{world}-{rank}.safetensors")
        for world in (1, 2, 3)
        for rank in range(world)
    }


def test_the_same_measurement_for_one_two_and_three_processes(found):
    alone = found[1, 0]
    for place, values in found.items():
        for key, value in values.items():
            if key.split("/")[1] not in ("mine", "after", "seconds"):
                assert torch.allclose(value, alone[key], rtol=1e-9, atol=0), (place, key)


@pytest.mark.parametrize("label", ["moments", "jvp", "trajectories", "rounds"])
def test_each_process_does_its_share_once(found, label):
    whole = int(found[1, 0][f"{label}/mine"])
    assert whole == int(found[1, 0][f"{label}/evaluations"])
    for world in (2, 3):
        shares = [int(found[world, rank][f"{label}/mine"]) for rank in range(world)]
        assert sum(shares) == whole
        assert max(shares) < 1.3 * whole / world
    for values in found.values():
        assert int(values[f"{label}/after"]) == int(values[f"{label}/mine"])


def test_what_the_first_process_made_is_waited_for_and_never_made_alone(monkeypatch):
    """Another machine may see the file a minute late; to make it again would wait for the rest."""
    monkeypatch.setattr(group, "LOOK", 0.0)
    made = []

    def second(told, seen):
        told, seen = iter(told), iter(seen)
        monkeypatch.setattr(group.Group, "tell", lambda self, value=None: next(told))
        return group.Group(1, 2).together(
            lambda make: "it" if next(seen) else make(), lambda: made.append("its share")
        )

    assert second([True, False], [False, False, True]) == "it"
    assert second([False], [True]) == "it"
    assert made == ["its share"]
    monkeypatch.setattr(group, "LATEST", -1.0)
    with pytest.raises(TimeoutError, match="do they share the results folder"):
        second([False], [False, True])


class Interrupted(Exception):
    """As a signal that ends the process within a part."""


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("analytic", {"samples": 4096, "levels": 12}),
        ("moment", {"samples": 4096, "levels": 12, "tolerance": 1e-6}),
    ],
)
def test_an_interrupted_calibration_goes_on_with_equal_numbers(monkeypatch, tmp_path, name, params):
    monkeypatch.setattr(artifacts, "CHEAP", 0.0)
    made = make_params("precond", name, params).model_dump(mode="json")
    spec = PluginSpec(name, registry.get("precond", name).revision, made, params)

    def calibrate(folder, most=math.inf):
        teacher = create_teacher("gmm", dim=3, preset="random")
        inner, asked = teacher.denoise, []

        def denoise(x, sigma, labels=None):
            asked.append(len(x))
            if sum(asked) > most:
                raise Interrupted
            return inner(x, sigma, labels)

        teacher.denoise = denoise
        data, cpu = teacher.dataset(), torch.device("cpu")
        try:
            _, artifact = calibrated(spec, teacher, data, tmp_path / folder, cpu)
        except Interrupted:
            artifact = None
        return artifact, sum(asked)

    whole, evaluations = calibrate("whole")
    spent = 0
    for share in (0.02, 0.4, 0.5):
        artifact, asked = calibrate("parts", share * evaluations)
        assert artifact is None
        spent += asked
    damaged = sorted((tmp_path / "parts").rglob("*.parts/*.safetensors"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-8])
    artifact, asked = calibrate("parts")
    assert spent + asked < 1.2 * evaluations
    assert asked < 0.4 * evaluations
    assert artifact.seconds > 0
    for key, value in whole.arrays.items():
        if key != "seconds":
            assert np.array_equal(value, artifact.arrays[key]), key
    assert not list((tmp_path / "parts").rglob("*.parts"))
    calibrate("other", 0.9 * evaluations)
    monkeypatch.setattr("harness.train.cell._code", lambda cls: "changed")
    assert calibrate("other")[1] == evaluations  # parts of other code are not read
    assert not list((tmp_path / "other").rglob("*.parts"))


def test_a_part_that_cannot_be_written_is_not_kept_and_no_name_is_lost(monkeypatch, tmp_path):
    monkeypatch.setattr(artifacts, "CHEAP", 0.0)
    parts = artifacts.Parts(tmp_path, "calibration", {"of": "this"}, "code")
    sums = {"seconds": torch.ones(2), "evaluations": torch.zeros(3)}
    parts.write("whole", sums, 1.5)
    parts.write("strange", {"low": torch.ones(2, dtype=torch.bfloat16)}, 1.5)
    assert parts.read("strange") is None
    kept = parts.read("whole")
    assert {name: value.tolist() for name, value in kept.items()} == {
        name: value.tolist() for name, value in sums.items()
    }
    assert parts.seconds == 1.5
