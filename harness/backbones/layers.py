"""The layers of EDM's U-Nets: linear, convolution with resampling, group norm, embeddings.

All weights are kept in float32 and every layer casts them to the dtype of its input, so that the
dtype in which a network computes is chosen by what is fed to it. Sources: Karras et al. 2022
(arXiv:2206.00364) and its published checkpoints, whose state-dict keys these names reproduce.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Mode = Literal["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"]


class Init(NamedTuple):
    """How weights are drawn: by `mode`, times `weight`; the bias likewise, times `bias`."""

    mode: Mode = "kaiming_normal"
    weight: float = 1.0
    bias: float = 0.0

    def draw(self, shape: Sequence[int], fan_in: int, fan_out: int, factor: float) -> nn.Parameter:
        """One draw of `shape`, times `factor` (the init's `weight` or `bias`)."""
        fan = (fan_in + fan_out) / 2 if self.mode.startswith("xavier") else fan_in
        if self.mode.endswith("normal"):
            return nn.Parameter(_normal(shape, factor * math.sqrt(1 / fan)))
        bound = factor * math.sqrt(3 / fan)
        return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def _normal(shape: Sequence[int], std: float) -> Tensor:
    """Normal draws; none on the meta device, where they would spend seconds on imports."""
    values = torch.empty(*shape)
    return values if values.is_meta else values.normal_(0, std)


def redraw(layer: Linear | Conv2d) -> None:
    """Draw a layer's weights as its constructor did, on the CPU whatever device they are on."""
    with torch.no_grad():
        for parameter, factor in (
            (layer.weight, layer.init.weight),
            (layer.bias, layer.init.bias),
        ):
            if parameter is not None:
                parameter.copy_(layer.init.draw(parameter.shape, *layer.fans, factor))


class Linear(nn.Module):
    """x W^T + b for x [B, in]; the bias is optional."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, init: Init | None = None
    ) -> None:
        super().__init__()
        self.init, self.fans = init or Init(), (in_features, out_features)
        self.weight = self.init.draw((out_features, in_features), *self.fans, self.init.weight)
        self.bias = self.init.draw((out_features,), *self.fans, self.init.bias) if bias else None

    def reset_parameters(self) -> None:
        """Draw weight and bias afresh."""
        redraw(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in] -> [B, out]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


class Conv2d(nn.Module):
    """A convolution of odd width that may halve (`down`) or double (`up`) the image as well.

    Resampling is a depthwise (transposed) convolution of stride 2 with the separable filter
    `resample_filter`, before the convolution, or after it when it is `fused` and goes down. With
    two equal taps, as in DDPM++ and ADM, that is a mean of four pixels or a repetition of one, the
    same to the bit and without the depthwise kernels, which are slow on a GPU. A `kernel` of 0 only
    resamples.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        resample: Literal["up", "down"] | None = None,
        resample_filter: Sequence[float] = (1, 1),
        fused: bool = False,
        init: Init | None = None,
    ) -> None:
        super().__init__()
        self.init = init or Init()
        self.fans = in_channels * kernel**2, out_channels * kernel**2
        self.resample, self.fused = resample, fused and kernel > 0
        self.box = len(resample_filter) == 2 and resample_filter[0] == resample_filter[1]
        self.in_channels, self.out_channels = in_channels, out_channels
        self.pad, self.filter_pad = kernel // 2, (len(resample_filter) - 1) // 2
        self.weight = self.bias = None
        if kernel:
            shape = out_channels, in_channels, kernel, kernel
            self.weight = self.init.draw(shape, *self.fans, self.init.weight)
            self.bias = self.init.draw((out_channels,), *self.fans, self.init.bias)
        kept = None
        if resample:
            norm = sum(resample_filter) ** 2
            kept = torch.tensor(
                [[[[a * b / norm for a in resample_filter] for b in resample_filter]]]
            )
        self.register_buffer("resample_filter", kept)

    def reset_parameters(self) -> None:
        """Draw weight and bias afresh, if there are any."""
        redraw(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H', W'], H' = H, H / 2 or 2 H."""
        if self.resample and self.fused:
            return self._fused(x)
        if self.resample == "up":
            x = self._up(x, self.filter_pad)
        elif self.resample == "down":
            x = self._down(x, self.filter_pad)
        return x if self.weight is None else self._convolve(x, self.pad)

    def unbiased(self, x: Tensor) -> Tensor:
        """The same without the bias, which whoever calls this adds; not for a `fused` one."""
        if self.resample:
            move = self._up if self.resample == "up" else self._down
            x = move(x, self.filter_pad)
        if self.weight is None:
            return x
        return functional.conv2d(x, self.weight.to(x.dtype), padding=self.pad)

    def _fused(self, x: Tensor) -> Tensor:
        # the two paddings are merged into one, so only borders differ from the unfused order
        if self.resample == "up":
            x = self._up(x, max(self.filter_pad - self.pad, 0))
            return self._convolve(x, max(self.pad - self.filter_pad, 0))
        x = functional.conv2d(x, self.weight.to(x.dtype), padding=self.pad + self.filter_pad)
        return self._down(x, 0) + self.bias.to(x.dtype)[:, None, None]

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return functional.conv2d(x, weight, bias, padding=padding)

    def _taps(self, x: Tensor) -> Tensor:
        return self.resample_filter.to(x.dtype).tile([x.shape[1], 1, 1, 1])

    def _down(self, x: Tensor, padding: int) -> Tensor:
        if self.box:
            return functional.avg_pool2d(x, 2)
        channels = x.shape[1]
        return functional.conv2d(x, self._taps(x), stride=2, padding=padding, groups=channels)

    def _up(self, x: Tensor, padding: int) -> Tensor:
        if self.box:
            return functional.interpolate(x, scale_factor=2, mode="nearest")
        options = {"stride": 2, "padding": padding, "groups": x.shape[1]}
        return functional.conv_transpose2d(x, 4 * self._taps(x), **options)


