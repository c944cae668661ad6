"""Whether to await an answer awake: only where that takes no more of the processor than sleeping does.

A process that sleeps has to be woken, which takes its peer and itself some CPU, and on a virtual machine more
time than the answer. To spin for a moment before sleeping is an old remedy (Karlin, Li, Manasse, Owicki,
"Empirical studies of competitive spinning", SOSP 1991), and Linux has it for the idle processors of guests
(cpuidle-haltpoll). Whether it pays depends on the machine, on what else runs there, and most of all on the
peer: of two ends that both stay awake neither waits for a process to be woken.

So nothing is assumed, and everything measured. Where exchanges follow each other closely, what one of them
takes of the CPU is measured asleep, then awake. What is saved by not sleeping is then known, and as long as
answers are awaited for less than that, it goes on. Where they are not, this end sleeps as ever, and tries
again after a rest.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

#: Seconds to stay awake for one answer, at most.
SPIN = 300e-6
#: Seconds that an answer takes at least, on average, for there to be something to gain.
SLOW = 100e-6
#: Seconds from one exchange to the next, on average, for them to follow closely.
CLOSE = 800e-6
#: Exchanges by which it learns what they cost asleep, in so many parts, and judges what they cost awake.
LEARNED = 32
PARTS = 4
JUDGED = 64
#: Answers in a row that come too late and tell by themselves that the peer cannot answer in time: where both
#: are on one core, each that is awake keeps the other from running.
LATE = 6
#: Seconds of rest after the first attempt in vain, and after many: each one doubles it.
SHORTEST = 0.1
LONGEST = 1.6
#: Seconds without any exchange after which nothing that was found out counts any more.
PAUSE = 1.0
#: Seconds after which it does not count in any case: what is exchanged changes.
FRESH = 60.0


class AdaptiveSpin:
    """The waiting of one loop, for the answers to what it sends.

    :param clock: seconds, monotonic.
    :param wall: seconds since the epoch. Rests, and what was found out, end at multiples of their lengths, so
        that both ends sleep, and try, at the same time: an end that sleeps beside one that is awake leaves
        most of the cost to that one.
    :param cpu: seconds of CPU that the loop's thread has used.
    """

    __slots__ = (
        "_awake",
        "_came",
        "_clock",
        "_count",
        "_cpu",
        "_late",
        "_marks",
        "_rest",
        "_rests",
        "_saved",
        "_sent",
        "_since",
        "_stale",
        "_usual",
        "_waited",
        "_wall",
    )

    def __init__(
        self, clock: Callable[[], float], wall: Callable[[], float], cpu: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._cpu = cpu
        self._sent: float | None = None  # when the first was sent of what has no answer yet
        self._came = 0.0  # when the last answer came
        self._awake = False
        # Of the exchanges that are being counted:
        self._count = 0
        self._since = 0.0  # when they began
        self._marks: list[float] = []  # the CPU used until then, and until each part of them had ended
        self._waited = 0.0  # for how long answers were awaited
        self._late = 0  # answers, one after the other
        self._usual = 0.0  # what an exchange costs asleep
        self._saved = 0.0  # what of that is saved by not sleeping; 0.0 until it is known
        self._stale = 0.0  # when both are to be found out afresh
        self._rests = 0.0  # until then
        self._rest = SHORTEST  # for how long, the next time

    def sent(self) -> float:
        """Something was sent: until when, by the clock, to stay awake for an answer.

        0.0 if not at all, and if there was something already that has no answer yet.
        """
        if self._sent is not None:
            return 0.0
        now = self._sent = self._clock()
        if now - self._came > PAUSE:
            self._sleep()
        return now + SPIN if self._awake else 0.0

    def came(self) -> None:
        """Something has come, and is taken for the answer."""
        if self._sent is None:
            return
        now = self._came = self._clock()
        waited = now - self._sent
        self._sent = None
        if waited > PAUSE:
            self._sleep()
        elif self._awake:
            self._try(waited, now)
        elif now >= self._rests:
            self._learn(waited, now)

    def _learn(self, waited: float, now: float) -> None:
        if self._count and now - self._since > CLOSE * LEARNED:
            self._count = 0
        if not self._count:  # from the answer of one exchange to that of another, each is whole
            self._since = now
            self._marks = [self._cpu()]
            self._waited = 0.0
        else:
            self._waited += waited
            if self._count % (LEARNED // PARTS) == 0:
                self._marks.append(self._cpu())
        self._count += 1
        if self._count > LEARNED:
            # Not the mean: what the thread did besides, once in a while, is no part of an exchange.
            costs = sorted(after - before for before, after in pairwise(self._marks))
            self._usual = costs[1] / (LEARNED // PARTS)
            self._stale = self._next(now, FRESH)
            self._awake = self._waited >= SLOW * LEARNED
            self._count = 0
            self._waited = 0.0

    def _try(self, waited: float, now: float) -> None:
        late = waited > SPIN
        self._waited += SPIN + self._saved if late else waited  # who was late was then awaited asleep
        self._late = self._late + 1 if late else 0
        self._count += 1
        if self._late == LATE:
            self._give_up(now)
        elif now >= self._stale:
            self._sleep()
        elif self._count == JUDGED:
            if not self._saved:
                spent = self._cpu() - self._marks[-1]
                self._saved = self._usual - (spent - self._waited) / JUDGED
            if self._waited < self._saved * JUDGED:
                self._count = 0
                self._waited = 0.0
                self._rest = SHORTEST
            else:
                self._give_up(now)

    def _give_up(self, now: float) -> None:
        self._sleep()
        self._rests = self._next(now, self._rest)
        self._rest = min(2 * self._rest, LONGEST)

    def _sleep(self) -> None:
        self._awake = False
        self._count = 0
        self._late = 0
        self._saved = 0.0

    def _next(self, now: float, every: float) -> float:
        """When the next multiple of `every` seconds comes by the wall clock."""
        return now + every - self._wall() % every
