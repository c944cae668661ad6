"""Whether to await an answer awake: only where that takes no more of the processor than sleeping does.

A process that sleeps has to be woken, which takes its peer and itself some CPU, and on a virtual machine more
time than the answer. To spin for a moment before sleeping is an old remedy (Karlin, Li, Manasse, Owicki,
"Empirical studies of competitive spinning", SOSP 1991), and Linux has it for the idle processors of guests
(cpuidle-haltpoll). Whether it pays depends on the machine, on what else runs there, and most of all on the
peer: of two ends that both stay awake neither waits for a process to be woken.

So nothing is assumed, and everything measured. Where exchanges follow each other closely, what one of them
takes of the CPU is measured asleep, then awake. As long as it is less awake, that goes on; where not, this
end sleeps as ever, and tries again after a rest.
"""

from __future__ import annotations

from collections.abc import Callable

#: Seconds to stay awake for one answer, at most.
SPIN = 300e-6
#: Seconds that an answer takes at least, on average, for there to be something to gain.
SLOW = 100e-6
#: Seconds from one exchange to the next, on average, for them to follow closely.
CLOSE = 800e-6
#: Exchanges by which it learns what they cost asleep, and judges what they cost awake.
LEARNED = 32
JUDGED = 64
#: Answers in a row that come too late and tell by themselves that the peer cannot answer in time: where both
#: are on one core, each that is awake keeps the other from running.
LATE = 6
#: Seconds of rest after the first attempt in vain, and after many: each one doubles it.
SHORTEST = 0.1
LONGEST = 1.6


class AdaptiveSpin:
    """The waiting of one loop, for the answers to what it sends.

    :param clock: seconds, monotonic.
    :param wall: seconds since the epoch. Both ends begin to try at multiples of a rest, to meet there.
    :param cpu: seconds of CPU that the loop's thread has used.
    """

    __slots__ = (
        "_awake",
        "_began",
        "_clock",
        "_count",
        "_cpu",
        "_late",
        "_rest",
        "_rests",
        "_sent",
        "_since",
        "_slept",
        "_usual",
        "_wall",
    )

    def __init__(
        self, clock: Callable[[], float], wall: Callable[[], float], cpu: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._cpu = cpu
        self._sent: float | None = None  # when the first was sent of what has no answer yet
        self._awake = False
        # Of the exchanges that are being counted:
        self._count = 0
        self._since = 0.0  # when they began
        self._began = 0.0  # the CPU used until then
        self._slept = 0.0  # for how long answers were awaited asleep
        self._late = 0  # answers, one after the other
        self._usual = 0.0  # what an exchange costs asleep
        self._rests = 0.0  # until then
        self._rest = SHORTEST  # for how long, the next time

    def sent(self) -> float:
        """Something was sent: until when, by the clock, to stay awake; 0.0: sleep at once."""
        if self._sent is None:
            self._sent = self._clock()
        return self._sent + SPIN if self._awake else 0.0

    def came(self) -> None:
        """Something has come, and is taken for the answer."""
        if self._sent is None:
            return
        now = self._clock()
        waited = now - self._sent
        self._sent = None
        if self._awake:
            self._try(waited <= SPIN, now)
        elif now >= self._rests:
            self._learn(waited, now)

    def _learn(self, waited: float, now: float) -> None:
        if self._count and now - self._since > CLOSE * LEARNED:
            self._count = 0
        if not self._count:  # from the answer of one exchange to that of another, each is whole
            self._since = now
            self._began = self._cpu()
            self._slept = 0.0
        else:
            self._slept += waited
        self._count += 1
        if self._count > LEARNED:
            cpu = self._cpu()
            self._usual = (cpu - self._began) / LEARNED
            self._awake = self._slept >= SLOW * LEARNED
            self._began = cpu
            self._count = 0

    def _try(self, in_time: bool, now: float) -> None:
        self._count += 1
        self._late = 0 if in_time else self._late + 1
        if self._late == LATE:
            self._give_up(now)
        elif self._count == JUDGED:
            cpu = self._cpu()
            if cpu - self._began < self._usual * JUDGED:
                self._began = cpu
                self._count = 0
                self._rest = SHORTEST
            else:
                self._give_up(now)

    def _give_up(self, now: float) -> None:
        self._awake = False
        self._count = 0
        self._late = 0
        self._rests = now + self._rest - self._wall() % self._rest
        self._rest = min(2 * self._rest, LONGEST)
