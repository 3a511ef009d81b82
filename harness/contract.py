"""Checks that a preconditioning keeps its contract: `check precond NAME`, or from a test suite.

from harness.contract import check_precond
assert not [f for f in check_precond(create_precond("mine", sigma_data=0.5)) if not f.ok]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from harness.api import Coeffs, ConfigError, DenoiserForm, Preconditioning, edm_inner
from harness.core.schedule import karras
from harness.errors import HarnessError, described
from harness.registry import place

NODES = 24


class ContractError(ConfigError):
    """A preconditioning breaks its contract; the message names the check and the reason."""


@dataclass(frozen=True)
class Finding:
    """Result of one check: its name, whether it passed, and the measured value or the reason."""

    check: str
    ok: bool
    detail: str


def check_precond(precond: Preconditioning) -> list[Finding]:
    """Run every check on a (calibrated) preconditioning; a check that raises counts as failed.

    If `coeffs` returns no valid coefficients, only the finding of the check `coeffs` is returned.
    """
    given = _run(_coeffs, precond)
    if not given.ok:
        return [given]
    checks: list[Callable[[Preconditioning], str]] = [
        _broadcast,
        _dtype,
        _finite,
        _boundary,
        _tangency,
        _denoiser,
        _differentiable,
        _upward,
        _deterministic,
    ]
    return [_run(check, precond) for check in checks]


def refuse_broken(
    precond: Preconditioning,
    command: str = "",
    *,
    differentiates: bool = False,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Run the checks that training depends on, and raise at the first that fails.

    Coefficients must be finite float64 tensors, one for each pair (t, s), and exact at s = t.

    Args:
        command: the command that runs all checks, quoted in the error message.
        differentiates: whether the objective needs derivatives along t (`jump_tangent`).
        shape: shape of one sample, which a basis must match; None skips that check.

    Raises:
        ContractError: names the failed check, the reason, and the file and line of the plugin.
    """

    def _basis(precond: Preconditioning) -> str:
        basis = precond.basis
        _require(
            basis is None or shape is None or basis.shape == tuple(shape),
            f"its basis is for samples of shape {basis and list(basis.shape)}, the data's are"
            f" {shape and list(shape)}",
        )
        return "fits"

    needed = [_basis, _coeffs, _shape, _dtype, _finite, _boundary]
    for check in [*needed, _differentiable] if differentiates else needed:
        finding = _run(check, precond)
        if not finding.ok:
            raise ContractError(
                f"precond {precond.name!r} breaks its contract ({finding.check}:"
                f" {finding.detail})" + (f"; `{command}` tells more" if command else "")
            )


def _run(check: Callable[[Preconditioning], str], precond: Preconditioning) -> Finding:
    name, cls = check.__name__.removeprefix("_"), type(precond)
    try:
        return Finding(name, True, check(precond))
    except HarnessError as error:
        told, where = str(error), place(cls, method=_written_in(precond))
    except Exception as error:
        told, where = f"{type(error).__name__}: {error}", place(cls, error)
    return Finding(name, False, f"{told}, in {where}")


def _written_in(precond: Preconditioning) -> str:
    """Name of the method in which the subclass defines its coefficients: `outer` or `coeffs`."""
    return "outer" if type(precond).coeffs is DenoiserForm.coeffs else "coeffs"


def _require(held: bool, sentence: str) -> None:
    if not held:
        raise ContractError(sentence)


def _grid(precond: Preconditioning) -> Tensor:
    return karras(NODES, precond.sigma_min, precond.sigma_max)


