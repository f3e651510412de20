"""
Settings of pipelines from one file, such as one for a whole company.

    settings = Settings.load("resilience.toml")
    inventory = settings.pipeline("inventory", on=OSError)

The file has a table for each pipeline, and one of defaults for all::

    [default]
    total_timeout = 3.0

    [pipelines.inventory]
    attempt_timeout = 0.5
    circuit_breaker = false                               # without

    [pipelines.inventory.retry]
    attempts = 2
    backoff = { kind = "full_jitter", base = 0.05, cap = 1.0 }

What is set is a part of `Pipeline.standard`, and a setting of that part; what is not set is as there.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeAlias, cast

import msgspec

from resilience import ConfigError, Pipeline, Policy, RetryBudget, backoff, limits
from resilience.circuit_breaker import CircuitBreakerSettings
from resilience.concurrency_limiter import ConcurrencyLimiterSettings
from resilience.errors import Problem
from resilience.outcome import Classifier, ErrorMatch
from resilience.retry import RetrySettings

_Table: TypeAlias = Mapping[str, object]

_TIMEOUTS: Final = ("total_timeout", "attempt_timeout")
_PARTS: Final[dict[str, Any]] = {
    "retry": RetrySettings,
    "circuit_breaker": CircuitBreakerSettings,
    "concurrency_limiter": ConcurrencyLimiterSettings,
}
_READERS: Final[dict[str, Callable[[bytes], object]]] = {
    ".toml": msgspec.toml.decode,
    ".json": msgspec.json.decode,
}
# What a table with a `kind` stands for, by the setting that it is the value of.
_KINDS: Final[dict[str, dict[str, Callable[..., object]]]] = {
    "backoff": {
        kind: getattr(backoff, kind)
        for kind in (
            "constant", "linear", "exponential", "full_jitter", "equal_jitter", "decorrelated_jitter",
            "smooth_jitter",
        )
    },
    "budget": {kind: getattr(RetryBudget, kind) for kind in ("ratio", "refund", "grpc", "inflight")},
    "limit": {"aimd": limits.Aimd, "gradient2": limits.Gradient2, "vegas": limits.Vegas},
}  # fmt: skip


class Settings:
    """
    The settings of any number of pipelines: those of the file, and the defaults for all others.

    Args:
        values: What a file holds: a table ``default``, and a table ``pipelines`` with one for each name.

    Raises:
        ConfigError: Something in it cannot work, or is not known; every problem is listed, by its path.

    Example:
        >>> settings = Settings({"default": {"total_timeout": 2.0}, "pipelines": {"stock": {"retry": False}}})
        >>> [policy.kind for policy in settings.pipeline("stock").policies]
        ['timeout', 'circuit_breaker', 'concurrency_limiter', 'timeout']

    """

    __slots__ = ("_default", "_pipelines")

    def __init__(self, values: _Table) -> None:
        problems: list[Problem] = []
        known = ("default", "pipelines")
        values = _table("settings", values, problems)
        problems += _strangers("", values, known)
        self._default = _checked("default", values.get("default", {}), problems)
        tables = _table("pipelines", values.get("pipelines", {}), problems)
        self._pipelines = {
            name: _checked(f"pipelines.{name}", given, problems) for name, given in tables.items()
        }
        in_default = _tried("default", self._default)
        problems += in_default
        said = {(each.setting.removeprefix("default."), each.rule) for each in in_default}
        for name, parts in self._pipelines.items():
            where = f"pipelines.{name}"
            found = _tried(where, _merged(self._default, parts))
            problems += [
                each for each in found if (each.setting.removeprefix(f"{where}."), each.rule) not in said
            ]
        if problems:
            raise ConfigError("settings", problems)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """
        Read a file.

        Args:
            path: Where it is; its name ends in ``.toml`` or ``.json``.

        Raises:
            OSError: It cannot be read.
            ConfigError: It is no TOML or JSON, or see `Settings`.

        """
        path = Path(path)
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise ConfigError("settings", [Problem("path", str(path), "must end in .toml or .json")])
        try:
            values = reader(path.read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            rule = f"must be a file of {path.suffix[1:].upper()}: {error}"
            raise ConfigError("settings", [Problem("path", str(path), rule)]) from None
        try:
            return cls(cast("_Table", values))
        except ConfigError as error:
            raise ConfigError(f"settings {str(path)!r}", error.problems) from None

    @property
    def names(self) -> list[str]:
        """Names of the pipelines that have settings of their own, in the order of the file."""
        return list(self._pipelines)

    def pipeline(
        self, name: str, *, on: ErrorMatch | None = None, classify: Classifier | None = None
    ) -> Pipeline:
        """
        Return a new pipeline: that of *name*, or, if it has no settings of its own, the default one.

        Args:
            name: Name of the pipeline, also for telemetry, errors and the retry budget.
            on: Errors that count as bad: a type, a tuple of types, or a predicate.
            classify: Judge of outcomes, for every policy.

        Raises:
            ConfigError: *name*, *on* or *classify* is wrong.

        """
        parts = _merged(self._default, self._pipelines.get(name, {}))
        return _made(name, parts, on=on, classify=classify)

    def __repr__(self) -> str:
        return f"<Settings of {', '.join(self._pipelines) or 'no pipeline'}>"


def _table(where: str, given: object, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(cast("Mapping[str, Any]", given))
    problems.append(Problem(where, given, "must be a table"))
    return {}


def _strangers(where: str, table: _Table, known: "tuple[str, ...] | list[str]") -> list[Problem]:
    rule = f"is not a setting: there are {', '.join(known)}"
    return [Problem(f"{where}{name}", value, rule) for name, value in table.items() if name not in known]


def _checked(where: str, given: object, problems: list[Problem]) -> dict[str, Any]:
    """Return what is known in a pipeline's table; what is not joins *problems*."""
    table = _table(where, given, problems)
    problems += _strangers(f"{where}.", table, [*_TIMEOUTS, *_PARTS])
    found: dict[str, Any] = {name: table[name] for name in _TIMEOUTS if name in table}
    for name, part in ((name, table[name]) for name in _PARTS if name in table):
        if isinstance(part, Mapping):
            settings, fields = cast("_Table", part), list(_PARTS[name].__dataclass_fields__)
            problems += _strangers(f"{where}.{name}.", settings, fields)
            found[name] = {setting: value for setting, value in settings.items() if setting in fields}
        elif part is None or isinstance(part, bool):
            found[name] = part
        else:
            problems.append(Problem(f"{where}.{name}", part, "must be a table, or false to do without"))
    return found


