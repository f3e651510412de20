"""
Calls that are not over when they return: what integrations use whose results are read later.

A permit that such a call was admitted with is held until the result has been read; how reading ended
is how the call ended. The HTTP clients of `resilience.integrations.httpx` are made of it.
"""

from resilience._runtime.streamed import Streamed, StreamedCalls

__all__ = ["Streamed", "StreamedCalls"]