class GroupNorm(nn.Module):
    """Group normalisation with at most 32 groups of at least `least` channels each."""

    def __init__(self, channels: int, eps: float = 1e-5, least: int = 4) -> None:
        super().__init__()
        self.groups, self.eps = min(32, channels // least), eps
        if not self.groups or channels % self.groups:
            raise ValueError(f"{channels} channels do not divide into {self.groups} groups")
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Back to the identity."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return functional.group_norm(x, self.groups, weight, bias, self.eps)

    @property
    def settings(self) -> tuple[Tensor, Tensor, int, float]:
        """What `harness.backbones.fused` is told of a norm."""
        return self.weight, self.bias, self.groups, self.eps


class PositionalEmbedding(nn.Module):
    """[cos | sin] of the noise number at frequencies from 1 down to about 1/10000."""

    def __init__(self, width: int, *, endpoint: bool = False) -> None:
        super().__init__()
        self.width, self.endpoint = width, endpoint

    def forward(self, noise: Tensor) -> Tensor:
        """[B] -> [B, width], float32."""
        half = self.width // 2
        index = torch.arange(half, dtype=torch.float32, device=noise.device)
        angle = noise.float()[:, None] * (1 / 10000) ** (index / (half - self.endpoint))
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """[cos | sin] of the noise number at fixed random frequencies, kept among the weights."""

    def __init__(self, width: int, scale: float = 16) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("freqs", _normal((width // 2,), scale))

    def reset_parameters(self) -> None:
        """Draw the frequencies afresh."""
        self.freqs.copy_(_normal(self.freqs.shape, self.scale))

    def forward(self, noise: Tensor) -> Tensor:
        """[B] -> [B, width], float32."""
        # angles reach thousands of radians: the order of these products fixes the last digits
        angle = noise.float()[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angle.cos(), angle.sin()], dim=1)
