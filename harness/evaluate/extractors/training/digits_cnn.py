"""Training of the weights of `digits-cnn`: python -m THIS.MODULE OUT.safetensors

The shipped file was made by this command; it takes seconds. Weights trained on another machine may
differ in the last bits and give other distances, so only the shipped file is used.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from harness.evaluate.extractors.networks.digits import DigitsCNN, images_of

TRAINED_ON = 1400  # of 1797; the rest is for the accuracy that is printed
EPOCHS = 20
BATCH = 50


def train(seed: int = 0) -> tuple[DigitsCNN, float]:
    """Return the network and its accuracy on held-out digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = images_of(torch.from_numpy(digits.data)), torch.from_numpy(digits.target)
    torch.manual_seed(seed)
    network = DigitsCNN()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(TRAINED_ON).split(BATCH):
            loss = torch.nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        right = network(images[TRAINED_ON:]).argmax(1) == labels[TRAINED_ON:]
    return network, float(right.float().mean())


if __name__ == "__main__":
    trained, accuracy = train()
    out = Path(sys.argv[1])
    save_file(trained.state_dict(), out)
    size = sum(p.numel() for p in trained.parameters())
    print(f"{out}: {size} parameters, accuracy {accuracy:.3f} on held-out digits")
