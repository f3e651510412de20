"""
Calls that are not over when they return, and work that does not end where it begins: what integrations use.

A permit that such a call was admitted with is held until the result has been read; how reading ended
is how the call ended. The HTTP clients of `resilience.integrations.httpx` are made of it. A request to a
server ends when its answer is complete, which its application still sees: so do the middlewares of
`resilience.integrations.asgi`, with `Halved`.
"""

from resilience._runtime.halves import Halved, Work
from resilience._runtime.streamed import Streamed, StreamedCalls

__all__ = ["Halved", "Streamed", "StreamedCalls", "Work"]
