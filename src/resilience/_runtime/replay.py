"""A call that has failed in generated code, on its way through the policies."""

from collections.abc import Generator
from typing import Any, Protocol

from resilience._runtime.hot import Hot
from resilience.outcome import Outcome
from resilience.typing import Seconds


class Doing(Protocol):
    """
    What a `Replay` must know of the code that it comes from.

    Attributes:
        policies: The policies that take part, the first the outermost.
        hots: Their statements.
        step: The policy inside them which has no statements, and so is no part of the code; or None.

    """

    policies: tuple[Any, ...]
    hots: tuple[Hot, ...]
    step: Any


class Ended:
    """
    What comes out of an inner function in place of a result: how its call failed.

    Or how it went well, if more is known of that than the value.

    Attributes:
        outcome: How it ended.

    """

    __slots__ = ("outcome",)

    def __init__(self, outcome: Outcome[Any]) -> None:
        self.outcome = outcome


def outcome_of(value: Any) -> Outcome[Any]:
    """Return the outcome of a call for which an inner function returned *value*."""
    ended: Outcome[Any] = value.outcome if type(value) is Ended else Outcome(value)
    return ended


class Replay:
    """
    A call whose first attempt has run already, in generated code, and failed.

    It raised, or it returned a value that somebody does not find good. From the innermost outwards, each
    policy takes its part of that, as far as it is plain. The flow of the others takes over what they hold,
    each its own token, and finds the outcome where they are. It belongs to one call, and so to one thread at
    a time.

    Attributes:
        origin: The plan that it comes from.
        tokens: What each of the policies holds; None for nothing, and in place of the list once the call has
            ended well.
        error: What the attempt failed with; None if it returned a value.
        began: Instant at which the call began, or None if nobody looked.
        at: The policy within which everything is over, so that the outcome is its; None for the function.
            Where a policy takes part that has no statements, that one and not the function.
        deadline: The caller's deadline, or None.
        outcome: How the attempt ended; None once somebody has found it.
        place: That of the policy which could not take its part; -1 if there was none.

    """

    __slots__ = ("_context", "at", "began", "deadline", "error", "origin", "outcome", "place", "tokens")

    def __init__(
        self,
        plan: Doing,
        tokens: list[Any],
        error: Exception | None,
        began: Seconds | None,
        at: object = None,
        deadline: Seconds | None = None,
        value: object = None,
    ) -> None:
        self.tokens: Any = tokens  # first, so that whoever closes this one finds them
        self.origin = plan
        self.error, self.began, self.deadline = error, began, deadline
        self.at = plan.step if at is None else at
        self._context = None if error is None else error.__context__
        self.outcome: Any = value.outcome if type(value) is Ended else Outcome(value, error)
        self.place = -1

    def ended(self) -> Ended:
        """Return what an inner function returns whose policies have all taken their part."""
        return Ended(self.outcome)

    def go_on(self, outcome: Outcome[Any], at: object) -> None:
        """Take note that the call is over, within the policy *at*, and how it ended there."""
        self.outcome, self.at = outcome, at
        if outcome.error is not None:
            self.error, self._context = outcome.error, outcome.error.__context__

    def is_at(self, policy: object) -> bool:
        """Whether the outcome is to be found at *policy*, and nobody has found it yet."""
        return self.at is policy and self.outcome is not None

    def settle(self) -> bool:
        """Let policies take their part, from the innermost outwards; return whether that was all of them."""
        outcome, tokens, began = self.outcome, self.tokens, self.began
        policies, hots = self.origin.policies, self.origin.hots
        place = len(tokens) if self.at is self.origin.step else self._cut(policies)
        while place:
            place -= 1
            fail = hots[place].fail
            if fail is not None:
                fail(tokens, place, outcome, began)
                if tokens[place] is None:
                    continue
            self.place = place
            if place + 1 < len(tokens):
                self.at = policies[place + 1]
            return False
        return True

    def _cut(self, policies: tuple[Any, ...]) -> int:
        """Give back what those further in than `at` hold, who have learnt nothing; return its place."""
        place = len(self.tokens) - 1
        while policies[place] is not self.at:
            if self.tokens[place] is not None:
                self.tokens[place] = policies[place]._give_back_token(self.tokens[place])
            place -= 1
        return place

    def take(self, gate: object) -> Any:
        """Return the token of *gate*, once; None if there is none."""
        for place in range(len(self.tokens)):
            if self.origin.policies[place] is gate:
                token, self.tokens[place] = self.tokens[place], None
                return token
        return None

    def over(self) -> Outcome[Any]:
        """Return how the attempt ended, once."""
        outcome: Outcome[Any] = self.outcome
        self.outcome = None
        del self.error, self._context  # no cycle: error -> traceback -> frame that knows this replay
        return outcome

    def found(self) -> Generator[Any, Any, Outcome[Any]]:
        """Return the flow of what is over: it returns at once how the attempt ended."""
        return self.over()
        yield  # which makes it a flow

    def close(self) -> None:
        """Give back what nobody has taken, since the flow was interrupted before it came there."""
        # Raised while its caller handles another error, the call's own would have lost its context.
        if self.outcome is not None and self.error is not None and self._context is not None:
            self.error.__context__ = self._context
        for held in self.tokens or ():
            if held is not None:
                self._give_back()
                return

    def _give_back(self) -> None:
        for place, token in enumerate(self.tokens):
            if token is not None:
                self.tokens[place] = None
                self.origin.policies[place]._give_back_token(token)
