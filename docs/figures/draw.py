"""Draw the documentation's figures anew: `python docs/figures/draw.py [FOLDER]`.

Every picture comes from the harness's own teachers, preconditionings and solver, or from published
runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(folder: Path = HERE) -> None:
    """Write every figure into `folder` (default: beside the scripts)."""
    import boundary
    import coefficients
    import curves
    import frequency
    import speedup
    import trajectories
    import untrained

    folder.mkdir(parents=True, exist_ok=True)
    for figure in (trajectories, untrained, boundary, coefficients, curves, frequency, speedup):
        path = folder / f"{figure.__name__}.svg"
        figure.draw(path)
        print(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
