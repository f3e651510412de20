"""The adapters of concurrency limits that are learnt. See `adapters`."""

from collections.abc import Sequence

from resilience.concurrency_limiter._machine import MOST_TIMES, Bulkhead, Slot
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.limits import Aimd, Gradient2, Headroom, Vegas, log10_root, square_root
from resilience.limits._average import Average
from resilience.limits._gradient2 import WARMUP
from resilience.outcome import Verdict
from resilience.typing import Sample

from .adapters import Report, adapts, only

STEPS = {"3*log10": lambda limit: 3 * log10_root(limit), "6*log10": lambda limit: 6 * log10_root(limit)}


def of_one_call(rtt_ms: float, inflight: int, *, dropped: bool) -> Sample:
    """A window in which one call ended."""
    seconds = rtt_ms / 1000
    return Sample(
        now=0.0,
        good=int(not dropped),
        bad=0,
        timed_out=int(dropped),
        throttled=0,
        peak=inflight,
        mean=seconds,
        shortest=None if dropped else seconds,
    )


@adapts("aimd_limit")
class AimdLimit:
    def __init__(
        self,
        min: int,  # noqa: A002  # the vector's name
        max: int,  # noqa: A002  # likewise
        backoff: float,
        timeout_ms: float,
        initial: int,
    ) -> None:
        self.timeout = timeout_ms
        self.limit = Aimd(
            initial=initial,
            min_limit=min,
            max_limit=max,
            backoff=backoff,
            tolerance=0,
            window=0,
            increase=1,
            patience=None,
        )

    def step(self, rtt_ms: float, inflight: int, dropped: bool) -> Report:
        late = rtt_ms > self.timeout
        self.limit.on_sample(of_one_call(rtt_ms, inflight, dropped=dropped or late))
        return {"limit": int(self.limit.limit)}


@adapts("vegas_limit")
class VegasLimit:
    def __init__(
        self,
        alpha: float | str,
        beta: float | str,
        smoothing: float,
        initial: int,
        max: int,  # noqa: A002  # the vector's name
        decrease: str | None = None,
    ) -> None:
        self.limit = Vegas(
            initial=initial,
            max_limit=max,
            alpha=STEPS[alpha] if isinstance(alpha, str) else alpha,
            beta=STEPS[beta] if isinstance(beta, str) else beta,
            backoff={None: None, "half": 0.5}[decrease],
            smoothing=smoothing,
            headroom=None,
            window=0,
        )

    def step(self, rtt_ms: float, inflight: int, dropped: bool) -> Report:
        self.limit.on_sample(of_one_call(rtt_ms, inflight, dropped=dropped))
        return {"limit": int(self.limit.limit)}


@adapts("gradient2_limit")
class Gradient2Limit:
    def __init__(
        self,
        initial: int,
        min: int,  # noqa: A002  # the vector's name
        max: int,  # noqa: A002  # the vector's name
        smoothing: float,
        tolerance: float,
        queue: int,
        long_window: int,
        warmup: int,
    ) -> None:
        only("warmup", warmup, WARMUP)
        self.limit = Gradient2(
            initial=initial,
            min_limit=min,
            max_limit=max,
            tolerance=tolerance,
            queue=queue,
            smoothing=smoothing,
            backoff=None,
            long_window=long_window,
            headroom=None,
            window=0,
        )

    def step(self, rtt_ms: float, inflight: int, dropped: bool) -> Report:
        self.limit.on_sample(of_one_call(rtt_ms, inflight, dropped=dropped))
        return {"limit": int(self.limit.limit)}


@adapts("exp_avg")
class ExpAvg:
    def __init__(self, window: int, warmup: int) -> None:
        self.average = Average(window, warmup)

    def step(self, x: float) -> Report:
        return {"avg": self.average.add(x)}


@adapts("log10_root")
class Log10Root:
    def __init__(self, baseline: int) -> None:
        only("baseline", baseline, 0)

    def step(self, x: int) -> Report:
        return {"y": log10_root(x)}


@adapts("square_root")
class SquareRoot:
    def __init__(self, baseline: int) -> None:
        only("baseline", baseline, 4)

    def step(self, x: int) -> Report:
        return {"y": square_root(x)}


class Watching:
    """A limit that learns nothing and asks for a quantile."""

    limit = 1000.0
    window = 0.0

    def __init__(self, quantile: float) -> None:
        self.quantile = quantile

    def on_sample(self, sample: Sample) -> None:
        raise NotImplementedError


@adapts("percentile_window")
class PercentileWindow:
    """Each step is a window: its calls begin together, and each ends after its time."""

    def __init__(self, p: float, size: int) -> None:
        if size > MOST_TIMES:
            raise TypeError(f"size must be at most {MOST_TIMES}, got {size}")
        self.now = 0.0
        self.bulkhead = Bulkhead(ConcurrencyLimiterSettings(limit=Watching(p)), self.now)

    def step(self, samples: Sequence[float]) -> Report:
        began = self.now
        slots = [slot for _ in samples if isinstance(slot := self.bulkhead.admit(began), Slot)]
        for slot, seconds in zip(slots, sorted(samples), strict=True):
            self.now = began + seconds
            self.bulkhead.settle(slot, Verdict.GOOD, self.now)
        sample = self.bulkhead.take_sample(self.now)
        return {"rtt": sample and sample.quantile}


@adapts("max_limit_factor")
class MaxLimitFactor:
    def __init__(self, factor: float, decay: float, min_factor: float) -> None:
        self.headroom = Headroom(factor=factor, decay=decay, least=min_factor)

    def step(self, inflight: int) -> Report:
        return {"max": self.headroom.most(inflight)}
