"""
Middlewares for ASGI applications: service levels, deadlines, load shedding, idempotency keys.

Pure ASGI: they wrap any application, under Starlette, FastAPI, Litestar or none of them, on asyncio and trio,
in any order. What is no request, websockets and lifespan above all, passes through untouched.

    app = LoadSheddingMiddleware(app, ConcurrencyLimiter("requests", limit=100))
    app = DeadlineMiddleware(app)
    app = SLIMiddleware(app, slos=[SLO("checkout", objective=0.999, window="30d", route="/checkout")])

The last one wrapped is outermost: service levels count what the others refuse.
"""

from resilience.integrations._asgi_deadline import DeadlineMiddleware
from resilience.integrations._asgi_idempotency import IdempotencyMiddleware
from resilience.integrations._asgi_shedding import LoadSheddingMiddleware
from resilience.integrations._asgi_sli import SLIMiddleware

__all__ = ["DeadlineMiddleware", "IdempotencyMiddleware", "LoadSheddingMiddleware", "SLIMiddleware"]
