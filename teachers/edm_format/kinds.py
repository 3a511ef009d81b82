"""Recognise files of the wrong kind by their first bytes, and say what to do."""

from __future__ import annotations

from pathlib import Path

from teachers.edm_format.checkpoint import refusal

#: names the machine refuses are told with this
_RUN = "it was not loaded and nothing in it was run, but do not open it with other tools; "
_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")
#: first bytes -> (what it seems to be, what to do)
_KINDS: dict[bytes, tuple[str, str]] = {
    b"version https://git-lfs": (
        "is a Git LFS pointer, not the file that it points to",
        "run `git lfs pull` where it came from",
    ),
    b"PK\x03\x04": (
        "is a zip, which torch.save writes (.pt) and archives are",
        "give a .pt file to teacher `openai` or load_student, and unpack an archive",
    ),
    b"\x1f\x8b": ("is a gzip archive", "unpack it"),
    b"\xfd7zXZ": ("is an xz archive", "unpack it"),
    b"7z\xbc\xaf": ("is a 7z archive", "unpack it"),
    b"\x89HDF": ("is an HDF5 file", "name a weights file of PyTorch"),
    b"\x93NUMPY": ("is a numpy array", "name a weights file of PyTorch"),
    b"{": ("is a text file (JSON?)", "name the weights file it may belong to"),
}


def refuse_other_kinds(path: Path, expected: str) -> None:
    """Check that the first bytes of a file are not those of another kind than `expected`.

    Raises:
        ConfigError: says what kind of file it seems to be, and what to do.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise refusal(path, "is empty", "get it again from where it came from")
    if head.lstrip().lower().startswith(_PAGE):
        raise refusal(
            path,
            "is a web page: a download that asked for something else was saved under this name",
            f"open it in a browser to see what, and save {expected}",
        )
    for beginning, (problem, mend) in _KINDS.items():
        if head.startswith(beginning):
            raise refusal(path, f"{problem}; {expected} is expected here", mend)


def hostile(mend: str) -> str:
    """Advice for a file whose loading could execute code."""
    return _RUN + mend
