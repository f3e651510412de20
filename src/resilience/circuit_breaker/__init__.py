"""Circuit breaker: stop calling a dependency that keeps failing, and probe until it recovers."""

from resilience.circuit_breaker._order import Order
from resilience.circuit_breaker._policy import CircuitBreaker
from resilience.circuit_breaker._settings import Break, CircuitBreakerSettings
from resilience.circuit_breaker._state import CircuitState, Reason

__all__ = ["Break", "CircuitBreaker", "CircuitBreakerSettings", "CircuitState", "Order", "Reason"]
