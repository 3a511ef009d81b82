"""Dropout masks: right in distribution, and the sample's own wherever it is computed."""

import pytest
import torch

from harness.backbones.dropout import Dropout, hold_draws
from harness.backbones.song import SongUNet
from harness.core.rows import of_batch
from harness.errors import HarnessError


def held(p, batch_index, *, step=3, whole=False):
    layer = Dropout(p, whole=whole)
    hold_draws(layer, 5, step, torch.as_tensor(batch_index))
    return layer


def test_masks_have_the_right_rate_and_are_unrelated():
    layer = held(0.3, range(64))
    first = layer(torch.ones(64, 50, 40))
    assert first.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    zero = (first == 0).double().flatten(1)
    assert float(zero.mean()) == pytest.approx(0.3, abs=5 * (0.21 / zero.numel()) ** 0.5)
    across = torch.corrcoef(zero)  # between samples, and between neighbouring elements
    assert float((across - torch.eye(64)).abs().max()) < 6 / zero.shape[1] ** 0.5
    shifted = torch.corrcoef(torch.stack([zero[:, :-1].flatten(), zero[:, 1:].flatten()]))
    assert abs(float(shifted[0, 1])) < 5 / zero.numel() ** 0.5
    other = (held(0.3, range(64), step=4)(torch.ones(64, 50, 40)) == 0).double().flatten(1)
    assert abs(float(torch.corrcoef(torch.stack([zero.flatten(), other.flatten()]))[0, 1])) < 0.02


def test_a_sample_has_one_mask_in_any_batch():
    x = torch.randn(6, 3, 4, 4)
    whole = held(0.5, range(6))(x)
    parts = [held(0.5, batch_index)(x[batch_index]) for batch_index in ([0, 1, 2], [3], [4, 5])]
    assert torch.equal(whole, torch.cat(parts))
    layer, rows = held(0.5, range(6)), torch.tensor([1, 4])
    with of_batch(rows):
        assert torch.equal(layer(x[rows]), whole[rows])
    with pytest.raises(HarnessError, match="of_batch"):
        layer(x[:4])
    twice = held(0.5, range(6))(torch.cat([x, x]))  # two passes in one batch
    assert torch.equal(twice, torch.cat([whole, whole]))


def test_layers_differ_labels_go_whole_and_evaluation_keeps_all():
    two = torch.nn.Sequential(Dropout(0.5), Dropout(0.5))
    hold_draws(two, 0, 0, torch.arange(8))
    x = torch.ones(8, 200)
    assert not torch.equal(two[0](x), two[1](x))
    labels = torch.eye(4)[torch.arange(400) % 4]
    dropped = held(0.25, range(400), whole=True)(labels)
    assert set(dropped.sum(1).tolist()) == {0.0, 1.0}
    assert float((dropped.sum(1) == 0).double().mean()) == pytest.approx(0.25, abs=0.11)
    assert torch.equal(held(0.5, range(8)).eval()(x), x)


def test_student_and_target_share_masks_whatever_the_micro_batch():
    def net():
        torch.manual_seed(0)
        made = SongUNet(8, 1, 1, model_channels=8, channel_mult=[1], num_blocks=1, dropout=0.4)
        return made.train()

    student, target = net(), net()
    x, noise = torch.randn(4, 1, 8, 8), torch.zeros(4)
    for network in (student, target):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(0.05)
    hold_draws(student, 1, 7, torch.arange(4))
    whole = student(x, noise)
    hold_draws(target, 1, 7, torch.arange(2, 4))
    assert torch.allclose(target(x[2:], noise[2:]), whole[2:], atol=1e-6)
    student.eval()
    assert not torch.allclose(student(x, noise), whole)
