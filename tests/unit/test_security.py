"""Files are read as data, never run; damage is noticed; what is written names nobody."""

import ast
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from harness.api import Dataset, DatasetSpec, Params, located
from harness.config.plugins import plugin_spec
from harness.config.reading import Loader, parse
from harness.config.schema import PluginRef
from harness.errors import ArtifactError
from harness.home import told_without_home, with_home, without_home
from harness.registry import registry
from harness.store import artifacts
from harness.store.files import write_json
from harness.store.records import State
from harness.store.run import Run
from harness.train.checkpoint import (
    TrainingState,
    load_checkpoint,
    load_ema,
    save_checkpoint,
    save_ema,
)
from tests.unit.test_imports import modules

#: modules whose functions can be made to run what a file says
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"} | {
    "marshal",
    "torch.package",
}
UNSAFE_NAMES = {
    "eval",
    "exec",
    "unsafe_load",
    "full_load",
    "load_all",
    "UnsafeLoader",
    "FullLoader",
}


def calls(path):
    """(dotted name, keywords as text, arguments as text) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield ast.unparse(node.func), keywords, [ast.unparse(a) for a in node.args]


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda v: str(v).split("/")[-1])
def test_no_file_is_run(name, path):
    """torch.load with weights_only, np.load without pickles, YAML's safe loader; no pickle."""
    for node in ast.walk(ast.parse(path.read_text())):
        imported = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        assert not UNSAFE_MODULES & set(imported), f"{name} imports {imported}"
    for function, keywords, arguments in calls(path):
        if function == "torch.load":
            assert keywords.get("weights_only") == "True", name
        elif function in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle") == "False", name
        elif function == "yaml.load":
            loader = keywords.get("Loader") or arguments[1]
            assert (name, loader) == ("harness.config.reading", "Loader")
        else:
            assert function not in UNSAFE_NAMES, f"{name} calls {function}"
            assert function.rpartition(".")[2] not in UNSAFE_NAMES - {"eval", "exec"}, name


def test_the_scan_sees_what_it_looks_for(tmp_path):
    path = tmp_path / "bad.py"
    for text in ("import pickle", "torch.load(f)", "np.load(f)", "yaml.load(f, yaml.Loader)"):
        path.write_text(text)
        with pytest.raises(AssertionError):
            test_no_file_is_run("bad", path)


