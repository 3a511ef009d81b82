"""Hostile and damaged variants of every format of students: one sentence each, nothing executed."""

import json
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict

import pytest

from harness.api import HarnessError, load_student
from tests.unit.test_openai_teacher import PUBLISHED, Runs, pickled


def pickle_is(data):
    return lambda members: members.update({"data.pkl": data})


PICKLES = {
    "a call of os.system": pickle_is(pickle.dumps({"w": Runs("touch was-run")}, 2)),
    "builtins.eval": pickle_is(b"\x80\x02cbuiltins\neval\n."),
    "builtins.getattr": pickle_is(b"\x80\x02cbuiltins\ngetattr\n(cos\nX\x06\x00\x00\x00systemtR."),
    "torch.load": pickle_is(b"\x80\x02ctorch\nload\n."),
    "a storage inside a storage": pickle_is(b"\x80\x02ctorch.storage\n_load_from_bytes\n."),
    "a size past its storage": pickle_is(pickled(size=(2**40,), stride=(0,))),
    "a huge stride": pickle_is(pickled(stride=(2**40,))),
    "a negative size": pickle_is(pickled(size=(-4,))),
    "sizes and strides that differ": pickle_is(pickled(size=(2, 2))),
    "an offset past the end": pickle_is(pickled(offset=2**40)),
    "a storage with a path": pickle_is(pickled(key="../../../etc/passwd")),
    "a storage of another length": pickle_is(pickled(count=2**40)),
    "marks without end": pickle_is(b"\x80\x02" + b"(" * 10**5),
    "no pickle": lambda members: members.pop("data.pkl"),
    "no storage": lambda members: members.pop("data/0"),
    "an empty storage": lambda members: members.update({"data/0": b""}),
    "big-endian": lambda members: members.update({"byteorder": b"big"}),
}
FILES = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "without its directory": lambda data: data[:-22],
    "a web page": lambda data: b"<!DOCTYPE html><html>Quota exceeded",
    "a pointer of Git LFS": lambda data: b"version https://git-lfs.github.com/spec/v1\n",
}
PARAMS = {"cm": {"resolution": 16, "head_channels": 32}, "ctm": {}}


def refused(path, name):
    with pytest.raises(HarnessError) as caught:
        load_student(path, name, **PARAMS.get(name, {}))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert path.name in sentence
    assert len(sentence) < 700


@pytest.mark.parametrize("what", [*PICKLES, *FILES])
@pytest.mark.parametrize(("name", "file"), [("cm", "edm_small_ema"), ("ctm", "ctm_small")])
def test_state_dicts(tmp_path, monkeypatch, name, file, what):
    monkeypatch.chdir(tmp_path)
    source, path = PUBLISHED / f"{file}.pt", tmp_path / "student.pt"
    if what in FILES:
        path.write_bytes(FILES[what](source.read_bytes()))
    else:
        with zipfile.ZipFile(source) as old:
            names = [name.partition("/")[2] for name in old.namelist()]
            members = OrderedDict((name, old.read(f"{file}/{name}")) for name in names)
        PICKLES[what](members)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
            for member, data in members.items():
                new.writestr(f"{file}/{member}", data)
    refused(path, name)
    refused(path, "auto")
    assert list(tmp_path.iterdir()) == [path], "something was executed"


# -- a run's folder ----------------------------------------------------------------------------


def edited(**changes):
    def edit(run):
        spec = json.loads((run / "spec.json").read_text())
        (run / "spec.json").write_text(json.dumps(spec | changes))

    return edit


def weights_are(change):
    def edit(run):
        (path,) = (run / "ema").iterdir()
        path.write_bytes(change(path.read_bytes()))

    return edit


PLUGIN = {"revision": 1, "params": {}, "changed": {}, "located": []}
RUNS = {
    "no weights": lambda run: shutil.rmtree(run / "ema"),
    "weights that are empty": weights_are(lambda data: b""),
    "weights that are cut": weights_are(lambda data: data[:-100]),
    "a header that is too long": weights_are(lambda data: b"\xff" * 7 + b"\x7f" + data[8:]),
    "a pickle as weights": weights_are(lambda data: pickle.dumps(Runs("touch was-run"))),
    "weights that were changed": weights_are(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "a spec that is no JSON": lambda run: (run / "spec.json").write_text("{"),
    "a spec that is a list": lambda run: (run / "spec.json").write_text("[]"),
    "a spec without its teacher": edited(teacher=None),
    "a newer spec": edited(schema=99),
    "an unknown strategy": edited(precond={"name": "nobody", **PLUGIN}),
    "another teacher": edited(digests={"teacher": "x", "dataset": "x"}),
    "a strategy outside the registry": edited(precond={"name": "../../evil", **PLUGIN}),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with weights of step 0, made without training."""
    import torch

    from harness.config.grid import make_grid
    from harness.config.matrix import expand
    from harness.store.store import ResultStore
    from harness.train.cell import build_cell
    from harness.train.checkpoint import save_ema

    results = tmp_path_factory.mktemp("results")
    grid = {
        "version": 1,
        "name": "x",
        "axes": {"precond": ["ctm"], "teacher": ["unet"]},
        "budgets": [0],
        "results": str(results),
    }
    (spec,) = expand(make_grid(grid, [], "grid.yaml")).specs
    made = ResultStore(results).open(spec)
    save_ema(made.weights(0), build_cell(spec, results, torch.device("cpu")).network)
    assert load_student(made.path).spec.format == "run"
    return made.path


@pytest.mark.parametrize("what", RUNS)
def test_runs(tmp_path, monkeypatch, run, what):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "results" / "runs" / run.name
    shutil.copytree(run, path)
    RUNS[what](path)
    with pytest.raises(HarnessError) as caught:
        load_student(path, "run")
    assert "\n" not in str(caught.value)
    assert not os.path.exists("was-run")
