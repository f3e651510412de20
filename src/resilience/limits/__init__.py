"""
Limits that find themselves, for `resilience.ConcurrencyLimiter`.

`Aimd` learns from how calls end, and is the one for clients: their latencies come from many kinds of
call. `Vegas` and `Gradient2` learn from how long calls take, and are best on servers, or where all calls
are alike. Whatever else has ``limit``, ``window`` and ``on_sample``, as `resilience.typing.Limit` says, can
be given in their place.
"""

from resilience.limits._aimd import Aimd
from resilience.limits._gradient2 import Gradient2, square_root
from resilience.limits._headroom import Headroom
from resilience.limits._vegas import Vegas, log10_root

__all__ = ["Aimd", "Gradient2", "Headroom", "Vegas", "log10_root", "square_root"]
