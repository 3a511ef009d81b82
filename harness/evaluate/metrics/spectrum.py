"""Power spectrum of images against that of the data: shows blur and added noise by frequency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Metric, register_metric

if TYPE_CHECKING:
    from torch import Tensor


@register_metric("spectrum")
class Spectrum(Metric):
    """RMS error of the log10 power spectrum, over rings of spatial frequency; images only.

    log10(power of samples / power of data) of 0.1 means a quarter too much power, -0.1 a fifth too
    little. Power is the squared modulus of the 2-D Fourier transform, averaged over images,
    channels and the frequencies whose radius rounds to the same number of cycles per image. The
    constant component is left out.
    """

    needs = "samples"
    images_only = True

    def compute(self, generated: Tensor, reference: Tensor) -> float:
        """See `Metric.compute`; uint8 [n, C, H, W]."""
        ours, data = rings(generated), rings(reference)
        seen = data > 0  # where data have no power there is no ratio
        ratio = (ours[seen].clamp_min(1e-12) / data[seen]).log10()
        return float(ratio.square().mean().sqrt())


def rings(images: Tensor) -> Tensor:
    """Mean power of rings 1, 2, ..., min(H, W)/2, float64, of uint8 images scaled to [0, 1]."""
    import torch

    height, width = images.shape[-2:]
    rows, columns = torch.fft.fftfreq(height) * height, torch.fft.fftfreq(width) * width
    radius = (rows[:, None].square() + columns.square()).sqrt().round().long()
    count, power = min(height, width) // 2, torch.zeros(height, width, dtype=torch.float64)
    for part in images.split(1024):
        power += torch.fft.fft2(part.double() / 255).abs().square().mean(1).sum(0)
    power /= len(images)
    return torch.stack([power[radius == ring].mean() for ring in range(1, count + 1)])
