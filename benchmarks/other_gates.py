"""How others make circuit breakers, rate limiters and concurrency limiters."""

import asyncio
import functools

HIGH = 1_000_000_000
MANY = 1000


# Breaker


def nopanic_breaker():
    import nopanic

    return nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20, window=30.0)


def pyresilience_breaker():
    import pyresilience

    return pyresilience.resilient(
        circuit_breaker=pyresilience.CircuitBreakerConfig(
            sliding_window_size=100, failure_rate_threshold=0.5, minimum_calls=20
        )
    )


def interlock_breaker(window):
    import interlock

    config = interlock.Config(
        failure_rate_threshold=0.5,
        minimum_number_of_calls=20,
        window_type=interlock.WindowType[window],
        window_size=100 if window == "COUNT_BASED" else 30,
    )
    return interlock.CircuitBreaker(name="bench", config=config)


def grit_breaker():
    import grit

    return grit.breaker(fails=5)


def pybreaker_breaker():
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=5)


def circuitbreaker_breaker():
    import circuitbreaker

    return circuitbreaker.CircuitBreaker(failure_threshold=5)


# Rate limiter


def nopanic_rate():
    import nopanic

    return nopanic.rate_limit(HIGH)


def pyresilience_rate():
    import pyresilience

    return pyresilience.resilient(rate_limiter=pyresilience.RateLimiterConfig(max_calls=HIGH))


def grit_rate():
    import grit

    return grit.limiter(HIGH)


def limits_rate():
    import limits

    item = limits.parse(f"{HIGH}/second")

    def decorate(fn):
        if asyncio.iscoroutinefunction(fn):
            storage = limits.storage.storage_from_string("async+memory://")
            strategy = limits.aio.strategies.FixedWindowRateLimiter(storage)

            async def alimited(*args, **kwargs):
                if not await strategy.hit(item, "bench"):
                    raise RuntimeError
                return await fn(*args, **kwargs)

            return alimited
        strategy = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())

        def limited(*args, **kwargs):
            if not strategy.hit(item, "bench"):
                raise RuntimeError
            return fn(*args, **kwargs)

        return limited

    return decorate


def aiolimiter_rate():
    import aiolimiter

    limiter = aiolimiter.AsyncLimiter(HIGH, 1.0)

    def decorate(fn):
        @functools.wraps(fn)
        async def limited(*args, **kwargs):
            async with limiter:
                return await fn(*args, **kwargs)

        return limited

    return decorate


# Concurrency limiter


def nopanic_bulkhead():
    import nopanic

    return nopanic.bulkhead(MANY)


def pyresilience_bulkhead():
    import pyresilience

    return pyresilience.resilient(bulkhead=pyresilience.BulkheadConfig(max_concurrent=MANY))


def grit_bulkhead():
    import grit

    return grit.bulkhead(MANY)


def interlock_bulkhead():
    import interlock

    return interlock.Pipeline(interlock.BulkheadStrategy(MANY))


def semaphore():
    places = asyncio.Semaphore(MANY)

    def decorate(fn):
        @functools.wraps(fn)
        async def limited(*args, **kwargs):
            async with places:
                return await fn(*args, **kwargs)

        return limited

    return decorate
