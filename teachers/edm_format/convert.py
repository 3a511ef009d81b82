"""Open a teacher's file in any of EDM's formats, and convert it to safetensors."""

from __future__ import annotations

from pathlib import Path

from teachers.edm_format.checkpoint import Checkpoint, file_digest, refusal, require
from teachers.edm_format.safetensors_format import read_safetensors, write_safetensors
from teachers.edm_format.unpickle import read_pickle

_READERS = {".pkl": read_pickle, ".safetensors": read_safetensors}


def open_checkpoint(weights: str | Path) -> Checkpoint:
    """Open a .pkl or .safetensors file; no weights are read yet and torch is not imported.

    Raises:
        ConfigError: there is no such file, or it is not a usable teacher; the message says why.
    """
    path = require(weights)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = " or ".join(_READERS)
        other = " (a .pt is for teacher `openai`, or load_student)" if path.suffix == ".pt" else ""
        raise refusal(path, "is of no known kind", f"name a file ending in {known}{other}")
    return reader(path)


def convert(in_path: str | Path, out_path: str | Path) -> Path:
    """Write a teacher as safetensors and return the new file's path.

    The tensors are bitwise the same. The output is written atomically, after a check against the
    network built without memory, so that no unusable file is made.

    Raises:
        ConfigError: the input is not a usable teacher, or the output cannot be written.
    """
    from teachers.edm_format.network import check

    checkpoint, out = open_checkpoint(in_path), Path(out_path).expanduser()
    if out.suffix.lower() != ".safetensors":
        raise refusal(out, "is no name for the output", "let it end in .safetensors")
    if not out.parent.is_dir():
        raise refusal(out, "its folder does not exist", f"create {out.parent} first")
    check(checkpoint)
    try:
        write_safetensors(checkpoint, out, file_digest(checkpoint.path))
    except OSError as error:
        raise refusal(
            out, f"cannot be written ({error.strerror})", "choose another place"
        ) from None
    return out
