"""`new-precond` writes a package that installs, is found by its name and keeps the contract."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.unit.documents import titled_blocks


def python(*arguments, path=(), cwd):
    """Run this Python on its own, with folders put in front of what it can import."""
    found = os.pathsep.join(map(str, [*path, ROOT]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": found}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A written package and the documentation's, installed aside: (package, site, cwd)."""
    folder = tmp_path_factory.mktemp("plugin")
    package, site, shown = folder / "my-own", folder / "site", folder / "straight"
    code, said = python("-m", "harness", "new-precond", "my-own", cwd=folder)
    assert code == 0, said
    shown.mkdir()
    for name, text in titled_blocks("write-precond.md").items():
        if name in ("pyproject.toml", "straight.py"):
            (shown / name).write_text(text)
    pip = ["-m", "pip", "install", "--quiet", "--target", site, "--no-index", "--no-deps"]
    code, said = python(*pip, "--no-build-isolation", package, shown, cwd=folder)
    assert code == 0, said
    return package, site, folder


def test_the_written_package_keeps_its_own_contract(installed):
    package, site, folder = installed
    code, said = python("-m", "pytest", "-q", package, path=[site], cwd=folder)
    assert code == 0, said
    assert "4 passed" in said


def test_check_finds_installed_packages_by_name(installed):
    _, site, folder = installed
    code, said = python("-m", "harness", "check", "my-own", "straight", path=[site], cwd=folder)
    assert code == 0, said
    assert "my-own  tangency        ok  tangent" in said
    assert "straight  tangency        ok  tangent" in said
    code, said = python("-m", "harness", "list", "preconds", cwd=folder)
    assert "my-own" not in said, "found without being installed"


def test_what_is_written_is_tidy(installed):
    package, _, folder = installed
    for command in (["check"], ["format", "--check"]):
        code, said = python("-m", "ruff", *command, "--line-length", "100", package, cwd=folder)
        assert code == 0, said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ctm", "is called 'ctm' already"),
        ("Mine", "lower-case words"),
        ("../mine", "lower-case words"),
        ("class", "means something to Python"),
        ("torch", "means something to Python"),
    ],
)
def test_bad_names_are_refused(harness, tmp_path, name, words):
    code, out, err = harness("new-precond", name, "--into", tmp_path)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_folders_in_the_way_are_left_alone(harness, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").touch()
    assert harness("new-precond", "mine", "--into", tmp_path)[0] == 2
    assert not list((tmp_path / "mine").iterdir())
    code, _, err = harness("new-precond", "other", "--into", tmp_path / "file")
    assert code == 2
    assert "is not a folder" in err
    assert harness("new-precond", "other", "--into", tmp_path / "new")[0] == 0
    assert (tmp_path / "new" / "other" / "other.py").is_file()


BROKEN = """\
from harness.api import Coeffs, DenoiserForm, register_precond


@register_precond("off-by-a-little")
class OffByALittle(DenoiserForm):
    def outer(self, t, s):
        return 1 - s / t, 1.000001 * s / t


@register_precond("not-measurable")
class NotMeasurable(DenoiserForm):
    def calibrate(self, probe):
        raise ZeroDivisionError("nothing to divide by")
"""


def test_check_without_a_name_checks_every_preconditioning(harness, tmp_path):
    code, out, _ = harness("check", "--results", tmp_path)
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    for name in ("analytic", "bcm", "ctm", "edm"):
        assert rows[name] == ["ok"] * 9
    assert " 0 failures" in out


def test_broken_preconditionings_fail_and_hide_no_other(tmp_path):
    (tmp_path / "mine.py").write_text(BROKEN)
    info = tmp_path / "broken_one-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-one\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[harness.preconds]\nlost = nowhere_at_all:Lost\n")
    both = (
        "from harness.cli import main; mine = ['--plugin', 'mine.py'];"
        "assert main(['check', *mine]) == 1; assert main(['check', '--equivalence', *mine]) == 1"
    )
    code, said = python("-c", both, path=[tmp_path], cwd=tmp_path)
    assert code == 0, said
    assert re.search(r"^bcm( +ok){9} +-$", said, re.M)
    assert "off-by-a-little: boundary: not exact at s = t" in said
    assert re.search(r"^not-measurable: .*mine.py:\d+\): ZeroDivisionError: nothing to", said, re.M)
    assert "\nlost: precond 'lost' is broken" in said
    assert "not compared: not-measurable" in said
    assert "bcm = ctm" in said


def test_the_template_travels_with_the_package():
    import tomllib

    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pattern,) = config["tool"]["setuptools"]["package-data"]["harness.cli"]
    folder = ROOT / "harness" / "cli"
    assert sorted((folder / "template").iterdir()) == sorted(folder.glob(pattern))
