"""What of an HTTP client may be set, beside its policies."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypedDict

from resilience.errors import ConfigError, Problem
from resilience.integrations._http_request import IDEMPOTENT_METHODS
from resilience.typing import Seconds

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """What is sent along, and what may be sent again."""

    timeout_header: str | None = "X-Request-Timeout"
    """Header that carries the time left, as ``grpc-timeout`` writes it; None to leave it out."""

    priority_header: str | None = "X-Request-Priority"
    """Header that carries the priority, unless it is normal; None to leave it out."""

    idempotency_header: str | None = "Idempotency-Key"
    """Header that lets a request be repeated whatever its method; None for no such header."""

    generate_keys: bool | Callable[[], str] = False
    """Whether a request whose method may not be repeated gets a key if it has none: True for a random one
    (UUID version 4), or what makes one. Default False: not every server honours keys (the IETF draft)."""

    bare_keys: bool = False
    """Whether keys are sent without quotes, as servers want that take the header as it is. Default False: a
    string of RFC 9651, as the IETF draft says."""

    idempotent_methods: Collection[str] = IDEMPOTENT_METHODS
    """Methods that may be repeated. Default: those of RFC 9110, 9.2.2, and QUERY."""

    drain_bytes: int = 65_536
    """Most bytes read of a response that is thrown away, >= 0. Default 65 536, one read of httpcore."""

    drain_seconds: Seconds = 0.1
    """Most seconds for that, >= 0. Default 0.1, our own guess: about what a new connection with TLS costs."""

    def __post_init__(self) -> None:
        problems = [
            Problem(name, header, "must be the name of a header or None")
            for name in ("timeout_header", "priority_header", "idempotency_header")
            if (header := getattr(self, name)) is not None
            and not (isinstance(header, str) and header and _TOKEN.issuperset(header))
        ]
        if not isinstance(self.generate_keys, bool) and not callable(self.generate_keys):
            problems.append(Problem("generate_keys", self.generate_keys, "must be True, False or a callable"))
        if not isinstance(self.bare_keys, bool):
            problems.append(Problem("bare_keys", self.bare_keys, "must be True or False"))
        methods = self.idempotent_methods
        is_many = isinstance(methods, Collection) and not isinstance(methods, str)
        if not (is_many and all(isinstance(each, str) and each.isupper() for each in methods)):
            rule = "must be a collection of methods in upper case"
            problems.append(Problem("idempotent_methods", methods, rule))
        size, seconds = self.drain_bytes, self.drain_seconds
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            problems.append(Problem("drain_bytes", size, "must be a whole number >= 0"))
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not (is_number and 0 <= seconds < float("inf")):
            problems.append(Problem("drain_seconds", seconds, "must be a finite number of seconds >= 0"))
        if problems:
            raise ConfigError("ResilientTransport", problems)


class HttpOptions(TypedDict, total=False):
    """The fields of `HttpSettings`, as arguments."""

    timeout_header: str | None
    priority_header: str | None
    idempotency_header: str | None
    generate_keys: bool | Callable[[], str]
    bare_keys: bool
    idempotent_methods: Collection[str]
    drain_bytes: int
    drain_seconds: Seconds
