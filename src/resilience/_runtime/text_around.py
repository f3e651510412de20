"""The text of generated functions inside which a policy takes part that has no statements."""

from resilience._runtime.judging import OUTCOME
from resilience._runtime.locked import INDENT, indented
from resilience._runtime.text import Body, or_cut, surely


class BodyAroundStep(Body):
    """
    The lines of a function that calls ``step`` instead of the user's function.

    That returns how its call failed. An error which it raises is nobody's outcome: the call is cut short.
    """

    _value_after_all = "replay.over().value"

    _forgotten = "failure, replay, value"

    @property
    def _called(self) -> str:
        return f"{self._signature.awaited}step({self._signature.passed})"

    @property
    def _knows_value(self) -> bool:
        return True

    def _call_made(self) -> list[str]:
        cut = [*self._release, *self._let_go]
        if self._times.has_queues:
            clause = [
                "except BaseException as error:",
                f"{INDENT}value = None",
                INDENT + self._times.how_it_failed,
                f"{INDENT}del task",
                f"{INDENT}if at is None:",
                *indented(indented([*cut, "raise"])),
            ]
        elif self._times.tells:
            clause = [
                "except BaseException:",
                *indented([*surely(self._times.set_back, cut), "raise"]),
            ]
        elif cut:
            clause = ["except BaseException:", *indented([*cut, "raise"])]
        else:
            return [*self._attempt(), *self._good()]
        return ["try:", *indented(self._attempt()), *clause, "else:", *indented(self._good())]

    def _good(self) -> list[str]:
        cut = [*self._release, *self._let_go]
        lines: list[str] = []
        if self._times.has_queues:
            lines += [*self._times.not_late(), "del task"]
        if self._times.tells:
            lines += or_cut([self._times.set_back], cut)
        good = indented(self._surely_back([*self._release, *self._settled(), "return value"]))
        if self._asks:
            asking = [f"is_good = {' and '.join(self._asks)}"]
            if any(OUTCOME in each for each in self._asks):
                asking.insert(0, f"{OUTCOME} = Outcome(value)")
            asking = ["if is_good := type(value) is not Ended:", *indented(asking)]
            lines += or_cut(asking, cut, ["except Exception:", f"{INDENT}is_good = False"])
            lines += ["if is_good:", *good, "failure = value.outcome.error if type(value) is Ended else None"]
        else:
            lines += ["if type(value) is not Ended:", *good, "failure = value.outcome.error"]
        return [*lines, *(["at = None"] if self._times.has_queues else [])]
