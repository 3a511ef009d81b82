"""Hostile and damaged variants of every format of students: one sentence each, nothing executed."""

import json
import os
import pickle
import random
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest

from harness.api import HarnessError, load_student
from tests.unit.test_openai_teacher import PUBLISHED, Runs, pickled
from tests.unit.untrained import untrained_run


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


# -- snapshots in EDM's pickles ----------------------------------------------------------------

ECT = (PUBLISHED / "ect.pkl").read_bytes()
EDM = Path(__file__).parents[1] / "fixtures" / "edm" / "hostile"


def instead(old: bytes, new: bytes) -> bytes:
    """The snapshot with some bytes replaced by as many others."""
    assert old in ECT
    assert len(old) == len(new)
    return ECT.replace(old, new)


def of_edm(name: str) -> bytes:
    """A hostile file of EDM's layout, said to be a consistency model's."""
    return (EDM / f"{name}.pkl").read_bytes().replace(b"EDMPrecond", b"ECMPrecond")


def getattr_of(what: bytes) -> bytes:
    return b"\x80\x04cbuiltins\ngetattr\n(" + what + b"X\x06\x00\x00\x00systemtR."


SNAPSHOTS = {
    "a call of os.system": pickle.dumps({"ema": Runs("touch was-run")}, 4),
    "a call beside the network": ECT[:-1] + b"\x8c\x01xcos\nsystem\n(\x8c\x01xtRs.",
    "a call in a storage": of_edm("bad_nested_storage_first"),
    "a call as the network": of_edm("bad_reduce_ema"),
    "a dotted global": of_edm("bad_dotted_global"),
    "a tensor past its storage": of_edm("bad_tensor_past_storage"),
    "an attribute that is no name": instead(b"\x8c\x0et_to_r_sigmoid", b"K\x05" + b"0" * 14),
    "another module": instead(b"\x8c\x08builtins", b"\x8c\x08posixxxx"),
    "another function": instead(b"\x8c\x07getattr", b"\x8c\x07execeva"),
    "another class": instead(b"\x8c\x0aECMPrecond", b"\x8c\x0aStyleGAN_x"),
    "a module of os": instead(b"\x8c\x0bcollections", b"\x8c\x0bos.path.sys"),
    "another reader of storages": instead(b"_load_from_bytes", b"_load_from_bytez"),
    "another maker of parameters": instead(b"_rebuild_parameter", b"_rebuild_from_type"),
    "another storage": instead(b"FloatStorage", b"FloatSt0rage"),
    "another maker of networks": instead(
        b"_reconstruct_persistent_obj", b"_reconstruct_persistent_obk"
    ),
    "no network": instead(b"\x8c\x03ema", b"\x8c\x03EMA"),
    "a layer of another name": instead(b"map_layer0", b"map_layer7"),
    "getattr of os.system": getattr_of(b"cos\nsystem\n"),
    "getattr of a set": getattr_of(b"cbuiltins\nset\n"),
    "getattr of a string": getattr_of(b"X\x01\x00\x00\x00a"),
    "getattr of a number": getattr_of(b"K\x01"),
    "marks without end": b"\x80\x04" + b"(" * 10**5 + b".",
    "a memo index without end": b"\x80\x04}r\xff\xff\xff\x7f.",
    "a length without end": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "a zip": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("what", [*SNAPSHOTS, *FILES])
def test_snapshots(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ect.pkl"
    path.write_bytes(FILES[what](ECT) if what in FILES else SNAPSHOTS[what])
    refused(path, "ect")
    refused(path, "auto")
    assert list(tmp_path.iterdir()) == [path], "something was executed"


@pytest.mark.parametrize("file", ["ect.pkl", "ctm_small.pt"])
def test_files_that_end_anywhere(tmp_path, file):
    path, rng, data = tmp_path / file, random.Random(0), (PUBLISHED / file).read_bytes()
    for _ in range(10):
        path.write_bytes(data[: rng.randrange(1, len(data))])
        refused(path, "auto")


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
    "an unknown preconditioning": edited(precond={"name": "nobody", **PLUGIN}),
    "another teacher": edited(digests={"teacher": "x", "dataset": "x"}),
    "a preconditioning outside the registry": edited(precond={"name": "../../evil", **PLUGIN}),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with weights of step 0, made without training."""
    path = untrained_run(tmp_path_factory.mktemp("results"), "unet")
    assert load_student(path).spec.format == "run"
    return path


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
