"""Arrays on disk: what is read back is what was written, for every layout and dtype, or refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import torch as for_torch
from safetensors.numpy import load, save

from harness.api import ConfigError, Preconditioning, create
from harness.config.plugins import plugin_spec
from harness.config.schema import Grid
from harness.errors import ArtifactError
from harness.evaluate.moments import Moments
from harness.evaluate.reference import Reference, load_reference
from harness.registry import registry
from harness.store.artifacts import get_or_make, packed, read
from harness.train.cell import calibrated
from harness.train.checkpoint import (
    TrainingState,
    load_checkpoint,
    load_ema,
    plain,
    save_checkpoint,
    save_ema,
)

KEPT = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "<f4", "c8"]
LAYOUTS = ["plain", "transposed", "fortran", "strided", "reversed", "wide"]
OTHER = [">f4", ">i8", "c16", "g", "O", "U3", "S2", "M8[s]", "V4"]


@st.composite
def arrays(draw, dtypes):
    """Arrays of up to four axes, transposed, strided, reversed, broadcast or of Fortran's order."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    count = int(np.prod(shape)) * 2
    base = np.frombuffer(draw(st.binary(min_size=16, max_size=16)) * 16 * (count + 1), np.uint8)
    flat = np.arange(count) if dtype.kind in "OUSMgc" else base[: count * dtype.itemsize].copy()
    flat = flat.astype(dtype) if dtype.kind in "OUSMgc" else flat.view(np.uint8)
    if dtype.kind not in "OUSMgc":
        flat = (flat % 2).view("?") if dtype.kind == "b" else flat.view(dtype)
    array = flat[: count // 2].reshape(shape)
    layout = draw(st.sampled_from(LAYOUTS))
    if layout == "transposed":
        return array.T
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "strided" and shape:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "reversed" and shape:
        return array[::-1]
    return np.broadcast_to(array, (2, *shape)) if layout == "wide" else array


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=300)
@given(arrays(KEPT))
def test_arrays_come_back_as_they_were(array):
    back = load(packed({"a": array, "b": array}, "x"))
    assert same(back["a"], array)
    assert same(back["b"], array)


@settings(max_examples=60)
@given(arrays(OTHER))
def test_arrays_of_other_kinds_come_back_or_are_refused(array):
    try:
        content = packed({"a": array}, "artifact x")
    except ArtifactError as error:
        assert str(error).startswith("artifact x cannot be written")  # noqa: PT017
    else:
        assert same(load(content)["a"], array)


class Measured(Preconditioning):
    """Returns what a test wants from `calibrate`."""

    name = "measured"
    found = staticmethod(lambda: None)

    def calibrate(self, probe):
        return {"a": type(self).found()}


def vectors():
    """Eigenvectors as torch gives them: of Fortran's order."""
    made = torch.linalg.eigh(torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]]).double())[1]
    assert not made.is_contiguous()
    return made


TENSORS = {
    "eigenvectors": vectors,
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).T,
    "expanded": lambda: torch.arange(3.0).expand(2, 3),
    "strided": lambda: torch.arange(8.0)[::2],
    "scalar": lambda: torch.tensor(2.5, dtype=torch.float64),
    "with gradient": lambda: torch.ones(2, requires_grad=True) * 2,
    "negative view": lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
    "half": lambda: torch.ones(2).half(),
    "integers": lambda: torch.arange(3),
    "none of them": lambda: torch.zeros(0, 3),
}


