"""The adapters of the rates that are learnt, and of what servers say about theirs. See `adapters`."""

import math
from typing import Any

from resilience._core.permit import Refusal
from resilience.rate_limiter._adaptive import AdaptiveGcra
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.rates import Cubic, Fixed, RateSample, parse_ratelimit
from resilience.rates._meter import Meter

from .adapters import Report, adapts


def adaptive(source: Any, now: float) -> AdaptiveGcra:
    return AdaptiveGcra(RateLimiterSettings(rate=source), now)


def acquire(machine: AdaptiveGcra, t: float, n: int) -> Report:
    answer = machine.admit(t, n)
    return {
        "ok": not isinstance(answer, Refusal),
        "wait": answer.retry_after if isinstance(answer, Refusal) else 0.0,
        "available": machine.burst - (machine.tat - machine._clock(t)),
    }


@adapts("aws_token_bucket")
class AwsTokenBucket:
    def __init__(self, max_rate: float, min_rate: float, t0: float) -> None:
        self.floor = min_rate
        self.machine = adaptive(Fixed(max_rate), t0)
        self.machine.tat += self.machine.burst  # it starts empty

    def acquire(self, t: float, n: int) -> Report:
        return acquire(self.machine, t, n)

    def set_rate(self, t: float, rate: float) -> Report:
        # The floor is one of the rule that learns, here as in botocore's use of the bucket.
        learnt = Cubic(floor=self.floor)
        learnt.on_sample(RateSample(now=t, sent=rate / 0.7, good=0, throttled=1))
        self.machine.learn(learnt.rate, learnt.window, t, "throttled")
        return {"rate": self.machine.rate, "capacity": self.machine.burst}


@adapts("aws_cubic")
class AwsCubic:
    def __init__(
        self, w_max: float, beta: float, c: float, t0: float, wmax_after_throttle: str | None = None
    ) -> None:
        del wmax_after_throttle  # what `throttle_chain` does
        self.cubic = Cubic(decrease=beta, scale=c)
        self.cubic.cut(w_max, t0)
        self.calculated = w_max

    def k(self) -> Report:
        return {"k": self.cubic._k, "w_max": self.cubic._w}

    def success(self, t: float) -> Report:
        self.calculated = self.cubic.curve(t)
        return {"rate": self.calculated}

    def throttle(self, t: float, rate: float) -> Report:
        self.cubic.cut(rate, t)
        return {"rate": self.cubic.curve(t), "w_max": self.cubic._w}

    def throttle_chain(self, t: float) -> Report:
        self.calculated = float(self.throttle(t, self.calculated)["rate"])
        self.cubic.cut(self.calculated, t)
        return {"rate": self.calculated, "w_max": self.cubic._w}


@adapts("aws_adaptive_limiter")
class AwsAdaptiveLimiter:
    def __init__(
        self, min_fill: float = 0.5, min_capacity: float = 1, t0: float = 0.0, scale: float = 2.0
    ) -> None:
        assert min_capacity == 1
        self.cubic = Cubic(floor=min_fill, headroom=scale)
        self.machine = adaptive(self.cubic, t0)

    def response(self, t: float, throttled: bool) -> Report:
        self.machine.throttled(t, t, None) if throttled else None
        sample = self.machine.take_sample(t)
        if sample is not None:
            self.cubic.on_sample(sample)
            self.machine.learn(self.cubic.rate, self.cubic.window, t, "throttled" if throttled else "good")
        return {
            "enabled": self.machine.limit < math.inf,
            "fill_rate": self.machine.rate,
            "measured_rate": self.machine.watch.meter.smoothed,
        }

    def acquire(self, t: float, n: int) -> Report:
        return acquire(self.machine, t, n)

    def step(self, measured: float, calculated: float) -> Report:
        # On a curve that is flat around what was calculated.
        self.cubic.cut(calculated, 0.0)
        self.cubic.on_sample(RateSample(now=self.cubic._k, sent=measured, good=1, throttled=0))
        return {"max_rate": self.cubic.rate}


@adapts("aws_rate_clocker")
class AwsRateClocker:
    def __init__(self, smoothing: float, bucket: float, t0: float) -> None:
        self.meter = Meter(bucket, t0, smoothing)

    def step(self, t: float) -> Report:
        self.meter.add(t)
        return {"rate": self.meter.smoothed}


@adapts("ratelimit_header_parse")
class RateLimitHeaderParse:
    def step(self, **headers: str) -> Report:
        fields = parse_ratelimit(headers)
        limit = fields.limits[0] if fields.limits else None
        return {
            "policy": limit and limit.name,
            "r": limit and limit.remaining,
            "t": limit and limit.reset_after,
            "policies": [[policy.name, policy.quota, policy.window] for policy in fields.policies],
            "ignored": not fields,
            "wait": fields.pause,
        }
