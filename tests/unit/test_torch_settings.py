"""Switches that change rounding alone: compiled whole, same numbers, no part of an identity."""

import functools

import pytest
import torch
from accelerate import Accelerator
from torch._dynamo import config as compiler

from harness.api import create
from harness.backbones import fused as pieces
from harness.backbones.dropout import Dropout, hold_draws, kept_in_place
from harness.backbones.inner import EDM
from harness.backbones.song import SongUNet
from harness.backbones.unet import UNetBackbone
from harness.config.schema import Train
from harness.train.step import gradients
from harness.train.torch_settings import arithmetic, repeatable, tune
from tests.unit.test_image_training import make_image_cell
from tests.unit.test_training import make_cell


def make_network():
    torch.manual_seed(0)
    net = SongUNet(
        8,
        1,
        1,
        model_channels=16,
        channel_mult=[1],
        num_blocks=1,
        attn_resolutions=[8],
        dropout=0.2,
    )
    net.add_s_embedding()
    return UNetBackbone(net, EDM(sigma_data=0.5), 1).train()


def make_smaller_cell():
    cell = make_image_cell()
    cell.network, cell.target, cell.teacher.backbone = (make_network() for _ in range(3))
    for frozen in (cell.target, cell.teacher.backbone):
        frozen.requires_grad_(False)
    cell.teacher.backbone.eval()
    cell.teacher.backbones = lambda: [cell.teacher.backbone]
    cell.dataset = create("dataset", "digits", {})
    cell.spec.train["batch"] = 8
    return cell


def run(network, rows):
    x = torch.linspace(-1, 1, 6 * 64).reshape(6, 1, 8, 8)[rows]
    t = torch.linspace(0.1, 9, 6, dtype=torch.float64)[rows]
    hold_draws(network, 0, 0, torch.arange(6)[rows])
    value = network(x, t, t / 2)
    grads = torch.autograd.grad(value.square().sum(), list(network.parameters()))
    return [value.detach(), *grads]


@pytest.fixture
def traced(monkeypatch):
    """Graphs that torch's compiler made; each is run as it stands, for g++ would take minutes."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    pieces.compiled.cache_clear()
    yield graphs
    pieces.compiled.cache_clear()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_pieces_give_the_same_numbers_for_any_number_of_rows(traced, layout):
    """fullgraph makes a graph break an error; other batches and masks compile nothing anew."""
    plain, fused = make_network(), make_network().to(memory_format=layout)
    fused.fuse()
    counts = []
    for rows in (slice(0, 6), slice(1, 4), slice(2, 6)):
        for a, b in zip(run(plain, rows), run(fused, rows), strict=True):
            assert torch.allclose(a, b, atol=1e-5, rtol=1e-4)
        counts.append(len(traced))
    assert counts[0] == counts[-1] > 0


def test_pieces_keep_channels_last():
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    weight, bias = torch.ones(8), torch.zeros(8)
    keys = torch.arange(2)
    for value in (
        pieces.entered(x, weight, bias, 2, 1e-5),
        pieces.modulated(x, bias, torch.zeros(2, 16), weight, bias, 2, 1e-5, None, 0.0),
        pieces.modulated(x, bias, torch.zeros(2, 8), weight, bias, 2, 1e-5, keys, 0.5),
    ):
        assert value.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(3, 8, 4, 4), (2, 5, 3, 3)])
def test_a_mask_made_in_place_is_the_mask(shape):
    layer = Dropout(0.3).train()
    hold_draws(layer, 0, 7, torch.arange(shape[0]))
    kept = kept_in_place(layer.keys, torch.Size(shape), 0.3)
    assert torch.equal(layer(torch.ones(shape)) > 0, kept > 0)


def test_channels_last_changes_the_layout_and_not_the_numbers():
    cell = make_cell()
    cell.network, cell.target = make_network(), make_network()
    tune(cell, compile=False, channels_last=True)
    weight = cell.network.last_layer
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(run(cell.network, slice(0, 6)), run(make_network(), slice(0, 6)), strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-4)


def test_a_whole_cell_with_dropout_is_fused(traced):
    """Student, target and teacher, with gradients and without, on any number of rows, evaluated."""
    cell, plain = make_smaller_cell(), make_smaller_cell()
    tune(cell, compile=True, channels_last=False)
    on_cpu = Accelerator(cpu=True)
    for step in range(3):
        found, expected = (gradients(each, step, 4, on_cpu)[0] for each in (cell, plain))
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()) + 1e-7)
    cell.target.eval()
    with torch.no_grad():
        cell.ema_student.jump(torch.randn(3, 1, 8, 8), torch.ones(3), torch.zeros(3) + 0.1)
    assert 4 <= len(traced) < compiler.recompile_limit


def test_float32_is_float32_outside_of_training():
    repeatable()
    flags = [torch.backends.cudnn, torch.backends.cuda.matmul]
    for precision in ("tf32", "fp32", "bf16"):
        with arithmetic(precision):
            assert {each.allow_tf32 for each in flags} == {precision == "tf32"}
        assert {each.allow_tf32 for each in flags} == {False}


@pytest.mark.parametrize("switch", ["compile", "channels_last"])
def test_switches_are_no_part_of_an_identity(switch):
    assert Train(**{switch: True}).identity() == Train().identity()
    assert Train(precision="bf16").identity() != Train().identity()
