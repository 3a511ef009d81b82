"""What every backbone shares: the input map, the embedding of s, and its last layer."""

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
    computed in float64. Subclasses write `network` and `last_layer`. The branch that reads s is
    zero-initialised, so that a fresh student equals its teacher for every s; a grid may ask for
    another start, and for a branch in every block where a backbone has one (`adapt`).
    """

    sigma_data: float

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Raw output for x [B, *shape] at noise t, told where the jump ends (None: not told)."""
        c_in = (t.double().square() + self.sigma_data**2).rsqrt()
        t, s = (None if level is None else self.c_noise(level).expand(len(x)) for level in (t, s))
        return self.network(per_sample(c_in, x) * x, t, s, labels)

    def network(
        self, x: Tensor, noise_t: Tensor, noise_s: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        """The network proper; noise_t and noise_s are float32 [B]."""
        raise NotImplementedError

    def reset_parameters(self, seed: int) -> None:
        """Random initial weights from a seed, the same on every device; the s branch is silent."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.modules():
                reset = getattr(module, "reset_parameters", None)
                if module is not self and callable(reset):
                    reset()
        self.zero_s_embedding()

    def zero_s_embedding(self) -> None:
        """Set the last layer of the branch that reads s to zero."""
        raise NotImplementedError

    def fuse(self) -> None:
        """Have torch's compiler make fast what it can, at the price of rounding; nothing here."""

    def adapt(self, settings: Mapping[str, Any], seed: int) -> None:
        """Become the student of a grid's `student` section, less its defaults: here of none.

        Args:
            settings: of `dropout`, `s_branch` and `s_init`, those that are not the default.
            seed: what a random start of the branch that reads s is drawn from.

        Raises:
            ConfigError: this backbone has no such choice.
        """
        if settings:
            raise ConfigError(
                f"student.{next(iter(settings))}: a {type(self).__name__} has no such choice, only"
                " the U-Nets of harness/backbones have; leave it out"
            )

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight whose gradient balances the loss terms."""
        raise NotImplementedError

    def c_noise(self, t: Tensor) -> Tensor:
        """The number that tells the network a noise level, float32 like t."""
        return (t.double().log() / 4).to(torch.float32)
