"""The backbone that combines one of EDM's U-Nets with the coefficients it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from harness.backbones.adm import DhariwalUNet
from harness.backbones.base import Backbone
from harness.backbones.block import SEmbedding, UNetBlock
from harness.backbones.dropout import Dropout
from harness.backbones.inner import InnerMap
from harness.backbones.song import SongUNet
from harness.core.solver import per_sample


class UNetBackbone(Backbone):
    """F in EDM's form for images [B, C, R, R], whatever coefficients the network was trained with.

    Attributes:
        net: the network proper, with the state-dict keys of a checkpoint less their `model.`.
        inner: coefficients of the denoiser; `sigma_data` is theirs.
        dtype: what the blocks compute in; under autocast it is autocast's, norms included, which
            spares a conversion around each of them. Weights, embeddings, output and the statistics
            within norms and softmax are float32.
    """

    def __init__(
        self,
        net: SongUNet | DhariwalUNet,
        inner: InnerMap,
        channels: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.net, self.inner, self.channels, self.dtype = net, inner, channels, dtype
        self.sigma_data = inner.sigma_data

    def zero_s_embedding(self) -> None:
        """See `Backbone.zero_s_embedding`."""
        self.net.zero_s_embedding()

    def fuse(self) -> None:
        """See `Backbone.fuse`: what lies between convolutions (harness/backbones/fused.py)."""
        for module in self.net.modules():
            if isinstance(module, UNetBlock):
                module.fused = True

    def adapt(self, settings: Mapping[str, Any], seed: int) -> None:
        """See `Backbone.adapt`."""
        if not isinstance(self.net, SEmbedding):
            return super().adapt(settings, seed)
        if "dropout" in settings:
            for layer in self.net.modules():
                if isinstance(layer, Dropout) and not layer.whole:
                    layer.p = settings["dropout"]
        if settings.get("s_branch") == "per_block":
            self.net.s_embedding_per_block()
        if settings.get("s_init") == "reference":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.net.draw_s_embedding()
        return None

    @property
    def last_layer(self) -> nn.Parameter:
        """See `Backbone.last_layer`: the kernel of the output convolution."""
        return self.net.output_layer.weight

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        s: Tensor | None = None,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """See `Backbone.forward`; labels are one-hot [B, classes], augment [B, augment_dim]."""
        raw = self._raw(x, t, s, labels, augment)
        form = self.inner.edm_form(t.double())
        if form is None:
            return raw
        a, b = (per_sample(value, x) for value in form)
        return a * x + b * raw.to(x.dtype)

    def denoise(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """D(x, t) [B, C, R, R] in the dtype of x, by the network's own coefficients."""
        skip, out = (per_sample(value, x) for value in self.inner.denoiser(t.double()))
        return skip * x + out * self._raw(x, t, None, labels, augment).to(x.dtype)

    def network(
        self,
        x: Tensor,
        noise_t: Tensor,
        noise_s: Tensor | None,
        labels: Tensor | None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """See `Backbone.network`; no labels means the unconditional one, all zeros."""
        if not self.net.label_dim:
            labels = None
        elif labels is None:
            labels = noise_t.new_zeros(1, self.net.label_dim)
        else:
            labels = labels.to(torch.float32).reshape(-1, self.net.label_dim)
        augment = None if augment is None else augment.to(torch.float32)
        kind = x.device.type
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if cast else self.dtype
        with torch.autocast(kind, enabled=False) if cast else nullcontext():
            raw = self.net(x.to(dtype), noise_t, labels, augment, noise_s)
        return raw[:, : self.channels].to(torch.float32)

    def c_noise(self, t: Tensor) -> Tensor:
        """See `Backbone.c_noise`: of the network's training."""
        return self.inner.c_noise(t.double()).float()

    def _raw(
        self,
        x: Tensor,
        t: Tensor,
        s: Tensor | None,
        labels: Tensor | None,
        augment: Tensor | None,
    ) -> Tensor:
        t, s = t.double(), None if s is None else s.double()
        noise_t, noise_s = (
            None if time is None else self.c_noise(time).expand(len(x)) for time in (t, s)
        )
        return self.network(
            per_sample(self.inner.c_in(t), x) * x, noise_t, noise_s, labels, augment
        )
