"""Those who wait for permits."""


async def acquire(runtime, limited, permits=1, **how):
    if runtime.name == "sync":
        return limited.acquire(permits, **how)
    return await limited.aacquire(permits, **how)


class Queue:
    """Those who wait for permits, in the order in which they came, and the order in which they were served."""

    def __init__(self, runtime, limited):
        self.runtime = runtime
        self.limited = limited
        self.served = []
        self.jobs = []

    def waiting(self):
        return sum(len(line) for line in (self.limited._line, *self.limited._lines.values()))

    async def join(self, name, permits=1, **how):
        """Let one more wait; it asks for a permit by hand."""

        async def wait():
            permit = await acquire(self.runtime, self.limited, permits, **how)
            self.served.append(name)
            return permit

        return await self.joins(wait)

    async def joins(self, wait):
        """Let one more wait, in its own way."""
        ahead = self.waiting()
        self.jobs.append(self.runtime.spawn(wait))
        await self.runtime.until(lambda: self.waiting() == ahead + 1)
        return self.jobs[-1]

    async def drain(self, clock, step=0.1, rounds=50):
        """Let time pass in steps until everybody was served; those who are served come to rest each time."""
        for _ in range(rounds):
            if all(job.done() for job in self.jobs):
                return
            clock.advance(step)
            first = next(iter(self.limited._line.waiters), None)
            await self._rest(first)
        raise AssertionError("somebody waits for ever")

    async def _rest(self, first):
        for _ in range(10):
            await self.runtime.sleep(0.001)
            if next(iter(self.limited._line.waiters), None) is not first:
                return