def _parts(coeffs: Coeffs, precond: Preconditioning | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, value) of each coefficient that is not None, split by band if `precond` has one.

    Raises:
        ContractError: the last axis of a coefficient does not match the number of bands.
    """
    basis = None if precond is None else precond.basis
    for name, value in zip(Coeffs._fields, coeffs, strict=True):
        if value is None:
            continue
        if basis is None:
            yield name, value
            continue
        _require(
            value.dim() > 0 and value.shape[-1] == basis.count,
            f"{name} has shape {list(value.shape)}, and its last axis is for the {basis.count}"
            " bands of the basis",
        )
        for band in range(basis.count):
            yield f"{name} of band {band}", value[..., band]


def _by_band(coeffs: Coeffs, precond: Preconditioning) -> Coeffs:
    """Expand coefficients of the implied denoiser to [N, bands] if there are bands."""
    if precond.basis is None:
        return coeffs
    count = precond.basis.count
    parts = (
        each if each is None or each.dim() > 1 else each[..., None].expand(*each.shape, count)
        for each in coeffs
    )
    return Coeffs(*parts)


def _is_skip(name: str) -> bool:
    return name.split()[0] == "skip"


def _coeffs(precond: Preconditioning) -> str:
    """`coeffs(t, s)` returns `Coeffs` of tensors (and `outer` a pair of them) for t and s [N]."""
    t, s = _grid(precond)[:-1], _grid(precond)[1:]
    if _written_in(precond) == "outer" and isinstance(precond, DenoiserForm):
        pair: object = precond.outer(t, s)
        _require(
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and all(isinstance(value, Tensor) for value in pair),
            f"outer gave {described(pair)}, expected (alpha, beta), two float64 tensors",
        )
    found: object = precond.coeffs(t, s)
    if not isinstance(found, Coeffs):
        raise ContractError(
            f"coeffs gave {described(found)}, expected Coeffs(skip, out) of float64 tensors"
        )
    for name, value in _parts(found):
        _require(
            isinstance(value, Tensor),
            f"coeffs gave {name} = {described(value)}, expected a float64 tensor",
        )
    return "given"


def _shape(precond: Preconditioning) -> str:
    """For t [N] and s [N] every coefficient has shape [N], or is a single number."""
    t, s = _grid(precond)[:-1], _grid(precond)[1:]
    for name, value in _parts(precond.coeffs(t, s), precond):
        _require(
            value.shape in ((), (1,), t.shape),
            f"{name} has shape {list(value.shape)} for t and s of shape {list(t.shape)}",
        )
    return "one a pair"


def _broadcast(precond: Preconditioning) -> str:
    """t [N, 1] against s [N] gives [N, N], equal to one pair at a time."""
    grid = _grid(precond)
    table = precond.coeffs(grid[:, None], grid)
    for name, value in _parts(table, precond):
        # no more axes than two, each of length 1 or N
        fits = value.dim() <= 2 and all(length in (1, NODES) for length in value.shape)
        _require(fits, f"{name} has shape {tuple(value.shape)} for t [N, 1], s [N]")
    i, j = 3, NODES - 4
    single = precond.coeffs(grid[i : i + 1], grid[j : j + 1])
    for (name, full), (_, one) in zip(_parts(table, precond), _parts(single, precond), strict=True):
        gap = float((full.expand(NODES, NODES)[i, j] - one.reshape(())).abs().nan_to_num(0))
        small = gap <= 1e-12 * max(1.0, float(one.abs().nan_to_num(0)))
        _require(small, f"{name} depends on the batch: {gap:.1e}")
    return "t [N, 1], s [N] -> [N, N]"


def _dtype(precond: Preconditioning) -> str:
    """Coefficients are float64, and so are alpha, beta, c_skip and c_out of a `DenoiserForm`.

    Those are checked on their own because their product may be float64 when one of them is not.
    """
    grid = _grid(precond)
    t, s = grid[:-1], grid[1:]
    parts = list(_parts(precond.coeffs(t, s), precond))
    if isinstance(precond, DenoiserForm):
        parts += zip(("alpha of `outer`", "beta of `outer`"), precond.outer(t, s), strict=True)
        parts += zip(("c_skip of `inner`", "c_out of `inner`"), precond.inner(t, s), strict=True)
    for name, value in parts:
        _require(value.dtype == torch.float64, f"{name} is {value.dtype}, not float64")
    return "float64"


def _finite(precond: Preconditioning) -> str:
    """No NaN or infinity for any sigma_min <= s <= t <= sigma_max."""
    grid = _grid(precond)
    i, j = torch.triu_indices(NODES, NODES)
    for name, value in _parts(precond.coeffs(grid[i], grid[j]), precond):
        bad = (~value.isfinite()).nonzero()
        if len(bad):
            k = int(bad[0])
            raise ContractError(f"{name} is {value[k]:g} at t={grid[i[k]]:.4g}, s={grid[j[k]]:.4g}")
    return f"{len(i)} pairs"


def _boundary(precond: Preconditioning) -> str:
    """skip = 1, out = 0, shift = 0 exactly at s = t: f(x, t, t) = x."""
    grid = _grid(precond)
    values = dict(_parts(precond.coeffs(grid, grid), precond))
    off = {
        name: float((value - float(_is_skip(name))).abs().max()) for name, value in values.items()
    }
    bad = {name: value for name, value in off.items() if value != 0}
    told = ", ".join(f"{name} off by {value:.1e}" for name, value in bad.items())
    _require(not bad, f"not exact at s = t: {told}")
    return "exact"


def _tangency(precond: Preconditioning) -> str:
    """`tangent` is declared if and only if the implied denoiser has EDM's c_skip and c_out.

    If so, and F is the teacher's raw output, f is a discretisation of the teacher's ODE.
    """
    grid = _grid(precond)
    implied = precond.denoiser_coeffs(grid)
    c_skip, c_out = edm_inner(grid, precond.sigma_data)
    wanted = {"skip": c_skip, "out": c_out}
    gap = max(
        float((value - wanted.get(name.split()[0], 0 * grid)).abs().max())
        for name, value in _parts(_by_band(implied, precond), precond)
    )
    tangent = gap < 1e-6
    _require(
        tangent == precond.tangent,
        f"declares tangent = {precond.tangent}, but its implied denoiser is {gap:.1e} from the"
        " teacher's",
    )
    return "tangent" if tangent else f"not tangent, as declared (off by {gap:.2g})"


def _denoiser(precond: Preconditioning) -> str:
    """`denoiser_coeffs` agrees with a one-sided difference quotient of `coeffs` in s at s = t."""
    grid = _grid(precond)[:-1]
    implied = precond.denoiser_coeffs(grid)
    h, worst = 1e-6, 0.0
    near = precond.coeffs(grid, grid * (1 - h))
    nearer = precond.coeffs(grid, grid * (1 - h / 2))
    for (name, one), (_, half) in zip(_parts(near, precond), _parts(nearer, precond), strict=True):
        at = float(_is_skip(name))
        slope = 2 * (at - half) / (h / 2) - (at - one) / h  # = t d/ds, error O(h^2)
        found = dict(_parts(_by_band(implied, precond), precond)).get(name, torch.zeros_like(grid))
        expected = (1 - slope) if _is_skip(name) else -slope
        worst = max(worst, float(((found - expected).abs() / expected.abs().clamp_min(1)).max()))
    told = f"denoiser_coeffs is {worst:.1e} from the slope of coeffs"
    if type(precond).denoiser_coeffs is Preconditioning.denoiser_coeffs:
        told += "; keep .item(), .detach() and numpy out of coeffs, or define denoiser_coeffs too"
    _require(worst < 1e-3, told)
    return f"within {worst:.0e} of the slope"


def _differentiable(precond: Preconditioning) -> str:
    """Forward-mode derivatives of `coeffs(t, sigma_min)` along log t match central differences."""
    grid, h = _grid(precond)[1:-1], 1e-5
    end, worst = grid * 0 + precond.sigma_min, 0.0
    near = [precond.coeffs(grid * (1 + side * h), end) for side in (-1, 1)]
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(grid, grid)  # along log t
        parts = dict(_parts(precond.coeffs(moving, end), precond))
        slopes = {name: forward_ad.unpack_dual(value).tangent for name, value in parts.items()}
    for name, slope in slopes.items():
        below, above = (dict(_parts(each, precond))[name] for each in near)
        expected = (above - below) / (2 * h)
        found = torch.zeros_like(expected) if slope is None else slope
        error = (found - expected).abs() / expected.abs().clamp_min(1)
        worst = max(worst, float(error.nan_to_num(math.inf).max()))
    _require(worst < 1e-4, f"derivatives of coeffs along log t are off by {worst:.1e}")
    return f"within {worst:.0e} of differences"


def _upward(precond: Preconditioning) -> str:
    """If `upward` is declared, coefficients for s > t are bounded and differentiable at s = t.

    The bounds are four times those of Gaussian data with noise at s.
    """
    if not precond.upward:
        return "not for s > t, as declared"
    grid = _grid(precond)
    i, j = torch.triu_indices(NODES, NODES)
    radius = (grid**2 + precond.sigma_data**2).sqrt()
    sizes = {"skip": radius[i] / radius[j], "out": radius[i]}  # of Gaussian data and noise at s
    for name, value in _parts(precond.coeffs(grid[j], grid[i]), precond):
        largest = (value.abs() / sizes.get(name.split()[0], 1)).nan_to_num(math.inf).max()
        _require(float(largest) < 4, f"{name} is {largest:.1e} times too large for some s > t")
    t, h = grid[1:-1], 1e-7
    sides = [dict(_parts(precond.coeffs(t, t * (1 + side * h)), precond)) for side in (-1, 1)]
    for name in sides[0]:
        kink = (sides[0][name] + sides[1][name]) / 2 - float(_is_skip(name))
        gap = float(kink.abs().max()) / h
        _require(gap < 1e-2, f"{name} has a kink at s = t: its slopes differ by {gap:.1e}")
    return "for s > t too"


def _deterministic(precond: Preconditioning) -> str:
    """The same coefficients when asked twice."""
    grid = _grid(precond)
    pairs = zip(
        _parts(precond.coeffs(grid[:-1], grid[1:]), precond),
        _parts(precond.coeffs(grid[:-1], grid[1:]), precond),
        strict=True,
    )
    for (name, one), (_, two) in pairs:
        same = torch.allclose(one, two, rtol=0, atol=0, equal_nan=True)  # `finite` tells of NaN
        _require(same, f"{name} changes between calls")
    return "repeatable"
