"""What generated code repeats of a policy: its success path, as statements."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from resilience._runtime.flow import Call, Inner
from resilience.outcome import Outcome
from resilience.typing import Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Hot:
    """
    The statements of one policy that a call runs through when all goes well.

    In every text ``$name`` stands for one of *names*, or for a variable of this policy; ``began`` and
    ``now`` are the instants at which the call began and ended.

    Where interpreters switch threads only at calls and loops, a statement of one line without a call
    needs no lock. What is slower, or rare, is a method of the policy.

    Attributes:
        names: The objects that the statements use.
        unless: Conditions under which the call goes the slow way, before anything is taken.
        take: Statements that take what the policy gives out.
        refused: Whether that failed, so that the call goes the slow way.
        taken: Statements for once it is taken.
        undo: Statements that give it back as if it had never been taken: a later policy refused.
        release: Statements that give back what is held during the call; at once, before anything else.
        good: Statements for when the call ended well.
        let_go: Statements, after *release*, for when it was cut short and nothing is learnt.
        token: Expression for what a flow would hold, made when the call failed.
        reads_began: Whether a statement reads ``began``.
        reads_now: Whether a statement of *good* reads ``now``.

    """

    names: Mapping[str, object] = field(default_factory=dict[str, object])
    unless: tuple[str, ...] = ()
    take: tuple[str, ...] = ()
    refused: str | None = None
    taken: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    good: tuple[str, ...] = ()
    let_go: tuple[str, ...] = ()
    token: str | None = None
    reads_began: bool = False
    reads_now: bool = False


class Epoch:
    """
    Counts changes of what generated code was made from: settings, policies, budgets, a fork.

    Attributes:
        n: How many there were.

    """

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0

    def end(self) -> None:
        """Let all generated code be looked over before its next call."""
        self.n += 1


epoch: Final = Epoch()


class Replay:
    """
    A call whose first attempt has run already, in generated code, and failed.

    Its flow takes over what that attempt holds, each gate its own token, and finds the outcome where it would
    have called the function.

    Attributes:
        outcome: How the attempt ended; None once the flow has taken it.
        began: Instant at which the call began, or None if nobody looked.
        tokens: For each gate that has not taken its token yet: the gate and the token.

    """

    __slots__ = ("began", "outcome", "tokens")

    def __init__(self, error: Exception, began: Seconds | None, tokens: list[tuple[Any, Any]]) -> None:
        # First, so that whoever closes this one finds them.
        self.tokens = {id(gate): (gate, token) for gate, token in tokens}
        self.outcome: Outcome[Any] | None = Outcome(error=error)
        self.began = began

    def take(self, gate: object) -> Any:
        """Return the token of *gate*, once; None if there is none."""
        entry = self.tokens.pop(id(gate), None)
        return None if entry is None else entry[1]

    def close(self) -> None:
        """Give back what no gate has taken: the flow was interrupted before it came there."""
        while self.tokens:
            _, (gate, token) = self.tokens.popitem()
            gate._give_back_token(token)


def request(
    flow: Inner, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], replay: Replay
) -> Any:
    """Return the flow of the call that *replay* is about."""
    call = Call(fn, args, kwargs)
    call.replay = replay
    return flow(call)
