"""Where keys are kept: memory, a file, Redis or Valkey, PostgreSQL. Each is imported when asked for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.idempotency.stores.memory import MemoryStore
    from resilience.idempotency.stores.postgres import PostgresStore
    from resilience.idempotency.stores.redis import RedisStore
    from resilience.idempotency.stores.sqlite import SQLiteStore

__all__ = ["MemoryStore", "PostgresStore", "RedisStore", "SQLiteStore"]


def __getattr__(name: str) -> object:
    match name:
        case "MemoryStore":
            from resilience.idempotency.stores.memory import MemoryStore  # noqa: PLC0415  # when asked for

            return MemoryStore
        case "SQLiteStore":
            from resilience.idempotency.stores.sqlite import SQLiteStore  # noqa: PLC0415  # when asked for

            return SQLiteStore
        case "RedisStore":
            from resilience.idempotency.stores.redis import RedisStore  # noqa: PLC0415  # when asked for

            return RedisStore
        case "PostgresStore":
            from resilience.idempotency.stores.postgres import PostgresStore  # noqa: PLC0415  # when asked for

            return PostgresStore
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
