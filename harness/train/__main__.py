"""One rank of one cell: `python -m harness.train RUN_FOLDER [--attached]`.

Started by the runner, one process per rank. With --attached the process exits at once when its
standard input closes, which happens whenever the runner dies, so that no orphan keeps training.
A thread watches for this from the start, before torch is imported.
"""

import os
import sys
import threading


def main(folder: str, *flags: str) -> int:
    """Do all training and evaluation that is missing in the run; return the exit code."""
    if "--attached" in flags:
        threading.Thread(target=_end_with_runner, daemon=True).start()
    from harness.train import worker

    return worker.main(folder)


def _end_with_runner() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
