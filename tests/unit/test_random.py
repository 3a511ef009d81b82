"""Draws are the published Philox stream and a function of (seed, purpose, step, index) alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.random import integers, normal, philox, uniform, words

# Random123's known-answer vectors for philox4x32-10: counter, key, output.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("size", [1, 2**15 + 1])  # numpy draws few, torch draws many
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_matches_published_vectors(counter, key, expected, size):
    out = philox(tuple(torch.tensor([c]).expand(size) for c in counter), key)
    assert all(o.dtype == torch.int64 and o.shape == (size,) for o in out)
    assert tuple(int(o[-1]) for o in out) == expected


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(1, 9))
def test_a_draw_does_not_depend_on_its_neighbours(index, step, count):
    alone = words(3, "noise", step, torch.tensor([index]), count)
    crowd = words(3, "noise", step, torch.tensor([index + 5, index, 7]), count)
    assert torch.equal(alone[0], crowd[1])
    more = words(3, "noise", step, torch.tensor([index]), count + 3)
    assert torch.equal(more[0, :count], alone[0])


def test_seed_purpose_step_and_index_all_matter():
    base = words(0, "a", 0, torch.arange(100), 4)
    for other in (
        words(1, "a", 0, torch.arange(100), 4),
        words(0, "b", 0, torch.arange(100), 4),
        words(0, "a", 1, torch.arange(100), 4),
        words(0, "a", 0, torch.arange(100) + 1000, 4),
    ):
        assert (base == other).double().mean() < 0.01


def test_normals_have_the_moments_of_a_normal():
    z = normal(0, "n", 0, torch.arange(20_000), (3, 2), torch.float64)
    assert z.shape == (20_000, 3, 2)
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.var()) - 1) < 0.02
    assert abs(float((z**4).mean()) - 3) < 0.1
    correlation = torch.corrcoef(z.flatten(1).T) - torch.eye(6)
    assert float(correlation.abs().max()) < 0.03


def test_uniforms_and_integers_cover_their_range():
    u = uniform(0, "u", 0, torch.arange(10_000))
    assert 0 < float(u.min()) < 0.001 < 0.999 < float(u.max()) < 1
    low = torch.arange(10_000) % 3
    k = integers(0, "k", 0, torch.arange(10_000), low, 5)
    assert bool((k >= low).all())
    assert int(k.max()) == 5
    assert int(k.min()) == 0