def _merged(default: _Table, own: _Table) -> dict[str, Any]:
    """Return *own* settings before the *default* ones, part by part and setting by setting."""
    merged = {**default, **own}
    for name in _PARTS:
        before, after = default.get(name), own.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            merged[name] = {**cast("_Table", before), **cast("_Table", after)}
    return merged


def _tried(where: str, parts: _Table) -> list[Problem]:
    """Make a pipeline of *parts* and return what is wrong with it."""
    try:
        _made("default", parts)
    except ConfigError as error:
        return [Problem(f"{where}.{each.setting}", each.value, each.rule) for each in error.problems]
    return []


def _made(
    name: str, parts: _Table, *, on: ErrorMatch | None = None, classify: Classifier | None = None
) -> Pipeline:
    problems: list[Problem] = []
    # `true` is what stands there without a word; there is no null in TOML, and so `false` says None.
    given: dict[str, Any] = {
        part: None if value is False else value for part, value in parts.items() if value is not True
    }
    timeouts = {part: given[part] for part in _TIMEOUTS if part in given}
    try:
        golden = {policy.kind: policy for policy in Pipeline.standard(name, **timeouts).policies}
    except ConfigError as error:
        problems += error.problems
        golden = {policy.kind: policy for policy in Pipeline.standard("default").policies}
    for part in _PARTS:
        if isinstance(given.get(part), Mapping):
            given[part] = _part(part, golden[part], given[part], problems)
    try:
        pipeline = Pipeline.standard(name, on=on, classify=classify, **given)
    except ConfigError as error:
        problems += [each for each in error.problems if each not in problems]
    else:
        if not problems:
            return pipeline
    raise ConfigError("settings", problems)


def _part(name: str, golden: Policy, given: _Table, problems: list[Problem]) -> Policy:
    """Return a policy like *golden* with what is *given*; what is wrong with that joins *problems*."""
    present = golden.settings
    settings = {each: getattr(present, each) for each in present.__dataclass_fields__}
    for setting, value in given.items():
        if value is False and not isinstance(settings[setting], bool):
            settings[setting] = None
        elif isinstance(value, Mapping) and setting in _KINDS:
            table = cast("_Table", value)
            settings[setting] = _of_kind(f"{name}.{setting}", setting, table, problems) or settings[setting]
        else:
            settings[setting] = value
    try:
        return type(golden)(**settings)
    except ConfigError as error:
        problems += [Problem(f"{name}.{each.setting}", each.value, each.rule) for each in error.problems]
        return golden


def _of_kind(where: str, setting: str, value: _Table, problems: list[Problem]) -> object:
    """Return what the table *value* stands for; None if it is wrong, which joins *problems*."""
    kinds, arguments = _KINDS[setting], dict(value)
    kind = arguments.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        problems.append(Problem(f"{where}.kind", kind, f"must be one of {', '.join(kinds)}"))
        return None
    try:
        return kinds[kind](**arguments)
    except ConfigError as error:
        problems += [Problem(f"{where}.{each.setting}", each.value, each.rule) for each in error.problems]
    except TypeError as error:  # a setting that this kind does not have, or one that it needs
        problems.append(Problem(where, value, f"must have the settings of {kind}: {error}"))
    return None
