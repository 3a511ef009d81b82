"""`Backbone`, the base class of networks: input scaling, noise conditioning, the branch for s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.solver import per_sample
from harness.errors import ConfigError


class Backbone(nn.Module):
    """F(c_in(t) x, c_noise(t), c_noise(s)): raw output, of about unit variance, [B, *shape].

    c_in = 1/sqrt(t^2 + sigma_data^2) and c_noise = log(t)/4 (Karras et al. 2022, table 1), both
    computed in float64. Subclasses define `network` and `last_layer`. The branch for s is
    zero-initialised, so that an untrained student equals its teacher for every s; a grid may select
    another initialisation, or a branch in every block if the backbone has one (`adapt`).
    """

    sigma_data: float

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Raw output for x [B, *shape] at noise level t, conditioned on s (None: on t only)."""
        c_in = (t.double().square() + self.sigma_data**2).rsqrt()
        t, s = (None if level is None else self.c_noise(level).expand(len(x)) for level in (t, s))
        return self.network(per_sample(c_in, x) * x, t, s, labels)

    def network(
        self, x: Tensor, noise_t: Tensor, noise_s: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        """The network on c_in(t) x; noise_t, noise_s are c_noise of t and s, float32 [B]."""
        raise NotImplementedError

    def reset_parameters(self, seed: int) -> None:
        """Draw initial weights from a seed, the same on every device; the s branch outputs 0."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.modules():
                reset = getattr(module, "reset_parameters", None)
                if module is not self and callable(reset):
                    reset()
        self.zero_s_embedding()

    def zero_s_embedding(self) -> None:
        """Set the last layer of the branch for s to zero."""
        raise NotImplementedError

    def fuse(self) -> None:
        """Compile parts of the network, which changes rounding; the default does nothing."""

    def adapt(self, settings: Mapping[str, Any], seed: int) -> None:
        """Apply the non-default settings of a grid's `student` section; none is supported here.

        Args:
            settings: those of `dropout`, `s_branch` and `s_init` that are not the default.
            seed: seed of a random initialisation of the branch for s.

        Raises:
            ConfigError: this backbone does not support a setting.
        """
        if settings:
            raise ConfigError(
                f"student.{next(iter(settings))}: a {type(self).__name__} has no such choice, only"
                " the U-Nets of harness/backbones have; leave it out"
            )

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight at whose gradient adaptive weights of loss terms are measured."""
        raise NotImplementedError

    def c_noise(self, t: Tensor) -> Tensor:
        """The noise conditioning of the network, float32, shaped like t."""
        return (t.double().log() / 4).to(torch.float32)