def measured(monkeypatch, tmp_path, find):
    monkeypatch.setitem(registry._classes["precond"], "measured", Measured)
    monkeypatch.setattr(Measured, "found", staticmethod(find))
    axes = {"precond": ["measured"], "teacher": ["gmm"]}
    grid = Grid.model_validate({"version": 1, "name": "x", "axes": axes, "budgets": [1]})
    teacher = create("teacher", "gmm")
    spec = plugin_spec("precond", grid.axes.precond[0])
    return calibrated(spec, teacher, teacher.dataset(), tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("kind", TENSORS)
def test_what_calibrate_gives_is_what_is_read_back(monkeypatch, tmp_path, kind):
    precond, artifact = measured(monkeypatch, tmp_path, TENSORS[kind])
    expected = TENSORS[kind]().detach()
    assert torch.equal(precond.artifact["a"], expected)
    assert precond.artifact["a"].dtype == expected.dtype
    assert same(read(artifact.path).arrays["a"], expected.resolve_neg().numpy())


@pytest.mark.parametrize(
    ("find", "told"),
    [
        (lambda: torch.ones(2).bfloat16(), "'a' as torch.bfloat16; give float64"),
        (lambda: torch.ones(2, 2).to_sparse(), "'a' as torch.sparse_coo, no tensor"),
        (lambda: [1.0, 2.0], "a dict of 1, expected {name: tensor}"),
    ],
)
def test_what_cannot_be_kept_is_told(monkeypatch, tmp_path, find, told):
    with pytest.raises(ConfigError, match=r"precond 'measured'.*: calibrate gave") as caught:
        measured(monkeypatch, tmp_path, find)
    assert told in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_plain_artifact_has_the_bytes_of_ever(tmp_path):
    """What was measured before this rule keeps its digest."""
    arrays = {"x": np.arange(6.0).reshape(2, 3), "n": np.float64(3)}
    made = get_or_make(tmp_path, "kind", {"a": 1}, lambda: arrays)
    assert made.path.read_bytes() == save({k: np.asarray(v) for k, v in arrays.items()})


@settings(max_examples=200)
@given(arrays([kind for kind in KEPT if kind not in ("u2", "u4", "u8")]), st.booleans())
def test_weights_come_back_as_they_were(array, cut):
    """Of views, of two names for one tensor, in bfloat16 too."""
    tensor = torch.from_numpy(np.array(array, order="K"))
    tensor = tensor.bfloat16() if cut and not tensor.is_complex() else tensor
    views = {"a": tensor, "b": tensor, "turned": tensor.mT if tensor.ndim > 1 else tensor}
    views["wide"] = tensor.expand(2, *tensor.shape)
    views["half"] = views["wide"][..., ::2]
    if tensor.is_complex():
        views |= {"conjugate": tensor.conj(), "negative": tensor.conj().imag}
    back = for_torch.load(for_torch.save(plain(views)))
    for name, view in views.items():
        assert (back[name].dtype, back[name].shape) == (view.dtype, view.shape)
        assert torch.equal(back[name].isnan(), view.isnan())
        assert torch.equal(back[name][~view.isnan()], view[~view.isnan()])


class Tied(torch.nn.Module):
    """A network of which two names are one weight, and another lies in channels-last order."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.last.weight = self.first.weight
        self.conv = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.register_buffer("wide", torch.arange(3.0).expand(2, 3))


def test_a_tied_network_is_kept(tmp_path):
    """Its evaluation weights, and a checkpoint of its training."""
    made, again = Tied(), Tied()
    again.wide = again.wide.clone()  # what is expanded cannot be filled
    assert not made.conv.weight.is_contiguous()
    save_ema(tmp_path / "ema.safetensors", made)
    load_ema(tmp_path / "ema.safetensors", again)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in made.state_dict().items())
    other = Tied()
    other.wide = other.wide.clone()
    state = TrainingState(made, made, torch.optim.Adam(made.parameters()), step=3)
    save_checkpoint(tmp_path / "checkpoints", state)
    found = TrainingState(other, other, torch.optim.Adam(other.parameters()))
    load_checkpoint(tmp_path / "checkpoints", found, at_most=3)
    assert found.step == 3
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in made.state_dict().items())


@settings(max_examples=50)
@given(st.integers(1, 5), st.sampled_from(["plain", "transposed", "strided", "expanded"]))
def test_statistics_come_back_as_they_were(tmp_path_factory, d, layout):
    features = torch.randn(9, d, dtype=torch.float64)
    mean, m2 = features.mean(0), features.T @ features
    if layout == "transposed":
        m2 = m2.T
    if layout == "strided":
        mean, m2 = mean.repeat_interleave(2)[::2], m2.repeat_interleave(2, 1)[:, ::2]
    if layout == "expanded":
        mean, m2 = mean[:1].expand(d), torch.ones((), dtype=torch.float64).expand(d, d)
    meta = {"extractor": "raw", "n": 9, "source": "x", "format": 1}
    made = Reference(Moments(9, mean, m2), meta)
    path = made.save(tmp_path_factory.mktemp("statistics") / "x.npz")
    back = load_reference(path, create("extractor", "raw"))
    assert torch.equal(back.moments.mean, mean)
    assert torch.equal(back.moments.m2, m2)
