"""Datasets known by name: scikit-learn's digits, torchvision's files, and planning with them."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from harness.api import create
from harness.errors import ConfigError
from tests.conftest import ROOT


@pytest.mark.parametrize("size", [8, 16])
def test_digits(size):
    found = create("dataset", "digits", {"size": size, "labels": True})
    assert (found.spec.shape, found.spec.size, found.spec.classes) == ((1, size, size), 1797, 10)
    x, labels = found.draw(0, "reference", torch.arange(1797))
    assert x.shape == (1797, 1, size, size)
    assert (float(x.min()), float(x.max())) == (-1, 1)
    assert labels[:10].argmax(1).tolist() == list(range(10))
    plain = create("dataset", "digits", {"size": size})
    assert plain.spec.classes == 0
    assert plain.draw(0, "x", torch.arange(3))[1] is None
    assert plain.spec.digest != found.spec.digest


def test_digits_refuse_to_mirror():
    with pytest.raises(ConfigError, match="hflip"):
        create("dataset", "digits", {"hflip": True})


def test_planning_imports_no_torch():
    code = (
        "import sys; from harness.api import create, create_teacher as t\n"
        "create('dataset', 'digits', {}); assert 'sklearn' not in sys.modules\n"
        "t('empirical', dataset={'name': 'digits'}, bandwidth=0.1)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def write_mnist(root, count=60_000):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(count * 784, dtype=np.uint8).tobytes()
    head = (0x803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
    (raw / "t10k-images-idx3-ubyte").write_bytes(head + pixels)
    head = (0x801).to_bytes(4, "big") + count.to_bytes(4, "big")
    (raw / "t10k-labels-idx1-ubyte").write_bytes(head + bytes(i % 10 for i in range(count)))


def test_torchvision_files(tmp_path):
    pytest.importorskip("torchvision")
    write_mnist(tmp_path, 10_000)
    given = {"set": "MNIST", "root": str(tmp_path), "split": "test", "labels": True}
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"")
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(b"")
    found = create("dataset", "torchvision", given)
    x, labels = found.draw(0, "reference", torch.arange(12))
    assert x.shape == (12, 1, 28, 28)
    assert x[0, 0, 0, :3].tolist() == pytest.approx([-1, 1 / 127.5 - 1, 2 / 127.5 - 1])
    assert labels.argmax(1).tolist() == [*range(10), 0, 1]


def test_torchvision_downloads_nothing_unasked(tmp_path):
    with pytest.raises(ConfigError, match="set download: true"):
        create("dataset", "torchvision", {"set": "CIFAR10", "root": str(tmp_path)})
    assert not list(tmp_path.iterdir())


def test_torchvision_that_is_not_what_it_should_be(tmp_path):
    pytest.importorskip("torchvision")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(b"anything, never unpickled")
    found = create(
        "dataset", "torchvision", {"set": "CIFAR10", "root": str(tmp_path), "split": "test"}
    )
    with pytest.raises(ConfigError, match="corrupted"):
        found.draw(0, "x", torch.arange(1))
