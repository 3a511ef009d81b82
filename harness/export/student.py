"""A few-step generator with its sampler; needs torch and safetensors, and the files beside it.

    from student import Student
    x = Student.load(".").sample(16, nfe=2, seed=0)            # [16, *shape], data in [-1, 1]

or `python student.py --n 16 --nfe 2 --out samples.pt`. The network makes F; a jump from
noise level t to s is f(x, t, s) = skip(t, s) x + out(t, s) F [+ shift(t, s) offset]. student.json
says what the network is, and holds the coefficients of the jumps that its samplers make.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import (
    conv2d,
    conv_transpose2d,
    one_hot,
    scaled_dot_product_attention,
    silu,
)


class Conv(nn.Module):
    """A convolution that may halve (`down`) or double (`up`) the image; kernel 0: only that."""

    def __init__(self, d: dict) -> None:
        super().__init__()
        self.d, self.pad, self.filter_pad = d, d["kernel"] // 2, (d["taps"] - 1) // 2
        self.weight = self.bias = None
        if d["kernel"]:
            self.weight = nn.Parameter(torch.empty(d["out"], d["in"], d["kernel"], d["kernel"]))
            self.bias = nn.Parameter(torch.empty(d["out"]))
        taps = torch.empty(1, 1, d["taps"], d["taps"]) if d["resample"] else None
        self.register_buffer("resample_filter", taps)

    def forward(self, x: Tensor) -> Tensor:
        """Convolution and resampling of x [B, in, H, W]."""
        up, pad, more = self.d["resample"] == "up", self.pad, self.filter_pad
        if self.d["resample"] and self.d["fused"]:  # one padding for both
            if up:
                return self._conv(self._up(x, max(more - pad, 0)), max(pad - more, 0))
            x = conv2d(x, self.weight, padding=pad + more)
            return self._down(x, 0) + self.bias[:, None, None]
        if self.d["resample"]:
            x = self._up(x, more) if up else self._down(x, more)
        return x if self.weight is None else self._conv(x, pad)

    def _conv(self, x: Tensor, padding: int) -> Tensor:
        return conv2d(x, self.weight, self.bias, padding=padding)

    def _down(self, x: Tensor, padding: int) -> Tensor:
        taps = self.resample_filter.tile([x.shape[1], 1, 1, 1])
        return conv2d(x, taps, stride=2, padding=padding, groups=x.shape[1])

    def _up(self, x: Tensor, padding: int) -> Tensor:
        taps = 4 * self.resample_filter.tile([x.shape[1], 1, 1, 1])
        return conv_transpose2d(x, taps, stride=2, padding=padding, groups=x.shape[1])


class Block(nn.Module):
    """norm, conv, modulation by the embedding of t (and of s), norm, conv, skip, attention."""

    def __init__(self, d: dict, embedding: int) -> None:
        super().__init__()
        self.d, channels, eps = d, d["out"], d["eps"]
        plain = {"in": channels, "resample": None, "taps": 0, "fused": False}
        width = 2 * channels if d["adaptive"] else channels
        self.norm0 = nn.GroupNorm(d["groups"][0], d["in"], eps)
        self.conv0 = Conv(d["conv0"])
        self.affine = nn.Linear(embedding, width)
        self.affine_s = nn.Linear(embedding, width) if d["reads_s"] else None
        self.norm1 = nn.GroupNorm(d["groups"][1], channels, eps)
        self.conv1 = Conv(plain | {"out": channels, "kernel": 3})
        self.skip = Conv(d["skip"]) if d["skip"] else None
        if d["heads"]:
            self.norm2 = nn.GroupNorm(d["groups"][1], channels, eps)
            self.qkv = Conv(plain | {"out": 3 * channels, "kernel": 1})
            self.proj = Conv(plain | {"out": channels, "kernel": 1})

    def forward(self, x: Tensor, embedding: Tensor, embedding_s: Tensor | None) -> Tensor:
        """x [B, C, H, W], modulated by the embeddings [B, E] of t and of s."""
        h = self.conv0(silu(self.norm0(x)))
        modulation = self.affine(embedding)[:, :, None, None]
        if embedding_s is not None:
            modulation = modulation + self.affine_s(embedding_s)[:, :, None, None]
        if self.d["adaptive"]:
            scale, shift = modulation.chunk(2, dim=1)
            h = silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = silu(self.norm1(h + modulation))
        h = self.conv1(h)
        h = (h + (x if self.skip is None else self.skip(x))) * self.d["skip_scale"]
        if self.d["heads"]:
            h = (self.proj(self._attend(self.qkv(self.norm2(h)))) + h) * self.d["skip_scale"]
        return h

    def _attend(self, qkv: Tensor) -> Tensor:
        batch, channels, height, width = qkv.shape
        heads = self.d["heads"]
        split = qkv.reshape(batch, heads, channels // (3 * heads), 3, height * width)
        query, key, value = split.transpose(2, 4).unbind(3)
        if qkv.device.type == "cpu":
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        mixed = scaled_dot_product_attention(query, key, value)
        return mixed.transpose(2, 3).reshape(batch, channels // 3, height, width)


class Noise(nn.Module):
    """[cos | sin] of a noise number [B] at `width` / 2 frequencies."""

    def __init__(self, d: dict) -> None:
        super().__init__()
        self.d = d
        if d["kind"] == "fourier":
            self.register_buffer("freqs", torch.empty(d["width"] // 2))

    def forward(self, noise: Tensor) -> Tensor:
        """Features [B, width] of noise levels c_noise [B]."""
        if self.d["kind"] == "fourier":
            angle = noise[:, None] * (2 * math.pi * self.freqs)
        else:
            half = self.d["width"] // 2
            index = torch.arange(half, dtype=torch.float32, device=noise.device)
            angle = noise[:, None] * (1 / 10000) ** (index / (half - self.d["endpoint"]))
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class UNet(nn.Module):
    """EDM's two families: `song` (DDPM++, NCSN++) and `adm`."""

    def __init__(self, d: dict) -> None:
        super().__init__()
        self.d, width, inner = d, d["noise"]["width"], d["embedding"]
        self.song = d["family"] == "song"
        self.map_noise = Noise(d["noise"])
        if d["classes"]:
            to, bias = (width, True) if self.song else (inner, False)
            self.map_label = nn.Linear(d["classes"], to, bias=bias)
        self.map_layer0, self.map_layer1 = nn.Linear(width, inner), nn.Linear(inner, inner)
        if d["s"]:
            self.map_layer0_s, self.map_layer1_s = nn.Linear(width, inner), nn.Linear(inner, inner)
        for part in ("enc", "dec"):
            layers = {name: self._layer(layer, inner) for name, layer in d[part].items()}
            setattr(self, part, nn.ModuleDict(layers))
        if not self.song:
            last = d["last"]
            self.out_norm = nn.GroupNorm(last["groups"], last["channels"], last["eps"])
            self.out_conv = Conv(last["conv"])

    @staticmethod
    def _layer(d: dict, embedding: int) -> nn.Module:
        if d["kind"] == "block":
            return Block(d, embedding)
        if d["kind"] == "norm":
            return nn.GroupNorm(d["groups"], d["channels"], d["eps"])
        return Conv(d)

    def forward(
        self, x: Tensor, noise: Tensor, noise_s: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        """Raw output F [B, C, H, W] for scaled x, c_noise of t and of s [B], and labels."""
        if self.d["classes"] and labels is None:
            labels = noise.new_zeros(1, self.d["classes"])
        emb = self._embed(noise, labels, self.map_layer0, self.map_layer1, True), None
        if noise_s is not None and self.d["s"] == "per_block":
            layers = self.map_layer0_s, self.map_layer1_s
            emb = emb[0], self._embed(noise_s, labels, *layers, self.d["label_s"])
        elif noise_s is not None:
            hidden = silu(self.map_layer0_s(self._waves(noise_s)))
            emb = emb[0] + self.map_layer1_s(hidden), None
        return self._song(x, emb) if self.song else self._adm(x, emb)

    def _waves(self, noise: Tensor) -> Tensor:
        waves = self.map_noise(noise)
        return waves.roll(self.d["noise"]["width"] // 2, dims=1) if self.song else waves

    def _embed(
        self, noise: Tensor, labels: Tensor | None, first: nn.Module, last: nn.Module, shown: bool
    ) -> Tensor:
        embedding, classes = self._waves(noise), self.d["classes"]
        if self.song:
            if classes:
                embedding = embedding + self.map_label(labels * math.sqrt(classes))
            return silu(last(silu(first(embedding))))
        embedding = last(silu(first(embedding)))
        if classes and shown:
            embedding = embedding + self.map_label(labels)
        return silu(embedding)

    def _song(self, x: Tensor, emb: tuple) -> Tensor:
        skips, aux = [], x
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                aux = layer(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + layer(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + layer(aux)) / math.sqrt(2)
            else:
                x = layer(x, *emb) if isinstance(layer, Block) else layer(x)
                skips.append(x)
        out, normed = None, x
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                out = layer(out)
            elif name.endswith("aux_norm"):
                normed = silu(layer(x))
            elif name.endswith("aux_conv"):
                head = layer(normed)
                out = head if out is None else head + out
            else:
                x = x if x.shape[1] == layer.d["in"] else torch.cat([x, skips.pop()], dim=1)
                x = layer(x, *emb)
        return out

    def _adm(self, x: Tensor, emb: tuple) -> Tensor:
        skips = []
        for layer in self.enc.values():
            x = layer(x, *emb) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for layer in self.dec.values():
            x = x if x.shape[1] == layer.d["in"] else torch.cat([x, skips.pop()], dim=1)
            x = layer(x, *emb)
        return self.out_conv(silu(self.out_norm(x)))


class MLP(nn.Module):
    """Residual blocks for vectors, each modulated by an embedding of t plus one of s."""

    def __init__(self, d: dict) -> None:
        super().__init__()
        self.d, width, depth = d, d["width"], d["depth"]
        self.embed_t, self.embed_s = (
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.embed_label = nn.Linear(d["classes"], width, bias=False) if d["classes"] else None
        self.inlet = nn.Linear(d["dim"], width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mixers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulations = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.outlet = nn.Linear(width, d["dim"])

    def forward(
        self, x: Tensor, noise: Tensor, noise_s: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        """Raw output F [B, d] for scaled x, c_noise of t and of s [B], and labels."""
        embedding = self.embed_t(self._waves(noise))
        if noise_s is not None:
            embedding = embedding + self.embed_s(self._waves(noise_s))
        if self.embed_label is not None and labels is not None:
            embedding = embedding + self.embed_label(labels)
        embedding, h = silu(embedding), self.inlet(x)
        for norm, mixer, modulation in zip(self.norms, self.mixers, self.modulations, strict=True):
            scale, shift = modulation(embedding).chunk(2, dim=1)
            h = h + mixer(silu(norm(h) * (1 + scale) + shift))
        return self.outlet(h)

    def _waves(self, noise: Tensor) -> Tensor:
        width = self.d["width"]
        steps = torch.linspace(-2, 3, width // 2, device=noise.device, dtype=noise.dtype)
        angle = noise[:, None] * math.pi * 2.0**steps
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class Student:
    """f(x, t, s): jumps from noise level t down to s, by the network and its coefficients."""

    def __init__(
        self, about: dict, weights: dict[str, Tensor], network: nn.Module | None = None
    ) -> None:
        self.about, self.shape, self.classes = about, about["shape"], about["classes"]
        self.sigma_min, self.sigma_max = about["sigma_min"], about["sigma_max"]
        self.offset = weights.pop("precond.offset", None)
        self.bands = weights.pop("precond.bands", None)  # of each coordinate in a basis
        axes = sorted(key for key in weights if key.startswith("precond.axis"))
        self.axes = [weights.pop(key) for key in axes]
        if network is None:
            kind = {"mlp": MLP, "unet": UNet}.get(about["network"]["kind"])
            if kind is None:
                raise ValueError("a network of diffusers: load this folder by its pipeline.py")
            network = kind(about["network"])
            network.load_state_dict(weights)
        self.network = network.eval().requires_grad_(False)
        self.table = {(row["t"], row["s"]): row for row in about["coefficients"]}

    @classmethod
    def load(cls, folder: str | Path) -> Student:
        """Read student.json and model.safetensors."""
        about = json.loads((Path(folder) / "student.json").read_text())
        return cls(about, load_file(Path(folder) / "model.safetensors"))

    def to(self, device: str | torch.device) -> Student:
        """Move to a device."""
        self.network.to(device)
        self.offset = None if self.offset is None else self.offset.to(device)
        self.bands = None if self.bands is None else self.bands.to(device)
        self.axes = [axis.to(device) for axis in self.axes]
        return self

    def jump(self, x: Tensor, t: float, s: float, labels: Tensor | None = None) -> Tensor:
        """f(x, t, s) for x [B, *shape] at level t; labels one-hot [B, classes] or None."""
        row = self._coefficients(t, s)

        def scalar(value: float) -> Tensor:
            return torch.full([len(x)] + [1] * (x.ndim - 1), value, dtype=torch.float64).to(x)

        level, shown = row["told"], x
        if level != t:  # the network is shown x as of another level
            scale = scalar(row["told_scale"])
            mean = 0.0 if self.offset is None else self.offset
            shown = mean + scale * (x - mean)
        at = torch.full((len(x),), level, dtype=torch.float64, device=x.device)
        to = torch.full_like(at, s) if self.about["tells_s"] else None
        raw = self._raw(shown, at, to, labels)
        if self.bands is not None:
            return self._by_band(row, x, raw)
        value = scalar(row["skip"]) * x + scalar(row["out"]) * raw
        if row["shift"] is not None:
            value = value + scalar(row["shift"]) * self.offset
        return value

    def _raw(self, x: Tensor, t: Tensor, s: Tensor | None, labels: Tensor | None) -> Tensor:
        """F in EDM's form."""
        if hasattr(self.network, "in_edm_form"):  # see pipeline.py
            return self.network.in_edm_form(x, t, s, labels)
        c_in = (t.square() + self.about["sigma_data"] ** 2).rsqrt()
        c_in = c_in.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return self.network(c_in * x, self._c_noise(t), self._c_noise(s), labels)

    def _by_band(self, row: dict, x: Tensor, raw: Tensor) -> Tensor:
        """The same with coefficients for each band of coordinates in an orthonormal basis."""
        offset = None if row["shift"] is None else self.offset[None]
        total = 0.0
        for key, each in (("skip", x), ("out", raw), ("shift", offset)):
            if each is not None:
                scale = torch.tensor(row[key], dtype=torch.float64, device=x.device)
                total = total + scale[self.bands] * self._turned(each.double(), back=False)
        return self._turned(total, back=True).to(x.dtype)

    def _turned(self, x: Tensor, *, back: bool) -> Tensor:
        """Into the basis, or back: one matrix for each axis of a sample."""
        for number, axis in enumerate(self.axes, 1):
            x = (x.movedim(number, -1) @ (axis if back else axis.mT)).movedim(-1, number)
        return x

    def _c_noise(self, t: Tensor | None) -> Tensor | None:
        return None if t is None else (t.log() * self.about["noise_scale"]).float()

    def _coefficients(self, t: float, s: float) -> dict:
        if (t, s) in self.table:
            return self.table[t, s]
        known = ", ".join(f"{a:g} -> {b:g}" for a, b in list(self.table)[:8])
        raise ValueError(
            f"no coefficients for a jump {t:g} -> {s:g}: only for the levels in student.json"
            f" ({known}, ...)"
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        nfe: int = 1,
        seed: int = 0,
        labels: Tensor | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        """Samples [n, *shape] in `nfe` steps; `labels` are classes [n], drawn if not given.

        `exact` jumps from level to level; `stochastic` jumps to sigma_min and adds noise up to the
        next level, clipping images to [-1, 1] before.
        """
        sampler = sampler or self.about["samplers"][0]
        if sampler not in self.about["samplers"] or str(nfe) not in self.about["levels"]:
            steps = ", ".join(self.about["levels"])
            raise ValueError(f"samplers are {self.about['samplers']}, numbers of steps {steps}")
        draw = torch.Generator().manual_seed(seed)
        device = next(self.network.parameters()).device
        x = self.sigma_max * torch.randn(n, *self.shape, generator=draw).to(device)
        if self.classes:
            if labels is None:
                labels = torch.randint(self.classes, (n,), generator=draw)
            labels = one_hot(labels.to(device), self.classes).float()
        for t, s in pairwise(self.about["levels"][str(nfe)]):
            if sampler == "exact":
                x = self.jump(x, t, s, labels)
                continue
            x = self.jump(x, t, self.sigma_min, labels)
            x = x.clamp(-1, 1) if len(self.shape) == 3 else x
            if s > self.sigma_min:
                fresh = torch.randn(n, *self.shape, generator=draw).to(device)
                x = x + math.sqrt(s**2 - self.sigma_min**2) * fresh
        return x


def main() -> None:
    """Sample from the command line."""
    parser = argparse.ArgumentParser(description="Sample; images are written as uint8.")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--nfe", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampler")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="samples.pt")
    args = parser.parse_args()
    student = Student.load(Path(__file__).parent).to(args.device)
    x = student.sample(args.n, args.nfe, args.seed, sampler=args.sampler).cpu()
    if x.ndim == 4:
        x = (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
    torch.save(x, args.out)
    print(f"{args.out}: samples {list(x.shape)} {x.dtype}")


if __name__ == "__main__":
    main()
