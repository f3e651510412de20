"""What generated code repeats of a policy: its success path, as statements."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Final, Protocol, TypeAlias
from weakref import ref

from resilience.outcome import CallContext, Classifier, ErrorsIn, Outcome, any_error_is_bad
from resilience.typing import Seconds

Fail: TypeAlias = Callable[[list[Any], int, Outcome[Any], Seconds | None], object]
"""
Lets a policy take its part of a failure, if it need do no more than note it. Takes a list of tokens, the
place of its own in it, how the call ended and when it began. The token it used is replaced by None, in the
very line that uses it; one that is still there says that nothing has changed.
"""


class Progress(Protocol):
    """
    A call on its way through its attempts, for whoever makes those after the first.

    Attributes:
        delay: Seconds to put before the next attempt; None if there is none.
        outcome: How the call ended; there once there is no further attempt.

    """

    delay: Seconds | None
    outcome: Outcome[Any]

    @property
    def is_first(self) -> bool:
        """Whether no further attempt has begun."""
        ...

    def begin(self) -> CallContext | None:
        """Return what is known of the next attempt, which begins now; None if it has become too late."""
        ...

    def ended_well(self) -> None:
        """Take note that the attempt ended with a good result; count the call, which ended with it."""
        ...

    def ended(self, outcome: Outcome[Any]) -> None:
        """Take note of how the attempt ended, and say whether there is a further one."""
        ...

    def end(self) -> None:
        """Count the call, which has ended or was cut short."""
        ...


Again: TypeAlias = Callable[[list[Any], int, Outcome[Any], Seconds | None], Progress]
"""
Goes on with a call whose first attempt has failed. Takes what a `Fail` takes; what it returns stands in the
place of the token, so that a call which is cut short is counted.
"""

ELSE: Final = "else"
"""What `Hot.refused` is if the last statement of `Hot.take` is an ``if`` of one line."""


class Unlocked(str):
    """A statement that calls a method, which takes the lock by itself if it needs to."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hot:
    """
    The statements of one policy that a call runs through when all goes well.

    In every text ``$name`` stands for one of *names*, or for a variable of this policy; ``began`` and
    ``now`` are the instants at which the call began and ended, and ``value`` is what the function returned.

    Where interpreters switch threads only at calls and loops, a statement of one line without a call
    needs no lock. What is slower, or rare, is a method of the policy.

    Where they switch at any moment, see `resilience._runtime.locked`, all statements but `Unlocked` ones
    stand under *lock*: the very lock that the policy's methods hold, so that both ways exclude each other.
    What another thread does between two statements does no harm either way. No second lock is taken under it,
    and nothing of a user's is called.

    Attributes:
        names: The objects that the statements use.
        lock: Expression for the lock; None if nothing is counted. Each call looks it up: a fork renews locks.
        unless: Conditions under which the call goes the slow way, before anything is taken.
        take: Statements that take what the policy gives out.
        refused: Whether that failed, so that the call goes the slow way; or `ELSE`. A condition only where
            there is nothing to take: it is asked without the lock.
        taken: Statements for once it is taken.
        undo: Statements that give it back as if it had never been taken: a later policy refused.
        release: Statements that give back what is held during the call; at once, before anything else.
        good: Statements for when the call ended well.
        let_go: Statements, after *release*, for when it was cut short and nothing is learnt.
        token: Expression for what a flow would hold, made when the call failed.
        refuse: Returns the error of a call that *unless* or *refused* stopped, or None if a flow must say.
        fail: Takes the policy's part of a failure without a flow, where that is plain.
        again: Goes on after a failure if the policy calls again, and needs no flow for that.
        step: Runs the policy as a flow, if it has no statements: all else is of no use then.
        limit: Bounds the time that the call may take, to ``$settings.duration``.
        classify: Who may find a value bad; None if the policy takes every value for good.
        finds_good: Expression for whether *classify* finds the value plainly good; None if nobody need ask.
        reads_began: Whether a statement reads ``began``.
        reads_now: Whether a statement of *good* reads ``now``.

    """

    names: Mapping[str, object] = field(default_factory=dict[str, object])
    lock: str | None = None
    unless: tuple[str, ...] = ()
    take: tuple[str, ...] = ()
    refused: str | None = None
    taken: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    good: tuple[str, ...] = ()
    let_go: tuple[str, ...] = ()
    token: str | None = None
    refuse: Callable[[], Exception | None] | None = None
    fail: Fail | None = None
    again: Again | None = None
    step: Callable[..., Any] | None = None
    limit: "Limit | None" = None
    classify: Classifier | None = None
    finds_good: str | None = None
    reads_began: bool = False
    reads_now: bool = False

    @property
    def shape(self) -> tuple[object, ...]:
        """All that the text depends on: policies with equal ones are written out alike."""
        return (
            self.unless, self.take, self.refused, self.taken, self.undo, self.release, self.good, self.let_go,
            self.token, self.refuse is None, self.seconds, self.tells, self.finds_good, self.reads_began,
            self.reads_now, self.lock,
        )  # fmt: skip

    def judged_by(self, classify: Classifier | None) -> "Hot":
        """Return the same for a policy that goes by *classify*, if it judges at all."""
        if takes_any_value(classify) or self.limit is not None or self is NOTHING or self.step is not None:
            return self
        return replace(self, classify=classify)

    @property
    def seconds(self) -> Seconds | None:
        """How long a call may take by the settings that the code is made from, or None."""
        return None if self.limit is None else self._limited_by.duration

    @property
    def tells(self) -> bool:
        """Whether what runs inside is told how long a call may take, by those settings."""
        return self.limit is not None and bool(self._limited_by.propagate)

    @property
    def _limited_by(self) -> Any:
        return self.names["settings"]


