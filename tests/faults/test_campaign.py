"""A short campaign; `python -m tests.faults` is the long one."""

import sys
import time

import pytest

from tests.faults.campaign import Campaign


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="strikes through /proc")
def test_a_matrix_that_is_killed_again_and_again_ends_like_one_that_is_not(tmp_path):
    small = ["axes.seed=[0]", "budgets=[10, 25]", "train.checkpoint_every=5"]
    campaign = Campaign(tmp_path, seed=0, blows=0, settings=small)
    tally, until = campaign.tally, time.monotonic() + 300
    while tally.ok and tally.kills.total() < 6 and time.monotonic() < until:
        campaign.round(processes=1, kills=8 - tally.kills.total(), until=until - 60)
    assert tally.ok, tally
    assert tally.rows == tally.rounds * 2 * 2 * 2 * 2
    assert tally.kills.total() >= 6, tally.kills  # a round ends early if its matrix does
