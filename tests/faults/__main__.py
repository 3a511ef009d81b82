"""`python -m tests.faults --kills 200 --minutes 10 --seed 0`: is anything ever lost?

Runs a small matrix of cells, in one process and in two, kills its processes at random and at chosen
moments, lets one undisturbed `run` finish, and compares with a matrix that nobody killed. Exits 1
if a row is lost, doubled or different, weights or tables differ, or a process outlives its runner.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.campaign import Campaign

KILLS = 25  # in a round


def main() -> int:
    """Run rounds until there were enough kills, or no time is left."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept; a temporary one is removed at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        started = time.monotonic()
        campaign = Campaign(args.folder or Path(temporary), args.seed)
        tally = campaign.tally
        until = started + 60 * args.minutes
        for processes in itertools.cycle((1, 2, 1)):
            left = args.kills - tally.kills.total()
            if left <= 0 or time.monotonic() > until:
                break
            campaign.round(processes, min(KILLS, left), until)
            print(f"{time.monotonic() - started:5.0f} s  {tally.kills.total()} kills", flush=True)
        seconds = time.monotonic() - started
    for what, count in sorted(tally.kills.items()):
        print(f"  {count:4d}  {what}")
    for what in tally.wrong:
        print(f"WRONG {what}")
    print(
        f"{tally.kills.total()} kills in {tally.rounds} rounds, {tally.runs} runs, {seconds:.0f} s"
        f" ({tally.cpu:.0f} s of processor time):"
        f" {tally.rows} rows, {tally.lost} lost, {tally.duplicates} duplicates,"
        f" {tally.orphans} orphans (slowest end {tally.slowest_end:.1f} s)"
    )
    return 0 if tally.ok else 1


if __name__ == "__main__":
    sys.exit(main())
