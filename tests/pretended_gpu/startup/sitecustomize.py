"""Python runs this before all else where PYTHONPATH names its folder: a process with a GPU."""

import atexit
from contextlib import ExitStack

from accelerate import Accelerator

from tests.pretended_gpu import pretended_gpu

for_good = ExitStack()
GPU = for_good.enter_context(pretended_gpu())
atexit.register(for_good.close)
Accelerator.device = property(lambda self: GPU)
