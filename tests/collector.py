"""The garbage collector, for tests of what goes without it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Let nothing be collected inside the block, at the beginning of which nothing is left to collect."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
