"""What a user can get wrong: one sentence with file, key and mend; exit code 2; nothing run."""

import hashlib
import importlib.util
import sys

import pytest
import yaml

from harness.cli import main
from harness.config.grid import load_grid
from harness.config.matrix import expand
from harness.errors import ConfigError
from harness.registry import own_source, registry


def edit(path, **changes):
    """Change top-level or dotted keys of a grid file."""
    data = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = data
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    path.write_text(yaml.safe_dump(data))


BAD = [
    ({"trian": {}}, ["trian", "did you mean 'train'"]),
    ({"train__bacth": 3}, ["train.bacth", "did you mean 'batch'"]),
    ({"train__lr": "fast"}, ["train.lr", "'fast'"]),
    ({"train__batch": 0}, ["train.batch", "greater than or equal to 1"]),
    ({"axes__precond": ["analytc"]}, ["'analytc'", "did you mean 'analytic'"]),
    ({"axes__precond": []}, ["axes.precond", "at least 1"]),
    ({"axes__teacher": ["gmmm"]}, ["'gmmm'", "did you mean 'gmm'"]),
    (
        {"axes__precond": [{"name": "ctm", "params": {"outter": "euler"}}]},
        ["outter", "did you mean 'outer'"],
    ),
    ({"axes__precond": [{"name": "ctm", "params": {"outer": "heun"}}]}, ["outer", "'euler'"]),
    ({"axes__optimizer": ["adam"]}, ["axes.optimizer", "unknown key"]),
    ({"budgets": [10, 5]}, ["budgets", "must increase"]),
    ({"budgets": []}, ["budgets", "at least 1"]),
    ({"budgets": "soon"}, ["budgets", "list"]),
    ({"launch__processes": 3}, ["train.batch", "32", "multiple of 3"]),
    ({"train__micro_batch": 7}, ["micro_batch", "7 does not divide"]),
    (
        {"evaluate__metrics": ["fid"]},
        ["no metric is called 'fid'", "FID is metric 'frechet' with extractor 'inception'"],
    ),
    ({"evaluate__extractors": ["digits-cnn"]}, ["no cell to run", "'digits-cnn' takes images"]),
    (
        {"evaluate__metrics": ["alignment", "inception-score"]},
        ["evaluate: extractor 'raw' has no class logits", "use extractor 'inception'"],
    ),
    (
        {
            "axes__teacher": ["unet"],
            "evaluate__metrics": ["inception-score"],
            "evaluate__extractors": ["inception", "digits-cnn"],
        },
        ["evaluate: extractor 'digits-cnn' has no class logits"],
    ),
    ({"train": 3}, ["train: must be a section of key: value, got 3"]),
    ({"axes__precond": [3]}, ["axes.precond.0: 3: write NAME or {NAME: {key: value}}"]),
    ({"axes__precond": ["analytic: 3"]}, ["'analytic: 3': write NAME or 'NAME: {key: value}'"]),
    ({"axes__teacher": ["edm"]}, ["teacher 'edm': weights: is needed"]),
    (
        {"evaluate__references": {"inception": {"file": "a.npz"}}},
        ["references.inception", "no such extractor", "raw"],
    ),
    (
        {"evaluate__references": {"raw": {"file": "absent.npz"}}},
        ["evaluate.references.raw.file", "absent.npz", "No such file"],
    ),
    (
        {"evaluate__extractors": ["inception"], "axes__teacher": ["unet"]},
        ["inception", "not found", "PRECONDBENCH_INCEPTION"],
    ),
    ({"launch__track": ["wandbb"]}, ["launch.track.0", "tensorboard", "'wandbb'"]),
    ({"launch__track": ["aim"]}, ["launch.track: aim is not installed", "pip install aim"]),
    ({"launch__processes": 2, "launch__nodes": 4}, ["launch", "2 cannot be shared by 4 nodes"]),
    (
        {
            "evaluate__extractors": ["inception"],
            "evaluate__references": {"inception": {"fil": "a.npz", "file": "b.npz"}},
        },
        ["evaluate.references.inception.fil: unknown key (did you mean 'file'? known: file, n)"],
    ),
    ({"evaluate__nfe": [0]}, ["evaluate.nfe", "greater than or equal to 1"]),
    ({"report__baseline": "edm"}, ["report.baseline", "'edm'"]),
    ({"exclude": [{"precnd": "ctm"}]}, ["exclude", "precnd"]),
    ({"exclude": [{"teacher": "gmm"}]}, ["no cell to run", "excluded"]),
    ({"version": 2}, ["version"]),
    ({"name": "../up"}, ["name"]),
    ({"results": "${NOT_SET_ANYWHERE}"}, ["results", "NOT_SET_ANYWHERE"]),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=lambda v: str(v)[:40])
