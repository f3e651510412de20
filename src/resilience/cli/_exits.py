"""How a command ends."""

from typing import Final

OK: Final = 0
"""What was asked holds."""

FAILED: Final = 1
"""What was asked does not hold: the command ran to its end and says so."""

UNUSABLE: Final = 2
"""The command could not do its work: a wrong option, something missing, a process that ended too early."""

SIGNALLED: Final = 128
"""Ended by a signal, whose number is added, as shells count."""


class CannotRunError(Exception):
    """The command cannot do its work; the words are for whoever typed it."""


class SignalledError(Exception):
    """
    The command was asked to end by a signal.

    Attributes:
        number: Number of the signal.

    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.number = number