def takes_any_value(classify: Classifier | None) -> bool:
    """Whether *classify*, or the default if it is None, surely finds every value good."""
    return classify is None or classify is any_error_is_bad or isinstance(classify, ErrorsIn)


NOTHING: Final = Hot()
"""The statements of a policy that lets every call pass and learns nothing."""


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what calls a policy's *method*, and does not keep alive the policy, which may own the caller."""
    bound: Any = method
    function, known = bound.__func__, ref(bound.__self__)  # a `WeakMethod` makes the method anew at each call

    def call(*args: Any) -> Any:
        present = known()  # there for as long as a call is under way
        return None if present is None else function(present, *args)

    return call


class Visible:
    """
    What knows policies or the user's functions, and so may lead back to a function whose code uses it.

    The collector does not see what code holds as constants; so it is the function that holds these.
    """

    __slots__ = ()


def leads_out(value: object) -> bool:
    """Whether *value* is a machine whose settings may know a function or an object of the user's."""
    settings = getattr(value, "settings", None)
    if not is_dataclass(settings):
        return False
    known = [getattr(settings, each.name) for each in fields(settings)]
    # Limits of this package may be given functions, too.
    return any(callable(each) or type(each).__module__ != "builtins" for each in known)


class Tally:
    """
    Good calls that generated code has counted for a policy and for the budget that it spends from.

    Where locks are needed, all who count here hold the same one; to read one number takes none.

    Attributes:
        good: Calls that ended well at the first attempt. A float, which is quicker to add to than an int, and
            exact up to 2**53.
        seen: How many of them the budget has taken note of.

    """

    __slots__ = ("good", "seen")

    def __init__(self) -> None:
        self.good = 0.0
        self.seen = 0


class Limit(Protocol):
    """
    A policy that bounds the time of what is inside it.

    Attributes:
        queue: That of the event loop which asked last: what is under way there.

    """

    queue: Any

    def queue_of(self, loop: Any) -> Any:
        """Return the queue of *loop*; None if calls must go the slow way there."""
        ...

    def out_of_time(self, seconds: Seconds) -> Exception:
        """Return the error of a call that used up its *seconds*, and count it."""
        ...
