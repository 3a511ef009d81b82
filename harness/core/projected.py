"""A projected discriminator: small networks on random mixtures of a frozen network's features.

Sauer et al. 2021, "Projected GANs converge faster" (arXiv 2111.01007), as CTM's code has it, but
without state: norms are over groups of channels of one sample, not over the batch, and spectral
norms are exact, not carried from step to step. So logits of a sample depend on it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

END = 8  # maps of this side or less are not halved any more
KERNEL = 4  # kernel of the last convolution, and smallest side of a map


class SpectralConv(nn.Conv2d):
    """Convolution with W/|W|, |W| the largest singular value of W as a matrix [out, rest]."""

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Conv2d`."""
        return self._conv_forward(x, self.weight / self.norm(), self.bias)

    def norm(self) -> Tensor:
        """The spectral norm |W| = u W v; with u and v held constant its gradient is exact."""
        matrix = self.weight.flatten(1)
        with torch.autocast(matrix.device.type, enabled=False):
            with torch.no_grad():
                double = matrix.double()
                u = torch.linalg.eigh(double @ double.T).eigenvectors[:, -1]
                v = functional.normalize(double.T @ u, dim=0)
            return (u.to(matrix.dtype) @ matrix) @ v.to(matrix.dtype)


class Projection(nn.Module):
    """Mixes feature maps of several scales by fixed random 1 x 1 convolutions.

    Map k (0 is the finest) goes to `width` 2^k channels. From the coarsest map upwards, the mixture
    of the scale below is added, the sum is upsampled by two, and a second convolution halves its
    channels (the finest keeps `width`). Each result has twice the side of its map.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(len(channels))]
        #: channels of the results, fine to coarse
        self.channels = [width, *widths[:-1]]
        self.mix = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths, strict=True))
        self.merge = nn.ModuleList(
            nn.Conv2d(w, out, 1) for w, out in zip(widths, self.channels, strict=True)
        )
        self.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mixtures of maps [B, channels[k], h, w], each half as large as the one before."""
        mixed = [mix(x) for mix, x in zip(self.mix, maps, strict=True)]
        found: list[Tensor] = []
        for merge, x in zip(reversed(self.merge), reversed(mixed), strict=True):
            x = x + found[-1] if found else x
            size = (2 * x.shape[2], 2 * x.shape[3])
            x = functional.interpolate(x, size, mode="bilinear", align_corners=True)
            found.append(merge(x))
        return found[::-1]


class Head(nn.Sequential):
    """Logits [B, n] of one mixture [B, channels, side, side], halved until it is `END` or less.

    At a side of 2^j there are 4096/2^j channels, in the range width..8 width.
    """

    def __init__(self, channels: int, side: int, width: int) -> None:
        layers: list[nn.Module] = []
        while side > END:
            side //= 2
            nominal = 2 ** (side - 1).bit_length()
            out = min(max(64 * width // nominal, width), 8 * width)
            layers += [
                SpectralConv(channels, out, 4, 2, 1),
                nn.GroupNorm(out // 2, out),
                nn.LeakyReLU(0.2),
            ]
            channels = out
        super().__init__(*layers, SpectralConv(channels, 1, KERNEL, bias=False), nn.Flatten())


class Discriminator(nn.Module):
    """Discriminator logits of feature maps, those of all heads concatenated to [B, n].

    Args:
        shapes: (channels, side) of the maps, fine to coarse, each half as large as the one before.
        width: channels of the finest mixture.

    Raises:
        ValueError: a side is not half the one before, or the last one is below 2.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], width: int) -> None:
        super().__init__()
        sides = [side for _, side in shapes]
        halves = all(a == 2 * b for a, b in pairwise(sides))
        if not halves or 2 * sides[-1] < KERNEL:
            raise ValueError(f"feature maps have sides {sides}; each must be half the one before")
        self.projection = Projection([channels for channels, _ in shapes], width)
        self.heads = nn.ModuleList(
            Head(channels, 2 * side, width)
            for channels, side in zip(self.projection.channels, sides, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """All logits [B, n], in the precision of the maps."""
        mixtures = self.projection(maps)
        return torch.cat([head(x) for head, x in zip(self.heads, mixtures, strict=True)], 1)


def fooling(logits: Tensor) -> Tensor:
    """The generator's loss: minus the mean logit of what it made."""
    return -logits.mean()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: E[max(0, 1 - D(real))] + E[max(0, 1 + D(fake))]."""
    return (1 - real).relu().mean() + (1 + fake).relu().mean()
