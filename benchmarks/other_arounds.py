"""How others make retries, timeouts, fallbacks, and pipelines of several policies."""

import asyncio
import functools

from benchmarks.other_gates import (
    HIGH,
    grit_breaker,
    grit_rate,
    interlock_breaker,
    nopanic_breaker,
    nopanic_rate,
)

ATTEMPTS = 3
LONG = 10.0


# Retry


def nopanic_retry():
    import nopanic

    return nopanic.retry(attempts=ATTEMPTS)


def nopanic_budgeted():
    import nopanic

    return nopanic.retry(attempts=ATTEMPTS, budget=nopanic.RetryBudget(0.1))


def pyresilience_retry():
    import pyresilience

    return pyresilience.resilient(retry=pyresilience.RetryConfig(max_attempts=ATTEMPTS))


def pyresilience_budgeted():
    import pyresilience

    return pyresilience.resilient(
        retry=pyresilience.RetryConfig(max_attempts=ATTEMPTS),
        retry_budget=pyresilience.RetryBudgetConfig(),
    )


def grit_retry():
    import grit

    return grit.retry(tries=ATTEMPTS)


def interlock_retry():
    import interlock
    import tenacity

    return (
        interlock.Pipeline.builder().retry(attempts=ATTEMPTS, wait=tenacity.wait_random_exponential()).build()
    )


def tenacity_retry():
    import tenacity

    return tenacity.retry(stop=tenacity.stop_after_attempt(ATTEMPTS), wait=tenacity.wait_random_exponential())


def stamina_retry():
    import stamina

    return stamina.retry(on=Exception, attempts=ATTEMPTS)


# Timeout


def nopanic_timeout():
    import nopanic

    return nopanic.timeout(LONG)


def pyresilience_timeout():
    import pyresilience

    return pyresilience.resilient(timeout=pyresilience.TimeoutConfig(seconds=LONG))


def grit_timeout():
    import grit

    return grit.timeout(LONG)


def interlock_timeout():
    import interlock

    return interlock.Pipeline(interlock.TimeoutStrategy(LONG))


def asyncio_timeout():
    def decorate(fn):
        @functools.wraps(fn)
        async def bounded(*args, **kwargs):
            async with asyncio.timeout(LONG):
                return await fn(*args, **kwargs)

        return bounded

    return decorate


# Fallback


def nopanic_fallback():
    import nopanic

    return nopanic.fallback(None)


def pyresilience_fallback():
    import pyresilience

    return pyresilience.resilient(fallback=pyresilience.FallbackConfig(handler=None))


def grit_fallback():
    import grit

    return grit.fallback(value=None)


def interlock_fallback():
    import interlock

    return interlock.Pipeline(interlock.FallbackStrategy(lambda _: None))


# Pipeline


def nopanic_pipeline():
    import nopanic

    return nopanic.compose(nopanic_retry(), nopanic_breaker(), nopanic_rate())


def pyresilience_pipeline():
    import pyresilience

    return pyresilience.resilient(
        retry=pyresilience.RetryConfig(max_attempts=ATTEMPTS),
        circuit_breaker=pyresilience.CircuitBreakerConfig(
            sliding_window_size=100, failure_rate_threshold=0.5, minimum_calls=20
        ),
        rate_limiter=pyresilience.RateLimiterConfig(max_calls=HIGH),
    )


def grit_pipeline():
    import grit

    return grit.policy(grit_retry(), grit_breaker(), grit_rate())


def interlock_pipeline():
    import interlock
    import tenacity

    return (
        interlock.Pipeline.builder()
        .retry(attempts=ATTEMPTS, wait=tenacity.wait_random_exponential())
        .circuit_breaker(interlock_breaker("TIME_BASED"))
        .build()
    )
