"""When generated code is out of date."""

import threading
from typing import Final, Protocol
from weakref import ref

from resilience import _clock
from resilience.deadline import usage


class Renewable(Protocol):
    """A function whose code was generated."""

    def retire(self) -> None:
        """Let the next call look the code over."""
        ...


class Epoch:
    """
    Counts changes of what generated code was made from: settings, policies, budgets, a fork.

    Code does not ask whether it is still up to date: whoever changes something ends the epoch, and that takes
    away all code there is.

    Attributes:
        n: How many there were.
        lock: Held while code is put in place or taken away.
        functions: All functions with generated code, by ``id``. To read the values of a plain dict is one
            step of the interpreter, so that functions may come and go meanwhile, in any thread.

    """

    __slots__ = ("functions", "lock", "n")

    def __init__(self) -> None:
        self.n = 0
        self.lock = threading.RLock()
        self.functions: dict[int, ref[Renewable]] = {}

    def add(self, function: Renewable) -> None:
        """Let *function* be looked over whenever an epoch ends, for as long as it lives."""
        key = id(function)

        def forget(reference: "ref[Renewable]") -> None:
            if self.functions.get(key) is reference:
                self.functions.pop(key, None)

        self.functions[key] = ref(function, forget)

    def end(self) -> None:
        """Let all generated code be looked over before its next call."""
        with self.lock:
            self.n += 1
            for reference in list(self.functions.values()):
                if (function := reference()) is not None:
                    function.retire()

    def after_fork(self) -> None:
        """Begin anew in a child, where nobody holds the lock."""
        self.lock = threading.RLock()
        self.end()


epoch: Final = Epoch()
usage.listeners.append(epoch.end)  # code that was made before does not look for deadlines
_clock.listeners.append(epoch.end)  # generated code has bound the clock
