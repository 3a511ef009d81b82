"""Files of reference statistics: mean and scatter of features, and the metadata that defines them.

An .npz with `n` (int64), `mean` [d] and `m2` [d, d] (float64), `meta` (UTF-8 JSON as bytes) and
`key`, the hash of `meta` without library versions. The scatter M2 is stored rather than a
covariance because it can be merged. A file that does not match is never recomputed silently: the
error lists the differences.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.api import ConfigError, Extractor, content_digest
from harness.evaluate.moments import Moments
from harness.evaluate.naming import is_official
from harness.evaluate.sources import Source, npz_names, read_npz
from harness.store.files import write_atomic

FORMAT = 1
#: fields of the metadata that are for information only, and are not part of the key
ASIDE = ("versions", "source", "imported")
#: negative eigenvalues of a scatter up to this fraction of the largest count as float32 rounding
NEGATIVE = 1e-6


@dataclass(frozen=True)
class Reference:
    """Moments of features, their metadata, and the file they were read from."""

    moments: Moments
    meta: dict[str, Any]
    path: Path | None = None

    @property
    def key(self) -> str:
        """Hash of the metadata except `ASIDE`: extractor with preprocessing, content, n."""
        return content_digest({k: v for k, v in self.meta.items() if k not in ASIDE}, length=64)

    @property
    def file_name(self) -> str:
        """`<source>-<extractor>-<key>.npz`."""
        name = self.meta["extractor"].partition("@")[0]
        return f"{Path(self.meta['source']).stem}-{name}-{self.key[:12]}.npz".replace(":", "_")

    def save(self, path: Path) -> Path:
        """Write to the file `path`, or as `file_name` if it is a folder; return the file's path.

        Raises:
            ConfigError: `path` is neither a folder nor ends in .npz.
        """
        if path.is_dir():
            path = path / self.file_name
        elif path.suffix != ".npz":
            raise ConfigError(f"{path}: statistics go to a file ending in .npz or into a folder")
        buffer = io.BytesIO()
        np.savez(
            buffer,
            n=np.int64(self.moments.n),
            mean=self.moments.mean.numpy(),
            m2=self.moments.m2.numpy(),
            meta=np.frombuffer(json.dumps(self.meta, sort_keys=True).encode(), np.uint8),
            key=np.frombuffer(self.key.encode(), np.uint8),
        )
        write_atomic(path, buffer.getvalue())
        return path


def describe(extractor: Extractor, source: Source) -> dict[str, Any]:
    """Metadata of the statistics of a source, whose pixels must have been read for the digest."""
    return {
        "format": FORMAT,
        "extractor": extractor.id,
        "shape": list(source.shape),
        "content": source.digest,
        "n": source.n,
        "source": source.path.name,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def is_statistics(path: str | Path) -> bool:
    """Whether a file holds statistics (ours, or mu and sigma) rather than images."""
    path = Path(path)
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    names = set(npz_names(path))
    return {"mean", "m2"} <= names or {"mu", "sigma"} <= names


def load_reference(
    path: Path, extractor: Extractor, n: int | None = None, **expected: Any
) -> Reference:
    """Read statistics for use with an extractor.

    Files of EDM, ADM and clean-fid (`mu`, `sigma`) do not contain the number of images, which must
    be given as `n`. They are assumed to be of official Inception features, as those projects
    publish, with the resize of `extractor`; extractors with other weights are refused.

    Args:
        n: number of images; needed if the file does not contain it, else it must agree.
        expected: further fields of the metadata that must agree, e.g. `content` or `shape`.

    Raises:
        ConfigError: the file is damaged, has no statistics, or does not match; lists differences.
    """
    arrays = read_npz(path)
    if not {"mean", "m2", "n", "meta", "key"} <= set(arrays):
        if {"mu", "sigma"} <= set(arrays):
            return _imported(path, arrays, n, extractor)
        raise ConfigError(f"{path} holds {', '.join(arrays)}: no statistics of features")
    reference = _own(path, arrays)
    told = {} if n is None else {"n": n}
    expected = {"format": FORMAT, "extractor": extractor.id, **told, **expected}
    differing = [
        f"{field} is {reference.meta.get(field)!r} there, {value!r} here"
        for field, value in expected.items()
        if reference.meta.get(field) != value
    ]
    if differing:
        raise ConfigError(
            f"{path} is of something else: {'; '.join(differing)}; choose the extractor it was made"
            " with, or make statistics anew with `fid IMAGES --save FILE.npz`"
        )
    return reference


def _own(path: Path, arrays: dict[str, np.ndarray]) -> Reference:
    try:
        meta = json.loads(bytes(arrays["meta"]))
        key = bytes(arrays["key"]).decode()
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: its metadata is damaged ({error}); make it again") from None
    moments = _moments(path, int(arrays["n"]), arrays["mean"], arrays["m2"])
    reference = Reference(moments, meta, path)
    if reference.key != key or meta.get("n") != moments.n:
        raise ConfigError(
            f"{path}: its metadata does not belong to its key ({key[:12]} written,"
            f" {reference.key[:12]} found): it was changed or is stale; make it again with"
            " `fid IMAGES --save FILE.npz`"
        )
    return reference


def _imported(
    path: Path, arrays: dict[str, np.ndarray], n: int | None, extractor: Extractor
) -> Reference:
    if n is None or n < 2:
        raise ConfigError(
            f"{path} holds mu and sigma but not of how many images: say so with --reference-n N,"
            " in a grid with `n` beside `file` (EDM's CIFAR-10 file: 50000)"
        )
    if not is_official(extractor.id):
        raise ConfigError(
            f"{path} does not say of which features its mu and sigma are: they are taken for the"
            " official Inception's, which EDM, ADM and clean-fid publish, and cannot be compared"
            f" with {extractor.id!r}; choose extractor 'inception', or make statistics with `fid"
            " IMAGES --save FILE.npz`"
        )
    moments = _moments(path, n, arrays["mu"], np.asarray(arrays["sigma"], np.float64) * (n - 1))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Reference(
        moments,
        {
            "extractor": extractor.id,
            "content": digest,
            "n": n,
            "source": path.name,
            "imported": True,
        },
        path,
    )


def _moments(path: Path, n: int, mean: np.ndarray, m2: np.ndarray) -> Moments:
    d = mean.size
    why = None
    if mean.ndim != 1 or m2.shape != (d, d):
        why = f"shapes {list(mean.shape)} and {list(m2.shape)} do not fit together"
    elif mean.dtype.kind != "f" or m2.dtype.kind != "f":
        why = "they are not floating-point numbers"
    elif not (np.isfinite(mean).all() and np.isfinite(m2).all()):
        why = "they are not finite"
    elif abs(m2 - m2.T).max() > 1e-6 * max(abs(m2).max(), 1e-300):
        why = "the scatter is not symmetric"
    elif n < 2:
        why = f"n is {n}"
    elif (least := _least_variance(m2)) < -NEGATIVE:
        why = f"a variance is negative, {least:.2g} of the largest in size"
    if why:
        raise ConfigError(f"{path}: these are no mean and covariance ({why}); make the file again")
    return Moments(n, torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(m2).double())


def _least_variance(m2: np.ndarray) -> float:
    """Smallest eigenvalue of a scatter over the largest in modulus; 0 for a zero matrix."""
    values = torch.linalg.eigvalsh(torch.from_numpy(m2).double())
    return float(values[0] / values.abs().max().clamp_min(1e-300)) if len(values) else 0.0
