"""`sample`: files that `fid` reads, the same however they are drawn, continued where it stopped."""

import json
import zipfile

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from harness.api import load_student
from harness.core.sampling import evaluation_labels, initial_noise
from harness.evaluate.draw import Order, Parts, draw_block
from harness.evaluate.images import quantise
from tests.unit.test_openai_teacher import PUBLISHED

CTM = PUBLISHED / "ctm_small.pt"


def pixels(path):
    if path.is_dir():
        files = sorted(path.glob("*.png"))
        return np.stack([np.asarray(Image.open(file)) for file in files])
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return np.stack([np.asarray(Image.open(archive.open(name))) for name in names])


def test_every_form_holds_the_students_samples(tmp_path, harness):
    ask = ("sample", CTM, "--n", "5", "--device", "cpu", "--out")
    outs = [tmp_path / name for name in ("x.npz", "x.zip", "x")]
    for out, more in zip(outs, ([], ["--batch", "2"], ["--batch", "3"]), strict=True):
        code, _, err = harness(*ask, out, "--grid", tmp_path / "x.png", *more)
        assert code == 0, err
    student, indices = load_student(CTM), torch.arange(5)
    noise = initial_noise(0, indices, (3, 16, 16), 80.0, torch.float32)
    labels = evaluation_labels(0, indices, 10)
    with torch.no_grad():
        expected = quantise(student.jump(noise, 80.0, 0.002, labels)).permute(0, 2, 3, 1).numpy()
    with np.load(outs[0]) as file:
        assert np.abs(file["arr_0"].astype(int) - expected).max() <= 1
        assert file["arr_1"].tolist() == labels.argmax(1).tolist()
        for out in outs[1:]:
            assert np.abs(file["arr_0"].astype(int) - pixels(out)).max() <= 1
    told = json.loads((outs[2] / "dataset.json").read_text())["labels"]
    assert told[1] == ["img00000001.png", int(labels[1].argmax())]
    assert (tmp_path / "x.png").exists()
    code, out, err = harness("fid", outs[1], outs[2], "--extractor", "raw")
    assert code == 0, err
    assert "n=5 against 5" in out
    assert not list(tmp_path.glob("*.parts"))


def test_it_continues_where_it_stopped_and_processes_change_nothing(tmp_path, harness):
    ask = ("sample", CTM, "--n", "6", "--batch", "2", "--nfe", "2", "--sampler", "gamma0.5")
    ask = (*ask, "--labels", "3", "7", "--device", "cpu", "--out")
    assert harness(*ask, tmp_path / "whole.npz")[0] == 0
    student = load_student(CTM)
    order = Order(student.spec.digest, 6, 2, "gamma0.5", 0, [3, 7], "edm", 2)
    out = tmp_path / "x.npz"
    parts = Parts(out, order)
    marked = draw_block(student, order, 2)
    marked["x"][:] = 77  # to see that it is not drawn again
    parts.keep(2, marked)
    code, _, err = harness(*ask[:-1], "--seed", "1", "--out", out)
    assert code == 2
    assert "the beginning of other samples" in err
    code, _, err = harness(*ask[:-1], "--processes", "2", "--out", out)
    assert code == 0, err
    with np.load(out) as found, np.load(tmp_path / "whole.npz") as whole:
        assert (found["arr_0"][2:4] == 77).all()
        for k in (0, 1, 4, 5):
            assert (found["arr_0"][k] == whole["arr_0"][k]).all()
        assert found["arr_1"].tolist() == [3, 7, 3, 7, 3, 7]
    code, _, err = harness(*ask, out)
    assert code == 2
    assert "is there already" in err


def test_vectors_of_a_run_go_to_npz(tmp_path, grid, harness):
    text = yaml.safe_load(grid.read_text())
    text["axes"]["precond"], text["budgets"] = ["ctm"], [1]
    grid.write_text(yaml.safe_dump(text))
    assert harness("run", "--matrix", grid)[0] == 0
    results = tmp_path / "results"
    run = next((results / "runs").iterdir()).name
    ask = ("sample", run[:-4], "--results", results, "--n", "7", "--nfe", "3", "--out")
    code, _, err = harness(*ask, tmp_path / "x.zip")
    assert code == 2
    assert "go into an .npz" in err
    code, _, err = harness(*ask, tmp_path / "x.npz")
    assert code == 0, err
    with np.load(tmp_path / "x.npz") as file:
        assert (file["arr_0"].dtype, file["arr_0"].shape) == (np.float32, (7, 2))
        assert np.isfinite(file["arr_0"]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--n", "0"], "1 or more"),
        (["--sampler", "euler"], "is no sampler"),
        (["--sampler", "exact@trained"], "does not tell the times"),
        (["--sampler", "exact@80,2"], "another number of steps"),
        (["--sampler", "exact@70"], "first level must be"),
        (["--labels", "10"], "classes are 0 to 9"),
        (["--format", "cm"], "use format ctm"),
        (["--out", "DIR"], "is there already"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, harness, options, says):
    options = [str(PUBLISHED) if option == "DIR" else option for option in options]
    ask = ("sample", CTM, "--n", "2", "--device", "cpu", "--out", tmp_path / "x", *options)
    code, _, err = harness(*ask)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("x*"))


def test_a_consistency_model_takes_its_own_sampler(tmp_path, harness):
    ask = ("sample", PUBLISHED / "ect.pkl", "--n", "2", "--nfe", "2", "--device", "cpu")
    code, out, err = harness(*ask, "--out", tmp_path / "x.npz")
    assert code == 0, err
    assert "stochastic at NFE 2" in out
    code, _, err = harness(*ask, "--sampler", "exact", "--out", tmp_path / "y.npz")
    assert code == 2
    assert "jumps to sigma_min alone; use stochastic" in err
    code, _, err = harness(*ask, "--labels", "1", "--out", tmp_path / "y.npz")
    assert code == 2
    assert "no classes" in err
