"""
What generated code goes by when a call is not plain success.

Before anything was taken, the call is simply made the slow way, as flows. After the function failed, or a
policy refused, it is a `Replay`: policies take their part of what happened as far as that is plain, and the
flow of the others finds the tokens of what they gave out, and the outcome.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from resilience._runtime import drive, wrap
from resilience._runtime.flow import PLAIN, Call, Inner
from resilience._runtime.hot import Hot, Replay
from resilience._runtime.policy import Policy
from resilience.deadline import current_deadline


class Plan:
    """
    What one generation of a function's code knows of its policies.

    Attributes:
        policies: The policies, the first the outermost.
        hots: Their statements.

    """

    __slots__ = ("_flow", "_fn", "_slow", "hots", "policies")

    def __init__(
        self, hots: list[tuple[Policy, Hot]], flow: Inner, fn: Callable[..., Any], slow: Callable[..., Any]
    ) -> None:
        self.policies = tuple(policy for policy, _ in hots)
        self.hots = tuple(hot for _, hot in hots)
        self._flow, self._fn, self._slow = flow, fn, slow

    def replayed(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Go on with a call whose first attempt has failed."""
        return drive.unwrap(drive.run(self._flow(self._request(replay, args, kwargs))))

    async def areplayed(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Go on, in this task, with a call whose first attempt has failed."""
        from resilience._runtime import adrive  # noqa: PLC0415  # imported with the first async function

        return drive.unwrap(await adrive.run(self._flow(self._request(replay, args, kwargs))))

    def _request(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        until = replay.deadline
        call = Call(self._fn, args, kwargs, PLAIN if until is None else replace(PLAIN, deadline=until))
        call.replay = replay
        return call

    def refused(self, place: int, tokens: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Raise what a call raises that the policy at *place* refuses, or make it the slow way."""
        error = self._refusal(place)
        if error is None:
            return self._slow(*args, **kwargs)
        replay = None
        try:
            if place == 0:  # nobody stands around it
                raise error
            replay = self._refused(place, tokens, error)
            if replay.settle():
                raise error
            return self.replayed(replay, args, kwargs)
        finally:
            if replay is not None:
                replay.close()
            del error, replay  # no cycle: frame -> error -> traceback -> frame

    async def arefused(
        self, place: int, tokens: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do as `refused` does, in this task."""
        error = self._refusal(place)
        if error is None:
            return await self._slow(*args, **kwargs)
        replay = None
        try:
            if place == 0:
                raise error
            replay = self._refused(place, tokens, error)
            if replay.settle():
                raise error
            request = self._request(replay, args, kwargs)
            return drive.unwrap(await wrap.arun(self._flow(request), request))
        finally:
            if replay is not None:
                replay.close()
            del error, replay

    def _refused(self, place: int, tokens: list[Any], error: Exception) -> Replay:
        return Replay(self, [*tokens, None], error, None, self.policies[place], current_deadline())

    def _refusal(self, place: int) -> Exception | None:
        refuse = self.hots[place].refuse
        return None if refuse is None else refuse()
