"""The U-Nets: official sizes, all encoder and decoder types, precision, attention, second time."""

import pytest
import torch

from harness.backbones.adm import DhariwalUNet
from harness.backbones.block import attend, explicit_attention
from harness.backbones.inner import EDM
from harness.backbones.layers import Conv2d
from harness.backbones.song import SongUNet
from harness.backbones.unet import UNetBackbone
from tests.unit.edm_layout import randomise

NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
CIFAR = {"channel_mult": [2, 2, 2], "augment_dim": 9}
TINY = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
OFFICIAL = {
    "cifar uncond vp": (SongUNet, 32, CIFAR, 55_733_891, 425),
    "cifar cond vp": (SongUNet, 32, {**CIFAR, "label_dim": 10}, 55_735_299, 427),
    "cifar uncond ve": (SongUNet, 32, {**CIFAR, **NCSNPP}, 56_397_827, 432),
    "cifar cond ve": (SongUNet, 32, {**CIFAR, **NCSNPP, "label_dim": 10}, None, 434),
    "ffhq vp": (SongUNet, 64, {"augment_dim": 9}, 61_805_571, 553),
    "imagenet adm": (DhariwalUNet, 64, {"label_dim": 1000}, 295_899_267, 553),
}


def tiny(kind=SongUNet, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind is DhariwalUNet:
        options = {"model_channels": 64, **options}
    return randomise(kind(8, 3, 3, **{**TINY, **options})).eval()


def backbone(kind=SongUNet, **options) -> UNetBackbone:
    return UNetBackbone(tiny(kind, **options), EDM(), 3)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    t = torch.tensor([0.3, 5.0], dtype=torch.float64)
    return torch.randn(2, 3, 8, 8, generator=generator) * t.float()[:, None, None, None], t


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sizes(name):
    kind, resolution, options, parameters, tensors = OFFICIAL[name]
    with torch.device("meta"):
        net = kind(resolution, 3, 3, **options)
    if parameters:
        assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == tensors


def test_ncsnpp_has_its_residual_entries():
    with torch.device("meta"):
        net = SongUNet(32, 3, 3, **CIFAR, **NCSNPP)
    assert (len(net.enc), len(net.dec)) == (17, 21)
    assert list(net.enc)[6] == "16x16_aux_residual"
    assert net.enc["16x16_aux_residual"].in_channels == 3
    assert net.enc["8x8_aux_residual"].in_channels == 256
    assert net.enc["16x16_aux_residual"].resample_filter.shape == (1, 1, 4, 4)


@pytest.mark.parametrize("encoder", ["standard", "skip", "residual"])
@pytest.mark.parametrize("decoder", ["standard", "skip"])
@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1]])
def test_every_kind_of_song_network_runs(encoder, decoder, taps):
    kinds = {"encoder_type": encoder, "decoder_type": decoder, "resample_filter": taps}
    net = tiny(embedding_type="fourier", channel_mult=[1, 2, 2], **kinds)
    x, t = batch()
    out = net(x, t.log().float() / 4)
    assert out.shape == x.shape
    assert out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1]])
@pytest.mark.parametrize("way", ["up", "down"])
def test_fused_resampling_equals_two_steps_inside_the_border(way, taps):
    torch.manual_seed(0)
    options = {"resample": way, "resample_filter": taps}
    plain = Conv2d(4, 6, 3, **options)
    fused = Conv2d(4, 6, 3, fused=True, **options)
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 16, 16)
    a, b = plain(x), fused(x)
    assert a.shape == b.shape == (2, 6, *[32 if way == "up" else 8] * 2)
    if way == "up":  # the same two operations in the same order
        torch.testing.assert_close(a[..., 2:-2, 2:-2], b[..., 2:-2, 2:-2])
    else:  # fused down convolves first, at full resolution
        kernel = torch.nn.functional.conv2d(x, plain.weight, padding=1)
        down = Conv2d(6, 6, 0, **options)(kernel) + plain.bias[:, None, None]
        torch.testing.assert_close(down[..., 1:-1, 1:-1], b[..., 1:-1, 1:-1])


