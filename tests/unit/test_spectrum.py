"""Metrics that need samples themselves, and the one that is shipped: power by spatial frequency."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from harness.api import create
from harness.evaluate.metrics.spectrum import rings

pytestmark = pytest.mark.usefixtures("forgotten")
SPECTRUM = create("metric", "spectrum")


def noise(n=64, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), generator=generator, dtype=torch.uint8)


def test_a_wave_is_in_the_ring_of_its_frequency_alone():
    place = torch.arange(16.0)
    wave = (128 + 100 * (2 * math.pi * 3 * place / 16).cos()).round().to(torch.uint8)
    power = rings(wave.expand(2, 1, 16, 16))
    assert power.argmax() == 2
    assert power[2] > 1e3 * (power.sum() - power[2])


def test_white_noise_is_flat_and_a_quarter_of_the_power_is_a_log_of_four():
    flat = rings(noise(512))
    assert float(flat.std() / flat.mean()) < 0.05
    images = noise()
    half = ((images.float() - 128) / 2 + 128).round().to(torch.uint8)
    assert SPECTRUM.compute(images, images) == 0
    assert SPECTRUM.compute(half, images) == pytest.approx(math.log10(4), abs=0.02)


def test_blur_shows_and_equals_a_transform_by_numpy():
    images = noise()
    blurred = torch.nn.functional.avg_pool2d(images.float(), 3, 1, 1).round().to(torch.uint8)
    power = [np.abs(np.fft.fft2(each.double().numpy() / 255)) ** 2 for each in (blurred, images)]
    radius = np.rint(np.hypot(*np.meshgrid(*[np.fft.fftfreq(16) * 16] * 2)))
    ratio = [
        np.log10(power[0][..., radius == k].mean() / power[1][..., radius == k].mean())
        for k in range(1, 9)
    ]
    wanted = np.sqrt(np.mean(np.square(ratio)))
    assert SPECTRUM.compute(blurred, images) == pytest.approx(wanted, rel=1e-9)
    assert wanted > 0.5


def test_a_grid_and_fid_give_the_same_number_and_the_row_names_no_extractor(
    grid, tmp_path, harness
):
    text = yaml.safe_load(grid.read_text())
    text["axes"] |= {"precond": ["ctm"], "teacher": ["unet"], "objective": [{"ctm": {"steps": 1}}]}
    text["axes"]["dataset"] = ["digits"]
    text["train"]["batch"] = 8
    text["evaluate"] = {"nfe": [1], "samples": 32, "metrics": ["spectrum"], "ode_steps": 16}
    grid.write_text(yaml.safe_dump(text | {"budgets": [2]}))
    code, out, err = harness("run", "--matrix", grid)
    assert code == 0, err
    assert "spectrum, samples, n=32" in out
    (run,) = (tmp_path / "results" / "runs").iterdir()
    (row,) = map(json.loads, (run / "eval.jsonl").read_text().splitlines())
    assert (row["extractor"], row["extractor_id"], row["n"]) == ("samples", None, 32)
    samples, data = tmp_path / "samples", tmp_path / "data.npz"
    code, _, err = harness("sample", run, "--n", "32", "--nfe", "1", "--out", samples)
    assert code == 0, err
    drawn, _ = create("dataset", "digits").draw(0, "reference", torch.arange(row["reference_n"]))
    np.savez(data, (drawn * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    words = [samples, data, "--metrics", "spectrum", "--extractor", "raw", "--json"]
    code, out, err = harness("fid", *words)
    assert code == 0, err
    assert json.loads(out)["scores"][0]["value"] == pytest.approx(row["value"], rel=1e-6)


def test_vectors_have_no_spectrum(grid, harness):
    code, _, err = harness("run", "--matrix", grid, "--set", "evaluate.metrics=[spectrum]")
    assert code == 2
    assert "metric 'spectrum' takes images, but the data are vectors" in err


PLUGIN = '''
from harness.api import Metric, register_metric

@register_metric("shift")
class Shift(Metric):
    """How far means are apart; and that each kind of sample comes as it is said to."""
    needs = "samples"
    def compute(self, generated, reference):
        assert generated.shape[1:] == reference.shape[1:] == (2,), generated.shape
        assert len(generated) == 200
        return float((generated.mean(0) - reference.mean(0)).norm())
'''


def test_a_plugin_gets_vectors_as_they_are(grid, tmp_path, harness):
    plugin = tmp_path / "shift.py"
    plugin.write_text(PLUGIN)
    asked = ["--matrix", grid, "--plugin", plugin, "--set", "axes.precond=[ctm]"]
    code, _, err = harness("run", *asked, "--set", "evaluate.metrics=[shift, frechet]")
    assert code == 0, err
    (run,) = (tmp_path / "results" / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    values = {(r["metric"], r["step"], r["nfe"]): r for r in rows}
    for step, nfe in ((10, 1), (25, 2)):
        shift, frechet = values["shift", step, nfe], values["frechet", step, nfe]
        assert shift["extractor"] == "samples"
        assert shift["reference_n"] == frechet["reference_n"]
        assert 0 < shift["value"] ** 2 < frechet["value"]  # one of the two terms of that distance
