"""Policies from a factory: one at a time, or new ones for every key before anything changes."""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar, cast

from resilience._runtime.policy import Policy
from resilience.errors import ConfigError, Problem
from resilience.keyed._settings import KeyedSettings

Q = TypeVar("Q", bound=Policy)


class Batch(Generic[Q]):
    """
    What a new factory makes for all keys, so that one that fails has changed nothing.

    Attributes:
        settings: What they are made by.
        overflow: The overflow policy.
        made: The policies by key.

    Raises:
        ConfigError: The factory fails, or makes no policy.

    """

    __slots__ = ("made", "overflow", "settings")

    def __init__(self, settings: KeyedSettings) -> None:
        self.settings = settings
        self.overflow: Q = sample(settings)
        self.made: dict[Hashable, Q] = {}

    def make(self, keys: Iterable[Hashable]) -> None:
        """Make the policies of *keys*."""
        for key in keys:
            try:
                self.made[key] = make(self.settings, key, self.overflow)
            except ConfigError:
                raise
            except Exception as error:
                raise _failed(self.settings, error) from error


def sample(settings: KeyedSettings) -> Q:  # type: ignore[type-var]  # what the factory makes, which nobody can check
    """Make the overflow policy, as an example of the others."""
    try:
        return _made(settings, None)
    except ConfigError:
        raise
    except Exception as error:
        raise _failed(settings, error) from error


def make(settings: KeyedSettings, key: Hashable, overflow: Q) -> Q:
    """Make the policy of *key*. An error of the factory comes out as it is."""
    policy: Q = _made(settings, key)
    if policy is overflow:
        problem = Problem("factory", settings.factory, "must make a new policy each time")
        raise ConfigError("Keyed", [problem])
    return policy


def _made(settings: KeyedSettings, key: Hashable) -> Q:  # type: ignore[type-var]  # as above
    policy = settings.make(key)
    if not isinstance(policy, Policy):
        problem = Problem("factory", settings.factory, f"must make a policy, but made {policy!r}")
        raise ConfigError("Keyed", [problem])
    return cast("Q", policy)


def _failed(settings: KeyedSettings, error: Exception) -> ConfigError:
    problem = Problem("factory", settings.factory, f"must make a policy, but raised {error!r}")
    return ConfigError("Keyed", [problem])
