"""The policy of a key, and who goes through it."""

from typing import Final, Generic, TypeVar

from resilience._runtime.gate import Gate
from resilience._runtime.pipeline import Pipeline
from resilience._runtime.policy import Binding, Policy, Step

Q = TypeVar("Q", bound=Policy)

MOST_BINDINGS: Final = 8
"""Places of use that an entry remembers its step for."""


class Passage(Generic[Q]):
    """
    One call's way through a policy, or through what a stream's end still has to settle.

    Attributes:
        entry: Where the policy is; None before it was found.

    """

    __slots__ = ("entry",)

    def __init__(self) -> None:
        self.entry: Entry[Q] | None = None


class Entry(Generic[Q]):
    """
    A key's policy.

    Attributes:
        policy: The policy.
        passages: Who goes through it now.

    """

    __slots__ = ("_steps", "passages", "policy")

    def __init__(self, policy: Q) -> None:
        self.policy = policy
        self.passages: set[Passage[Q]] = set()
        self._steps: dict[int, tuple[Binding, Step]] = {}

    def is_idle(self) -> bool:
        """Whether nobody goes through the policy, and it is as a new one."""
        return not self.passages and is_idle(self.policy)

    def step_for(self, binding: Binding) -> Step:
        """Return the policy's step for *binding*, the same one each time."""
        spot = id(binding.classify)  # the name is always that of the Keyed
        known = self._steps.get(spot)
        if known is None:
            if len(self._steps) >= MOST_BINDINGS:
                self._steps = {}  # somebody brings a new classifier each time
            # With its binding, so that the classifier's id stays its own.
            known = self._steps.setdefault(spot, (binding, self.policy.step_for(binding)))
        return known[1]

    def renew(self, other: Q) -> None:
        """Take the settings of *other* and keep the state, if it is of the same type; else take it."""
        if type(other) is type(self.policy):
            self.policy.take_settings(other)
            self._steps = {}
        else:
            self.put(other)

    def put(self, policy: Q) -> None:
        """Let *policy* be the one."""
        self.policy = policy
        self._steps = {}


def is_idle(policy: Policy) -> bool:
    """Ask a policy whether it is as a new one. A gate that does not say is not, anything else is."""
    says: bool | None = getattr(policy, "is_idle", None)
    if says is not None:
        return says
    if isinstance(policy, Pipeline):
        return all(is_idle(each) for each in policy.policies)
    return not isinstance(policy, Gate)
