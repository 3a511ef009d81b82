"""An unchanged file is not read again, a changed one always is."""

import os
import shutil

import pytest

from harness.store import stamps
from harness.store.tables import kept_tables, sources
from tests.synthetic_results import spec, write_results

OLD = 1_000_000_000


@pytest.fixture
def read(monkeypatch):
    """Contents of the files that were read, in order."""
    found = []

    def sha256(content):
        found.append(content)
        return stamps_sha256(content)

    stamps_sha256 = stamps.hashlib.sha256
    monkeypatch.setattr(stamps, "is_recent", lambda _: False)
    monkeypatch.setattr(stamps.hashlib, "sha256", sha256)
    return found


def test_only_changed_files_are_read_again(tmp_path, read):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    first = stamps.digests(tmp_path, ["a", "b", "none"], {})
    assert list(first) == ["a", "b"]
    assert read == [b"one", b"two"]
    read.clear()
    assert stamps.digests(tmp_path, ["a", "b"], first) == first
    assert not read
    (tmp_path / "new").write_text("TWO")  # as long, and as old
    os.utime(tmp_path / "new", ns=(OLD, (tmp_path / "b").stat().st_mtime_ns))
    (tmp_path / "new").replace(tmp_path / "b")
    assert stamps.digests(tmp_path, ["a", "b"], first)["b"][0] != first["b"][0]
    assert read == [b"TWO"]


def test_a_file_that_may_still_change_unseen_has_no_stamp(tmp_path):
    (tmp_path / "a").write_text("one")
    (digest,) = stamps.digests(tmp_path, ["a"], {})["a"]
    assert stamps.digests(tmp_path, ["a"], {"a": [digest, 3, 0, 0, 0]})["a"] == [digest]


@pytest.mark.parametrize("known", [{"a": 5}, {"a": []}, {"a": ["x", 1]}, {"a": None}])
def test_what_is_known_may_be_anything(tmp_path, known):
    (tmp_path / "a").write_text("one")
    assert stamps.digests(tmp_path, ["a"], known) == stamps.digests(tmp_path, ["a"], {})


def test_tables_of_a_copied_folder_are_still_up_to_date(tmp_path, harness):
    store = write_results(tmp_path / "a", [spec("ctm"), spec("new")])
    harness("report", store.root)
    before = sources(store, "synthetic")
    kept = kept_tables(store, "synthetic", "txt")
    copy = type(store)(shutil.copytree(store.root, tmp_path / "b"))
    assert kept is not None
    assert kept_tables(copy, "synthetic", "txt") == kept
    assert [each[0] for each in sources(copy, "synthetic")["files"].values()] == [
        each[0] for each in before["files"].values()
    ]
    made_from = copy.root / "tables" / "synthetic" / "sources.json"
    for damage in ("[]", '{"files": 3}', '{"files": {"runs": 1}}'):
        made_from.write_text(damage)
        assert kept_tables(copy, "synthetic", "txt") is None
