"""Arrays on disk: what is read back is what was written, for every layout and dtype, or refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from harness.api import ConfigError, Preconditioning, create
from harness.config.schema import Grid
from harness.config.workshop import plugin_spec
from harness.errors import ArtifactError
from harness.registry import registry
from harness.store.artifacts import get_or_make, packed, read
from harness.train.cell import calibrated

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
    layout = draw(
        st.sampled_from(["plain", "transposed", "fortran", "strided", "reversed", "wide"])
    )
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
        (lambda: [1.0, 2.0], "'a' as list, no tensor"),
    ],
)
def test_what_cannot_be_kept_is_told(monkeypatch, tmp_path, find, told):
    with pytest.raises(ConfigError, match="precond 'measured': calibrate gave") as caught:
        measured(monkeypatch, tmp_path, find)
    assert told in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_plain_artifact_has_the_bytes_of_ever(tmp_path):
    """What was measured before this rule keeps its digest."""
    arrays = {"x": np.arange(6.0).reshape(2, 3), "n": np.float64(3)}
    made = get_or_make(tmp_path, "kind", {"a": 1}, lambda: arrays)
    assert made.path.read_bytes() == save({k: np.asarray(v) for k, v in arrays.items()})
