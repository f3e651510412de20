"""What a gate hands out: a permit, a rejection, or a guard for a block."""

from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from resilience import _clock
from resilience._core.permit import Refusal
from resilience._runtime import drive
from resilience._runtime.flow import PLAIN
from resilience._runtime.policy import Binding
from resilience.deadline import current_deadline
from resilience.errors import RejectedError
from resilience.outcome import Outcome, Verdict, hint
from resilience.typing import Seconds

if TYPE_CHECKING:
    from resilience._runtime.gate import Acquiring, Ask, Decision, Gate


class Hold:
    """
    What a call holds of a gate: its token, or nothing.

    The token comes and goes in one line each, together with the decision that gives or takes it.
    Whatever interrupts a call, a ``KeyboardInterrupt`` above all, then finds it here or settled, and
    whoever cleans up may give it back without asking: giving back nothing changes nothing.

    Attributes:
        token: The machine's token; None, or the refusal, if there is nothing to give back.

    """

    __slots__ = ("token",)

    def __init__(self) -> None:
        self.token: Any = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to give back."""
        return self.token is None or isinstance(self.token, Refusal)


class Permit(Hold):
    """
    Leave to make one call. True, where a `Rejection` is false.

    Settling or releasing it a second time changes nothing.
    """

    __slots__ = ("_gate", "_started")

    def __init__(self, gate: "Gate") -> None:
        super().__init__()
        self._gate = gate
        self._started: Seconds | None = None

    def __bool__(self) -> Literal[True]:
        return True

    def begin(self) -> None:
        """Note that the call starts now."""
        self._started = _clock.monotonic()

    def settle(self, verdict: Verdict = Verdict.GOOD, *, retry_after: Seconds | None = None) -> None:
        """
        Hand the permit back with what its call taught us. `Verdict.IGNORED` releases it.

        Args:
            verdict: How the call went.
            retry_after: Seconds the dependency asked us to stay away, or None.

        Raises:
            TypeError: *verdict* is not a `Verdict`. The permit is still held then.

        """
        if not isinstance(verdict, Verdict):
            msg = f"verdict must be a Verdict, got {verdict!r}"
            raise TypeError(msg)
        self._gate._take_back(self, verdict, self._started, hint(retry_after))  # its own gate

    def release(self) -> None:
        """Hand the permit back; nothing is learnt."""
        self._gate._give_back(self, cancelled=False)  # its own gate


class Rejection:
    """
    No leave. False, where a `Permit` is true.

    Attributes:
        policy: Name of the policy that refused.
        retry_after: Seconds until a further call may be admitted, a lower bound, or None.

    """

    __slots__ = ("_gate", "policy", "retry_after")

    def __init__(self, gate: "Gate", retry_after: Seconds | None) -> None:
        self._gate = gate
        self.policy = gate.name
        self.retry_after = retry_after

    def __bool__(self) -> Literal[False]:
        return False

    def error(self) -> RejectedError:
        """Return the error to raise, if you choose to raise one."""
        return self._gate.error(self.policy, self.retry_after)


class Guard(Permit):
    """A guarded block, and the permit for it. One use each: ask for a new one every time."""

    __slots__ = ("_ask", "_is_used", "_kept")  # the last for quick ones, which become plain ones: see there

    def __init__(self, gate: "Gate", ask: "Ask" = 1) -> None:
        super().__init__(gate)
        self._ask = ask
        self._is_used = False

    def __enter__(self) -> Permit:
        self._check()
        gate = self._gate
        try:
            decision = gate._decide(self._ask, self)  # its own gate, here and below
            if isinstance(decision, Refusal):
                decision = drive.result(self._refused_at_once(decision))
            return self._admitted(decision)
        except BaseException:
            gate._give_back(self)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave(error)
        except BaseException:
            self._gate._give_back(self)
            raise

    async def __aenter__(self) -> Permit:
        from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async use

        self._check()
        gate = self._gate
        try:
            decision = gate._decide(self._ask, self)
            if isinstance(decision, Refusal):
                decision = await adrive.result(self._refused_at_once(decision))
            return self._admitted(decision)
        except BaseException:
            gate._give_back(self)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __del__(self) -> None:
        # An interrupt that strikes on the way into the block's end leaves it unended.
        if getattr(self, "token", None) is not None:  # none, too, if its making was interrupted
            self._gate._give_back(self)

    def _check(self) -> None:
        if self._is_used:
            msg = "a guard is entered once: ask for a new one"
            raise RuntimeError(msg)
        self._is_used = True

    def _refused_at_once(self, refusal: Refusal) -> "Acquiring":
        gate = self._gate
        return gate._refused_at_once(self._ask, refusal, gate._max_wait, current_deadline(), self)

    def _admitted(self, decision: "Decision") -> Permit:
        if isinstance(decision, Refusal):
            raise self._gate._refused(decision)
        self.begin()
        return self

    def _leave(self, error: BaseException | None) -> None:
        gate = self._gate
        if error is not None and not isinstance(error, Exception):
            gate._give_back(self)
            return
        outcome: Outcome[Any] = Outcome(error=error)
        verdict = gate.judge(Binding(gate.name))(outcome, PLAIN)
        self.settle(verdict, retry_after=outcome.retry_after)