def test_down_with_the_box_filter_is_the_mean_of_four_and_up_repeats():
    x = torch.randn(1, 3, 8, 8)
    down, up = Conv2d(3, 3, 0, resample="down"), Conv2d(3, 3, 0, resample="up")
    torch.testing.assert_close(down(x), torch.nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("heads", [1, 4])
def test_fused_attention_equals_the_explicit_softmax(heads):
    torch.manual_seed(0)
    qkv = torch.randn(2, 3 * 64, 4, 4)
    split = qkv.reshape(2, heads, 64 // heads, 3, 16)
    query, key, value = (split[:, :, :, i].transpose(2, 3) for i in range(3))
    expected = explicit_attention(query, key, value).transpose(2, 3).reshape(2, 64, 4, 4)
    torch.testing.assert_close(attend(qkv, heads), expected, rtol=1e-5, atol=2e-6)


def test_attention_needs_64_channels_in_adm_and_is_always_there_in_song():
    small = DhariwalUNet(8, 3, 3, model_channels=16, channel_mult=[1, 4], attn_resolutions=[8, 4])
    assert [block.heads for block in small.dec.values()][:2] == [1, 0]
    assert small.enc["8x8_block0"].heads == 0
    assert not any("8x8_block0.qkv" in key for key in small.state_dict())
    assert tiny(attn_resolutions=[]).dec["4x4_in0"].heads == 1


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_and_returns_float32(kind, dtype):
    net, (x, t) = backbone(kind), batch()
    with torch.no_grad():
        full = net(x, t)
        net.dtype = dtype
        half = net(x, t)
    assert half.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in net.parameters())
    error = (half - full).norm() / full.norm()
    assert 0 < error < (5e-3 if dtype == torch.float16 else 4e-2)


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_channels_last_changes_nothing(kind):
    net, (x, t) = backbone(kind), batch()
    with torch.no_grad():
        expected = net(x, t)
        moved = net.to(memory_format=torch.channels_last)
        found = moved(x.to(memory_format=torch.channels_last), t)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_a_fresh_s_embedding_changes_no_bit_and_can_learn(kind):
    net, (x, t) = backbone(kind, label_dim=4), batch()
    labels = torch.eye(4)[:2]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        expected = net(x, t, None, labels)
    net.net.add_s_embedding()
    added = set(net.state_dict()) - set(before)
    layers = ("map_layer0_s", "map_layer1_s")
    assert added == {f"net.{name}.{part}" for name in layers for part in ("weight", "bias")}
    for s in (0.002, 0.1, 5.0, 80.0):
        with torch.no_grad():
            found = net(x, t, torch.full((2,), s, dtype=torch.float64), labels)
        assert torch.equal(found, expected)
    net(x, t, t / 2, labels).square().sum().backward()
    assert net.net.map_layer1_s.weight.grad.abs().sum() > 0
    assert net.net.map_layer1_s.bias.grad.abs().sum() > 0
    with torch.no_grad():
        net.net.map_layer1_s.weight -= net.net.map_layer1_s.weight.grad
        assert not torch.equal(net(x, t, t / 2, labels), net(x, t, t / 3, labels))
        assert torch.equal(net(x, t, None, labels), expected)


def test_s_embedding_misuse_is_an_error():
    net, (x, t) = backbone(), batch()
    with pytest.raises(ValueError, match="add_s_embedding"):
        net(x, t, t)
    net.net.add_s_embedding()
    with pytest.raises(ValueError, match="already"):
        net.net.add_s_embedding()


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_dropout_is_active_in_training_only(kind):
    net, (x, t) = backbone(kind, dropout=0.5), batch()
    with torch.no_grad():
        assert torch.equal(net(x, t), net(x, t))
        net.train()
        assert not torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_no_label_is_the_zero_label_and_label_dropout_gives_it(kind):
    net, (x, t) = backbone(kind, label_dim=4, label_dropout=0.999999, dropout=0), batch()
    labels = torch.eye(4)[:2]
    with torch.no_grad():
        none = net(x, t)
        assert torch.equal(none, net(x, t, None, torch.zeros(2, 4)))
        assert not torch.equal(none, net(x, t, None, labels))
        assert torch.equal(none, net.train()(x, t, None, labels))


@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_forward_mode_derivative_matches_differences(kind):
    net, (x, t) = backbone(kind).double(), batch()
    net.dtype = torch.float64
    x, dx, dt = x.double(), torch.randn(2, 3, 8, 8).double(), 0.3 * t
    # the network's output is float32: differences are taken over a step that this resolves
    with torch.no_grad():
        value, slope = torch.func.jvp(net.denoise, (x, t), (dx, dt))
        h = 1e-3
        ahead, behind = (net.denoise(x + w * dx, t + w * dt) for w in (h, -h))
    assert torch.allclose(value, net.denoise(x, t), atol=1e-5)
    difference = (ahead - behind) / (2 * h)
    assert (slope - difference).norm() / difference.norm() < 2e-3


def test_last_layer_is_the_output_kernel():
    for kind in (SongUNet, DhariwalUNet):
        net, (x, t) = backbone(kind), batch()
        (grad,) = torch.autograd.grad(net(x, t).square().sum(), net.last_layer)
        assert grad.shape[0] == 3
        assert grad.abs().sum() > 0