def test_yaml_runs_nothing():
    assert issubclass(Loader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        parse("!!python/object/apply:os.system ['true']")


def flips(content, count):
    """The content with one byte changed, at places spread over all of it."""
    for place in np.linspace(0, len(content) - 1, count).astype(int):
        changed = bytearray(content)
        changed[place] ^= 1 << int(place) % 8
        yield int(place), bytes(changed)


def small_state(seed):
    torch.manual_seed(seed)
    network, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = torch.optim.RAdam(network.parameters(), lr=0.1)
    network(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return TrainingState(network, target, optimizer, step=30, seconds=2.5)


def contents(state):
    tensors = [*state.network.state_dict().values(), *state.target.state_dict().values()]
    return [t.clone() for t in tensors], state.step, state.seconds


def test_a_changed_byte_of_a_checkpoint_is_noticed(tmp_path):
    folder = save_checkpoint(tmp_path, small_state(0))
    state = small_state(1)
    state.step = 0
    before = contents(state)
    assert sorted(path.name for path in folder.iterdir()) == [
        "network.safetensors",
        "optimizer.safetensors",
        "state.json",
        "target.safetensors",
    ]
    for path in folder.iterdir():
        whole = path.read_bytes()
        for place, changed in flips(whole, 60):
            path.write_bytes(changed)
            load_checkpoint(tmp_path, state, at_most=100)
            tensors, step, seconds = contents(state)
            same = all(torch.equal(a, b) for a, b in zip(tensors, before[0], strict=True))
            harmless = _is_blank(whole, changed)
            assert harmless or (same and (step, seconds) == before[1:]), f"{path.name} at {place}"
        path.write_bytes(whole)
    load_checkpoint(tmp_path, state, at_most=100)
    assert state.step == 30


def _is_blank(whole, changed):
    """Whether JSON says the same in other white space."""
    try:
        return json.loads(whole) == json.loads(changed)
    except ValueError:
        return False


def test_a_changed_byte_of_evaluation_weights_is_noticed(tmp_path):
    path, network = tmp_path / "step.safetensors", torch.nn.Linear(3, 2)
    save_ema(path, network)
    whole, expected = path.read_bytes(), [p.clone() for p in network.parameters()]
    for place, changed in flips(whole, 80):
        path.write_bytes(changed)
        other = torch.nn.Linear(3, 2)
        said = refusal(path, other)
        if not said:  # a letter of the header that names no tensor
            equal = [torch.equal(a, b) for a, b in zip(expected, other.parameters(), strict=True)]
            assert all(equal), place
        else:
            assert str(path) in said
            assert "delete it and run again" in said


def refusal(path, network):
    try:
        load_ema(path, network)
    except ArtifactError as error:
        return str(error)
    return ""


def test_a_changed_byte_of_an_artifact_is_noticed(tmp_path):
    found = artifacts.get_or_make(tmp_path, "kind", {"a": 1}, lambda: {"x": np.arange(9.0)})
    whole = found.path.read_bytes()
    for _, changed in flips(whole, 40):
        found.path.write_bytes(changed)
        with pytest.raises(ArtifactError, match="does not match its digest; delete"):
            artifacts.read(found.path)


def test_home_is_written_as_a_tilde_and_found_again(monkeypatch, tmp_path):
    home = tmp_path / "home" / "ada"
    (tmp_path / "real").mkdir()
    home.parent.mkdir()
    home.symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOME", str(home))
    data = {"a": [f"{home}/x", f"{home}", f"{home}y/x", 1.5, None, f"/data{home}/x"]}
    short = {"a": ["~/x", "~", f"{home}y/x", 1.5, None, f"/data{home}/x"]}
    assert without_home(data) == short
    assert with_home(short) == data
    assert without_home(str(tmp_path / "real" / "x")) == "~/x"
    assert told_without_home(f"cannot read {home}/x, nor ({home})") == "cannot read ~/x, nor (~)"
    for nothing in ("/", ""):
        monkeypatch.setenv("HOME", nothing)
        assert without_home("/x") == told_without_home("/x") == "/x"


def test_failures_name_files_without_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = Run(tmp_path / "results" / "runs" / "x")
    run.set_status(State.FAILED, f"{tmp_path}/data.zip: No such file or directory")
    run.fail(0, State.FAILED, f"{tmp_path}/data.zip: damaged", "file")
    write_json(run.path / "other.json", {"file": f"{tmp_path}/data.zip"})
    for path in run.path.iterdir():
        assert str(tmp_path) not in path.read_text()
        assert "~/data.zip" in path.read_text()


class Placed(Dataset):
    """A dataset that says where it is, once openly and once inside another parameter."""

    class Params(Params):
        path: str = located()
        more: dict = {}  # noqa: RUF012

    def __init__(self, params):
        super().__init__(params)
        self.spec = DatasetSpec((2,), digest="x", size=3)


def test_where_a_file_is_does_not_change_what_a_run_is(monkeypatch, tmp_path):
    """Written with a tilde or without, by this user or that: one identity, and one file opened."""
    monkeypatch.setitem(registry._classes["dataset"], "placed", Placed)
    identities = set()
    for user in ("ada", "bob"):
        monkeypatch.setenv("HOME", str(tmp_path / user))
        for path in (f"{tmp_path / user}/x.zip", "~/x.zip"):
            params = {"path": path, "more": {"inner": {"path": path}}}
            spec = plugin_spec("dataset", PluginRef(name="placed", params=params))
            assert spec.params["path"] == "~/x.zip"
            identities.add(json.dumps(spec.identity))
            from harness.api import create

            made = create("dataset", "placed", spec.params)
            assert made.params.path == os.path.expanduser("~/x.zip")
            assert made.params.more == {"inner": {"path": os.path.expanduser("~/x.zip")}}
    assert len(identities) == 1
    assert Path(made.params.path).parent == tmp_path / "bob"
