"""Full-covariance Gaussian mixtures fitted by EM, and the fit that is shipped.

`python -m teachers.mixture.fit` makes the shipped file, in a minute on one core.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

SHIPPED = Path(__file__).parent / "patches.safetensors"
ITERATIONS = 30
Array = np.ndarray


class Fit(NamedTuple):
    """Weights [K], means [K, d] and covariances [K, d, d], float64."""

    weights: Array
    means: Array
    covariances: Array


def fit(values: Array, components: int, floor: float, seed: int) -> Fit:
    """Fit a mixture to `values` [n, d] by a fixed number of EM iterations from k-means.

    As a property of EM, mean and covariance of the mixture are those of the values (plus `floor` on
    the diagonal). Results are rounded to float32, since machines differ in the last bits.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        components, reg_covar=floor, random_state=seed, tol=0, max_iter=ITERATIONS
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # tol=0: the count of steps decides
        model.fit(values)
    found = (model.weights_, model.means_, model.covariances_)
    return Fit(*(value.astype(np.float32).astype(np.float64) for value in found))


@functools.cache
def shipped() -> Fit:
    """The fit of the teacher `patches` with default parameters."""
    stored = load_file(SHIPPED)
    triangles = stored["covariances"].astype(np.float64)
    dim = stored["means"].shape[1]
    covariances = np.zeros((len(triangles), dim, dim))
    rows, columns = np.tril_indices(dim)
    covariances[:, rows, columns] = covariances[:, columns, rows] = triangles
    weights, means = (stored[key].astype(np.float64) for key in ("weights", "means"))
    return Fit(weights, means, covariances)


def ship(found: Fit) -> None:
    """Write the file that `shipped` reads: float32, lower triangles."""
    rows, columns = np.tril_indices(found.means.shape[1])
    arrays = {**found._asdict(), "covariances": found.covariances[:, rows, columns]}
    save_file({k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}, SHIPPED)


if __name__ == "__main__":
    from harness.api import create_teacher

    ship(create_teacher("patches").fitted_here())  # type: ignore[attr-defined]
    print(f"{SHIPPED}  {SHIPPED.stat().st_size / 1e6:.1f} MB")
