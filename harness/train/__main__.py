"""One rank of one cell: `python -m harness.train RUN_FOLDER [--attached]`.

Started by the runner, one process a rank. With --attached the process ends at once when its
standard input closes, which happens when the runner dies however it dies: no orphan keeps training.
That is watched from the first moment on, before torch takes its seconds to import.
"""

import os
import sys
import threading


def main(folder: str, *flags: str) -> int:
    """Do everything the run still owes; return the exit code."""
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
