"""Moments, the Fréchet distance and torch-fidelity's own numbers on the same features."""

import inspect

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from harness.api import ConfigError, HarnessError, Metric, create, list_metrics
from harness.evaluate.features import Features, score
from harness.evaluate.moments import Accumulator, Moments, fold, frechet


def vectors(seed, n, d, rank=None, offset=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, rank or d, generator=generator, dtype=torch.float64) * scale
    if rank:
        x = x @ torch.randn(rank, d, generator=torch.Generator().manual_seed(99)).double()
    return x + offset


CASES = {
    "plain": {"n": 800, "d": 32},
    "fewer samples than dimensions": {"n": 40, "d": 96},
    "rank-deficient": {"n": 300, "d": 64, "rank": 12},
    "large common offset": {"n": 500, "d": 32, "offset": 1000.0},
}


def pair(case):
    options = CASES[case]
    return vectors(1, **options), vectors(2, **options, scale=1.2) + 0.1


@pytest.mark.parametrize("case", CASES)
def test_frechet_agrees_with_torch_fidelity(case):
    a, b = pair(case)
    stats = [fid_features_to_statistics(x) for x in (a, b)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.skipif(
    "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters,
    reason="clean-fid calls scipy.linalg.sqrtm(disp=...), which this SciPy no longer has",
)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_frechet_agrees_with_clean_fid(case):
    from cleanfid.fid import frechet_distance

    a, b = pair(case)
    stats = [v for x in (a, b) for v in (x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False))]
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(
        frechet_distance(*stats), rel=1e-6
    )


@pytest.mark.parametrize("case", CASES)
def test_frechet_of_a_sample_with_itself_is_zero(case):
    a, _ = pair(case)
    scale = float(Moments.of(a).covariance.trace())
    assert 0 <= frechet(Moments.of(a), Moments.of(a)) <= 1e-12 * scale
    shuffled = a[torch.randperm(len(a), generator=torch.Generator().manual_seed(0))]
    assert 0 <= frechet(Moments.of(a), Moments.of(shuffled)) <= 1e-9 * scale


def test_frechet_float32_features_with_an_offset_are_upcast_first():
    """Both libraries take the mean in float32 and lose 1e-5 here; we must not."""
    a, b = (x.float() for x in pair("large common offset"))
    exact = fid_statistics_to_metric(
        *(fid_features_to_statistics(x.double()) for x in (a, b)), verbose=False
    )["frechet_inception_distance"]
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(exact, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=6),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 1e4]),
)
def test_moments_merge_in_any_grouping(sizes, seed, offset):
    x = vectors(seed, sum(sizes), 5, offset=offset)
    parts = [Moments.of(part) for part in x.split(sizes)]
    whole, left = Moments.of(x), fold(parts)
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = part.merge(right)
    batched = Accumulator()
    for part in x.split(sizes):
        batched.add(part)
    for found in (left, right, batched.moments()):
        assert found.n == len(x)
        torch.testing.assert_close(found.mean, whole.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            found.m2, whole.m2, rtol=1e-9, atol=1e-9 * (1 + float(whole.m2.abs().max()))
        )


def test_empty_shares_of_a_process_group_are_passed_over():
    x = vectors(0, 10, 3)
    assert fold([None, Moments.of(x), None]).n == 10
    with pytest.raises(ConfigError, match="no samples"):
        fold([None, None])


def test_frechet_refuses_one_sample_and_other_lengths():
    one, two, other = (Moments.of(vectors(0, n, d)) for n, d in ((1, 3), (5, 3), (5, 4)))
    with pytest.raises(ConfigError, match="2 samples"):
        frechet(one, two)
    with pytest.raises(ConfigError, match="different extractors"):
        frechet(two, other)


def test_kid_and_its_spread_are_torch_fidelitys():
    a, b = (x.float() for x in pair("plain"))
    score = create("metric", "kid", {"subset_size": 200}).compute(a, b)
    theirs = kid_features_to_metric(a, b, kid_subset_size=200, verbose=False)
    assert score.value == theirs["kernel_inception_distance_mean"]
    assert score.std == theirs["kernel_inception_distance_std"] > 0


def test_kid_of_small_samples_takes_halves_so_that_it_has_a_spread():
    a, b = (x[:50].float() for x in pair("plain"))
    assert create("metric", "kid").compute(a, b).std > 1e-6


def test_precision_and_recall_are_torch_fidelitys_with_generated_first():
    a, b = (x.float()[:300, :4] for x in pair("plain"))
    a = a * 0.3  # generated: precise, but covers little
    theirs = prc_features_to_metric(a, b, verbose=False, save_cpu_ram=False)
    precision, recall = (create("metric", name).compute(a, b) for name in ("precision", "recall"))
    assert (precision, recall) == (theirs["precision"], theirs["recall"])
    assert precision > 0.9 > 0.6 > recall
    again = create("metric", "precision").compute(b, a)  # the memo must not answer for another pair
    assert again != precision


def test_frechet_infinity_takes_away_most_of_the_bias():
    a, b = vectors(1, 2000, 24), vectors(2, 20_000, 24)
    plain = create("metric", "frechet").compute(a[:400], b)
    score = create("metric", "frechet-infinity").compute(a[:400], b)
    assert abs(score.value) < 0.3 * plain
    assert score.std > 0


class Hungry(Metric):
    name, needs = "hungry", "features"

    def compute(self, generated, reference):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")


def test_a_metric_that_runs_out_of_memory_is_named():
    features = Features(create("extractor", "raw", {}), keep=True)
    features.add(vectors(0, 9, 4))
    with pytest.raises(
        HarnessError, match="metric 'hungry' ran out of memory on the features of 9"
    ):
        score(Hungry(), features, features)


@pytest.mark.parametrize(
    "name", [name for name in list_metrics() if create("metric", name).needs == "features"]
)
def test_metrics_take_features_in_the_precision_of_their_network(name):
    """Networks give float32, `raw` float64; a metric makes the same of both."""
    generated, reference = vectors(1, 60, 5), vectors(2, 80, 5, offset=0.3)
    metric = create("metric", name)
    found = metric.compute(generated.float(), reference.float())
    expected = metric.compute(generated.float().double(), reference.float().double())
    values = [getattr(score, "value", score) for score in (found, expected)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
