"""The teacher's trajectories by direction: a basis of the data, and second moments in it.

The coordinates z = U (x - m) form groups: a principal direction of vectors, or a ring of
frequencies of an orthonormal cosine transform (DCT-II) in a principal colour of images. With the
teacher's D - m in the same coordinates, and

    G(t, s) = (z_s - (s/t) z_t) / (1 - s/t),

the mean of D along the trajectory from t to s, the moments of (G, D, z) determine the error before
training of any preconditioning that is linear in each coordinate. None of them is a difference of
large numbers, and groups are merged by summation (docs/mathematics.md, "Coefficients per
frequency").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.api import Basis, edm_inner
from harness.core.probe import Probe

#: number of principal directions that form a group each, and of groups of the remaining directions
SINGLE, OTHERS = 64, 64
#: rings of frequencies up to this radius are one frequency wide
NARROW = 8
#: rings in each doubling of the frequency beyond that
RINGS = 6
#: least number of values (trajectories times coordinates) in a band, so that its variance is known
#: to sqrt(2/1024) = 4.4 %
LEAST = 1024
#: batch size of the samples from which directions are estimated
BATCH = 1024
#: names of the moments by group and level, and by group and pair of levels
BY_LEVEL, BY_PAIR = ("zz", "Dz", "DD"), ("Gz", "GD", "GG")


def principal_basis(probe: Probe, mean: Tensor, directions: int = 0) -> tuple[list[Tensor], Tensor]:
    """Matrices of a basis of the data, one for each axis, and the group of each coordinate.

    Principal directions of clean samples around the teacher's mean, without teacher evaluations:
    of `directions` separate samples, or, if 0, of the samples of the measurement. In the latter
    case measured variances along the last directions are too small, since the directions were
    selected to have small variance on these samples.
    """
    shape = probe.shape
    centre = mean.to(probe.device)

    def products(x0: Tensor) -> Tensor:
        away = (x0 - centre).flatten(2) if len(shape) == 3 else (x0 - centre)[..., None]
        rows = away.mT.reshape(-1, shape[0])
        return rows.mT @ rows

    if directions:
        total = torch.zeros(shape[0], shape[0], dtype=torch.float64)
        for numbers in torch.arange(directions).split(BATCH):
            x0, _ = probe.dataset.draw(probe.seed, "directions", numbers)
            total += products(x0.to(probe.device).double()).cpu()
    else:
        total = probe.add_up(lambda draw: {"products": products(draw.x0)})["products"]
    directions = torch.linalg.eigh(total)[1].flip(1).mT.contiguous()  # largest variance first
    if len(shape) == 1:
        index = torch.arange(shape[0])
        width = max(1, -(-(shape[0] - SINGLE) // OTHERS))
        return [directions], torch.where(index < SINGLE, index, SINGLE + (index - SINGLE) // width)
    colours, height, width = shape
    u, v = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = (u.double().square() + v.double().square()).sqrt()
    beyond = NARROW + (RINGS * (radius / NARROW).clamp_min(1).log2()).floor()
    rings = torch.where(radius <= NARROW, radius.round(), beyond).long()
    rings = torch.unique(rings, return_inverse=True)[1]
    first = torch.arange(colours)[:, None, None] * (int(rings.max()) + 1)
    return [directions, cosines(height), cosines(width)], first + rings


def cosines(count: int) -> Tensor:
    """Matrix of the orthonormal DCT-II, float64 [count, count]; its rows are the cosines."""
    index = torch.arange(count, dtype=torch.float64)
    rows = (math.pi / count * index[:, None] * (index + 0.5)).cos() * math.sqrt(2 / count)
    rows[0] /= math.sqrt(2)
    return rows


def sums_by_group(
    basis: Basis, sigma: Tensor, places: Sequence[Tensor], denoised: Sequence[Tensor], x0: Tensor
) -> dict[str, Tensor]:
    """Second moments of a batch by group, summed over samples and a group's coordinates.

    Args:
        places: x_t - m at every level, [B, *shape] each.
        denoised: D(x_t, t) - m.
        x0: the clean samples less m.

    Returns:
        `zz`, `Dz`, `DD` [groups, levels]; `Gz`, `GD`, `GG` [groups, levels (t), levels (s)], zero
        unless s < t; `z0z0` [groups], of the clean samples.
    """
    z, D = (torch.stack([basis.coordinates(x).flatten(1) for x in xs]) for xs in (places, denoised))
    z0, groups = basis.coordinates(x0).flatten(1), basis.bands.flatten()

    def grouped(values: Tensor) -> Tensor:
        """[..., coordinates] -> [groups, ...]."""
        total = values.new_zeros(*values.shape[:-1], basis.count)
        return total.index_add(-1, groups, values).movedim(-1, 0)

    count = len(sigma)
    pairs = {name: z.new_zeros(count, count, z.shape[-1]) for name in BY_PAIR}
    for k in range(count - 1):
        left = (sigma[k + 1 :] / sigma[k])[:, None, None]
        G = (z[k + 1 :] - left * z[k]) / (1 - left)
        pairs["Gz"][k, k + 1 :] = torch.einsum("lbd,bd->ld", G, z[k])
        pairs["GD"][k, k + 1 :] = torch.einsum("lbd,bd->ld", G, D[k])
        pairs["GG"][k, k + 1 :] = torch.einsum("lbd,lbd->ld", G, G)
    by_level = {"zz": (z * z).sum(1), "Dz": (D * z).sum(1), "DD": (D * D).sum(1)}
    found = {**by_level, **pairs, "z0z0": (z0 * z0).sum(0)}
    return {name: grouped(value) for name, value in found.items()}


def merged(variance: Tensor, sizes: Tensor, samples: int, most: int, least: float) -> Tensor:
    """The band of each group, int64 [groups], numbered in order of decreasing variance.

    Groups of similar variance have similar coefficients. Neighbours in order of variance are
    merged, the closest in log variance first, until every band has `LEAST` values and there are at
    most `most` bands.

    Args:
        variance: variance of clean data, mean over a group's coordinates, [groups].
        sizes: number of coordinates of each group, [groups].
        samples: number of trajectories measured.
        least: smaller variances are treated as equal to this one, that of the lowest noise level.
    """
    order = variance.argsort(descending=True, stable=True).tolist()
    bands = [[group] for group in order]

    def level(members: list[int]) -> float:
        mean = float((variance[members] * sizes[members]).sum() / sizes[members].sum())
        return math.log(max(mean, least))

    def join(at: int) -> None:
        bands[at : at + 2] = [bands[at] + bands[at + 1]]

    while len(bands) > 1:
        levels = [level(members) for members in bands]
        steps = [levels[k] - levels[k + 1] for k in range(len(bands) - 1)]
        poor = [k for k, m in enumerate(bands) if samples * int(sizes[m].sum()) < LEAST]
        if poor:
            sides = [k for k in (poor[0] - 1, poor[0]) if 0 <= k < len(steps)]
            join(min(sides, key=lambda k: steps[k]))
        elif len(bands) > most:
            join(min(range(len(steps)), key=lambda k: steps[k]))
        else:
            break
    found = torch.empty(len(order), dtype=torch.int64)
    for number, members in enumerate(bands):
        found[members] = number
    return found


def of_band(artifact: dict[str, Tensor], members: Tensor, sd: float) -> dict[str, Tensor]:
    """The moments of (Y, F^, x^) of one band, in the form of `trajectories.measure`.

    Args:
        members: groups in the band, bool [groups].
        sd: standard deviation that takes the place of sigma_data in x^, F^ and Y.
    """
    count = artifact["sizes"][members].sum()
    zz, Dz, DD, Gz, GD, GG = (artifact[name][members].sum(0) / count for name in BY_LEVEL + BY_PAIR)
    sigma = artifact["sigma"]
    c_skip, c_out = edm_inner(sigma, sd)
    radius = (sigma * sigma + sd * sd).sqrt()
    of_level = {
        "xx": zz / radius**2,
        "Fx": (Dz - c_skip * zz) / (c_out * radius),
        "FF": (DD - 2 * c_skip * Dz + c_skip**2 * zz) / c_out**2,
    }
    zz, Dz, c_skip, c_out, radius = (each[:, None] for each in (zz, Dz, c_skip, c_out, radius))
    of_pair = {
        "Yx": (Gz - c_skip * zz) / (c_out * radius),
        "YF": (GD - c_skip * (Gz + Dz) + c_skip**2 * zz) / c_out**2,
        "YY": (GG - 2 * c_skip * Gz + c_skip**2 * zz) / c_out**2,
    }
    return {"sigma": sigma, **of_level, **{name: each.triu(1) for name, each in of_pair.items()}}
