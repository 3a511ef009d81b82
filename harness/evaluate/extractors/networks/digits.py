"""A small classifier of 8x8 digits; its last hidden layer gives the features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from harness.evaluate.images import to_grey

SIDE = 8
FEATURES = 64


class DigitsCNN(nn.Module):
    """Maps uint8 images [B, C, H, W] to features [B, 64] and logits [B, 10], float32.

    Images of any size are averaged over channels and pooled to 8x8; 8x8 grey digits are unchanged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 96, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(96 * 4, FEATURES),
        )
        self.classify = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, 10))

    def embed(self, images: Tensor) -> Tensor:
        """Features [B, 64], before the last nonlinearity."""
        small = adaptive_avg_pool2d(to_grey(images), SIDE)
        return self.features(small / 127.5 - 1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, 64, 8, 8], [B, 96, 4, 4], [B, 96, 2, 2] of float images in [-1, 1]."""
        small = adaptive_avg_pool2d(images.float().mean(1, keepdim=True), SIDE)
        fine = self.features[:4](small)
        middle = self.features[4:7](fine)
        return [fine, middle, self.features[7](middle)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, 10], for training."""
        return self.classify(self.embed(images))


def images_of(values: Tensor) -> Tensor:
    """scikit-learn's digits [n, 64], 0..16, as uint8 [n, 1, 8, 8], 0..255."""
    return (values.reshape(-1, 1, SIDE, SIDE) * (255 / 16)).round().to(torch.uint8)