def test_bad_grids_are_refused_with_one_sentence(grid, harness, changes, words):
    edit(grid, **changes)
    code, _, err = harness("run", "--matrix", grid)
    assert code == 2
    assert "Traceback" not in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err
    assert not (grid.parent / "results" / "runs").exists()


@pytest.mark.parametrize("name", ["2024", "no: 1", "a b"])
def test_a_results_folder_is_text_whatever_yaml_makes_of_it(grid, harness, monkeypatch, name):
    monkeypatch.chdir(grid.parent)
    (grid.parent / name).mkdir()
    code, out, err = harness("plan", "--matrix", grid, "--results", name)
    assert (code, err) == (0, ""), err
    assert "2 cells" in out


def test_files_that_are_no_grids(tmp_path, harness):
    for name, content, words in [
        ("missing.yaml", None, "no such file"),
        ("torn.yaml", "axes: [a, ", "not valid YAML"),
        ("list.yaml", "- 1", "mapping"),
        ("twice.yaml", "version: 1\nversion: 1\n", "written twice"),
        ("code.yaml", "version: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("bytes.yaml", b"\xff\xfe\x00", "not text in UTF-8"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        code, _, err = harness("plan", "--matrix", path)
        assert (code, words in err, str(path) in err) == (2, True, True), err


def test_overrides_and_variables(grid, monkeypatch):
    monkeypatch.setenv("WHERE", "/somewhere")
    loaded = load_grid(grid, ["train.lr=1e-4", "results=${WHERE}/x", "budgets=[1, 2, 3]"])
    assert loaded.train.lr == 1e-4
    assert loaded.results == "/somewhere/x"
    assert loaded.budgets == [1, 2, 3]
    for bad in ("train.lr", "=3", "train.lr.deep=3", "train.lr=[1"):
        with pytest.raises(ConfigError):
            load_grid(grid, [bad])


def test_identity_is_the_cells_own(grid):
    """Order, names, budgets, NFEs, launch and report change no run id; training settings do."""
    base = expand(load_grid(grid))
    ids = {spec.run_id for spec in base.specs}
    for same in (
        ["name=other", "budgets=[5]", "evaluate.nfe=[7]", "launch.slots=1", "results=/tmp/x"],
        ["train.checkpoint_every=3", "train.micro_batch=8", "evaluate.samples=50"],
        ["axes.precond=[{name: analytic, params: {samples: 64, levels: 12}}, ctm, edm]"],
    ):
        assert ids <= {spec.run_id for spec in expand(load_grid(grid, same)).specs}
    for other in (
        ["train.lr=0.5"],
        ["train.batch=64"],
        ["backbone.width=18"],
        ["axes.seed=[9]"],
        ["train.lr_zero_at=10000"],
        ["train.lr_sqrt_from=100"],
    ):
        assert not ids & {spec.run_id for spec in expand(load_grid(grid, other)).specs}
    explicit = load_grid(grid, ["axes.precond=[{name: ctm, params: {outer: euler}}]"])
    assert expand(explicit).specs[0].run_id in ids  # a default written out is still the default


def test_exclude_only_and_duplicates(grid):
    edited = load_grid(grid, ["axes.seed=[0, 1, 0]", "exclude=[{precond: analytic, seed: 1}]"])
    matrix = expand(edited)
    assert len(matrix.specs) == 3
    reasons = [skip.reason for skip in matrix.skips]
    assert sum("excluded by" in reason for reason in reasons) == 1
    assert sum("listed twice" in reason for reason in reasons) == 2
    assert len(expand(edited, ["precond=ctm"]).specs) == 2
    assert len(expand(edited, ["precond=ctm", "seed=1"]).specs) == 1
    assert len(expand(edited, ["precond=analytic(levels=12, samples=64)"]).specs) == 1
    for only, words in {
        "precnd=ctm": r"no axis is called 'precnd' \(did you mean 'precond'",
        "precond": "write axis=name, e.g. precond=ctm",
        "precond=cmt": r"axes.precond has no 'cmt' \(did you mean 'ctm'\? known: analytic",
        "seed=9": r"axes.seed has no '9' \(known: 0, 1\)",
    }.items():
        with pytest.raises(ConfigError, match=words):
            expand(edited, [only])


def test_parameters_may_be_written_short(grid):
    """`{NAME: {key: value}}`, as a mapping or as text, is the same cell as the long form."""
    long = "{name: analytic, params: {levels: 20}}"
    ids = {
        tuple(
            spec.run_id for spec in expand(load_grid(grid, [f"axes.precond=[ctm, {form}]"])).specs
        )
        for form in (long, "{analytic: {levels: 20}}", "'analytic: {levels: 20}'")
    }
    assert len(ids) == 1
    rule = "exclude=[{precond: {analytic: {levels: 20}}}]"
    (spec,) = expand(load_grid(grid, [f"axes.precond=[ctm, {long}]", rule])).specs
    assert spec.precond.name == "ctm"


def test_what_an_override_got_wrong_is_not_put_down_to_the_file(grid):
    for override, words in {
        "trian.lr=1": "--set trian.lr=1: trian: unknown key (did you mean 'train'",
        "train={lr_zero_at: 9, lr_sqrt_from: 9}": "--set train={lr_zero_at: 9, lr_sqrt_from: 9}:",
        "train={lr_zero_at: 1}": f"{grid}: budgets: train.lr_zero_at: 1 ends the training there",
        "train.lr=fast": "--set train.lr=fast: train.lr: must be a number, got 'fast'",
        "axes={}": "--set axes={}: axes.precond: is needed; axes.teacher: is needed",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_grid(grid, ["train.batch=64", override])
        assert str(caught.value).startswith(words)
    edit(grid, train__bacth=3)
    with pytest.raises(ConfigError) as caught:
        load_grid(grid, ["train.lr=fast"])
    assert f"{grid}: train.bacth: unknown key" in str(caught.value)


def test_unwritable_results(grid, harness, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    code, _, err = harness("run", "--matrix", grid, "--set", f"results={blocker}")
    assert code == 2
    assert str(blocker) in err
    for verb in (["status", blocker], ["report", blocker], ["show", "x", "--results", blocker]):
        code, _, err = harness(*verb)
        assert code == 2
        assert "no results folder" in err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('at import')", "at import"),
        (
            "from harness.api import *\n@register_precond('ctm')\nclass A(Preconditioning): pass",
            "two precond plugins are called 'ctm'",
        ),
        (
            "from harness.api import *\n@register_precond('x')\nclass A: pass",
            "not a subclass of Preconditioning",
        ),
        (
            "from harness.api import *\n@register_precond('No Go')\nclass A(Preconditioning): 0",
            "lower-case",
        ),
    ],
)
def test_broken_plugin_files(tmp_path, harness, source, words):
    path = tmp_path / "plug.py"
    path.write_text(source)
    from harness.registry import registry

    registry.names("precond")
    code, _, err = harness("list", "preconds", "--plugin", path)
    assert code == 2
    assert words in err
    assert str(path) in err
    code, _, err = harness("list", "--plugin", tmp_path / "none.py")
    assert code == 2
    assert "no such file" in err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "exit codes" in text
    assert "--matrix grids/quickstart.yaml" in text


def test_only_the_harness_own_plugins_are_as_old_as_its_commit(tmp_path):
    """A module whose name begins like one of ours is somebody else's."""
    assert own_source(registry.get("precond", "ctm")) is None
    path = tmp_path / "theirs.py"
    path.write_text("class Theirs: pass\n")
    spec = importlib.util.spec_from_file_location("preconds_mine", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["preconds_mine"] = module
    spec.loader.exec_module(module)
    assert own_source(module.Theirs) == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    del sys.modules["preconds_mine"]
