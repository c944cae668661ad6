"""Two ends that may stay awake, on simulated machines: they come to it where it pays, and to no harm elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.protocol.spin import (
    CLOSE,
    FRESH,
    JUDGED,
    LATE,
    LEARNED,
    LONGEST,
    PAUSE,
    SHORTEST,
    SLOW,
    SPIN,
    AdaptiveSpin,
)

#: As steps of the test below: what begins a trial.
EXCHANGE = [(True, 2 * SLOW), (False, 1e-6)]
#: What the code of one end takes for its part of an exchange.
WORK = 20e-6


@dataclass
class Machine:
    """Where two ends run: what sleeping costs there. The times are in seconds."""

    #: From an arrival until who slept runs.
    latency: float = 60e-6
    #: CPU for having slept, and for waking somebody who sleeps.
    woken: float = 25e-6
    waking: float = 25e-6
    #: The way from one to the other.
    way: float = 2e-6
    #: Whether the two share a core, so that one runs only when the other sleeps.
    shared: bool = False
    now: float = 1000.0


class End:
    """One of two that send to each other in turn."""

    def __init__(self, machine: Machine, *, never: bool = False, ahead: float = 0.0) -> None:
        self._machine = machine
        self._never = never
        self.spin = AdaptiveSpin(lambda: machine.now, lambda: 1e9 + ahead + machine.now, lambda: self.cpu)
        self.work = WORK
        self.cpu = 0.0
        self.until = 0.0
        self.began = 0.0
        #: How many answers were awaited, and for how long in all it was awake for them.
        self.waits = 0
        self.awake = 0.0
        #: When it began each trial.
        self.trials: list[float] = []

    def send(self, other: End) -> None:
        """Send to `other`, which has it at the end."""
        machine = self._machine
        self.began = machine.now
        until = 0.0 if self._never else self.spin.sent()
        if until and not self.until:
            self.trials.append(machine.now)
        self.until = until
        arrives = machine.now + machine.way
        if machine.shared:
            arrives = max(arrives, self.until)
        elif not other.until >= arrives:
            self.cpu += machine.waking
        other.receive(arrives)

    def receive(self, arrives: float) -> None:
        """Take what arrives then, and work on it."""
        machine = self._machine
        spun = max(0.0, min(arrives, self.until) - self.began)
        self.waits += 1
        self.awake += spun
        self.cpu += spun
        machine.now = arrives
        if not self.until >= arrives:
            self.cpu += machine.woken
            machine.now += machine.latency
        if not self._never:
            self.spin.came()
        self.cpu += self.work
        machine.now += self.work


def play(a: End, b: End, count: int, think: float = 0.0) -> float:
    """Exchanges one after the other, with pauses between; how long one takes, in the middle of the last half."""
    machine, took = a._machine, []
    for _ in range(count):
        machine.now += think
        began = machine.now
        a.send(b)
        b.send(a)
        took.append(machine.now - began)
    half = sorted(took[count // 2 :])
    return half[len(half) // 2]


def pair(machine: Machine) -> tuple[End, End]:
    """Two that may both stay awake."""
    return End(machine), End(machine)


def test_two_ends_that_exchange_come_to_stay_awake_and_both_save() -> None:
    """Where waking takes longer than answering, an exchange takes a third of the time, and less of the CPU."""
    machine = Machine()
    asleep = End(machine, never=True), End(machine, never=True)
    usual = play(*asleep, 2000)
    a, b = pair(machine)
    assert play(a, b, 2000) < usual / 3
    assert a.cpu + b.cpu < 0.7 * (asleep[0].cpu + asleep[1].cpu)
    assert len(a.trials) == len(b.trials) == 1


def test_it_takes_few_exchanges() -> None:
    """Who begins to exchange is not kept waiting for it."""
    a, b = pair(Machine())
    play(a, b, LEARNED + 4)
    assert a.until
    assert b.until
    play(a, b, 10 * JUDGED)
    assert len(a.trials) == len(b.trials) == 1


@pytest.mark.parametrize("latency", [10e-6, 60e-6, 150e-6])
def test_a_peer_that_always_sleeps_costs_little(latency: float) -> None:
    """What is tried in vain is tried ever more rarely: it takes a hundredth of a core at most."""
    machine = Machine(latency=latency)
    asleep = End(machine, never=True), End(machine, never=True)
    began = machine.now
    play(*asleep, 100_000)
    usual, began = machine.now - began, machine.now
    a = End(machine)
    play(a, End(machine, never=True), 100_000)
    assert machine.now - began < 1.01 * usual
    assert a.cpu - asleep[0].cpu < 0.01 * usual


def test_two_on_one_core_are_slowed_down_by_little() -> None:
    """There, who stays awake keeps the other from answering; with answers slow enough to try, it is found out."""
    usual = Machine(shared=True, latency=90e-6, woken=5e-6)
    play(End(usual, never=True), End(usual, never=True), 50_000)
    machine = Machine(shared=True, latency=90e-6, woken=5e-6)
    a, b = pair(machine)
    play(a, b, 50_000)
    assert a.trials
    assert machine.now - 1000.0 < 1.01 * (usual.now - 1000.0)


def test_answers_that_are_quick_already_are_awaited_asleep() -> None:
    """On a core of both, or a machine that wakes at once, there is nothing to try."""
    machine = Machine(latency=SLOW / 2 - WORK, woken=5e-6, waking=5e-6)
    a, b = pair(machine)
    play(a, b, 10_000)
    assert not a.trials
    assert not b.trials


def test_exchanges_now_and_then_are_awaited_asleep() -> None:
    """Heartbeats, and calls with something else between them, do not follow closely: nobody stays awake."""
    machine = Machine()
    a, b = pair(machine)
    play(a, b, 10_000, think=CLOSE)
    assert not a.trials
    assert not b.trials


def test_what_was_long_ago_does_not_count() -> None:
    """Exchanges in small groups are not taken for one that goes on: what they cost would not be known."""
    machine = Machine()
    a, b = pair(machine)
    for _ in range(100):
        play(a, b, LEARNED // 2)
        machine.now += LEARNED * CLOSE
    assert not a.trials
    assert not b.trials


def test_once_exchanges_are_far_apart_both_come_to_sleep() -> None:
    """Who waits for questions is awake in vain, and who waits for answers needs more than asleep: both end it."""
    machine = Machine()
    a, b = pair(machine)
    play(a, b, 1000)
    assert a.until
    assert b.until
    play(a, b, 2 * JUDGED, think=0.01)
    assert not a.until
    assert not b.until


def test_a_pause_costs_one_wait_in_vain() -> None:
    """After it both are awake again for each other: groups of exchanges gain as well, once it is known to pay."""
    machine = Machine()
    a, b = pair(machine)
    play(a, b, 1000)
    for _ in range(100):
        machine.now += 0.05
        play(a, b, JUDGED)
        assert a.until
        assert b.until
    assert len(a.trials) == len(b.trials) == 1


def test_exchanges_that_have_become_others_are_found_out() -> None:
    """What counts is what is saved by not sleeping, however dear the work for an exchange was when it was learnt."""
    machine = Machine(woken=120e-6, waking=120e-6)
    a, b = pair(machine)
    a.work = b.work = 150e-6
    play(a, b, 300)
    assert a.until
    assert a.spin._saved == pytest.approx(machine.woken + machine.waking, rel=0.1)
    a.work = 1e-6
    machine.way, machine.latency = 80e-6, 100e-6
    began, awake = machine.now, a.awake
    play(a, End(machine, never=True), 20_000)
    assert a.awake - awake < 0.02 * (machine.now - began) + 2 * JUDGED * SPIN


def test_what_was_learnt_while_it_changed_does_not_count_for_long() -> None:
    """Nothing tells that the work has changed before it was known what sleeping costs; so that is asked again."""
    machine = Machine(latency=110e-6, way=20e-6)
    a = End(machine)
    a.work = 400e-6
    play(a, End(machine, never=True), LEARNED + 1)
    a.work = 1e-6
    play(a, End(machine, never=True), 2 * JUDGED)
    assert a.spin._awake
    assert a.spin._saved > SPIN
    began, awake = machine.now, a.awake
    play(a, End(machine, never=True), 700_000)
    assert machine.now - began > 2 * FRESH
    assert a.awake - awake < FRESH + 0.02 * (machine.now - began)


def test_what_it_costs_is_found_out_afresh_at_both_ends_at_once() -> None:
    """Each learns what it is if both sleep; which is soon over."""
    machine = Machine()
    a, b = pair(machine)
    took = play(a, b, 1000)
    machine.now += FRESH - 0.5 - machine.now % FRESH
    count = 0
    for _ in range(20_000):
        assert play(a, b, 1) < 6 * took
        count += not a.until
    assert a.until
    assert b.until
    assert LEARNED < count <= LEARNED + 3
    assert len(a.trials) == len(b.trials) == 2


def test_what_the_thread_does_besides_is_not_taken_for_the_cost_of_sleeping() -> None:
    """A burst of work while it learns, a collection of garbage for instance, does not have it stay awake in vain."""
    machine = Machine(latency=150e-6)
    a = End(machine)
    for number in range(LEARNED + 1):
        play(a, End(machine, never=True), 1)
        a.cpu += 9e-3 * (number == LEARNED // 2)
    assert a.spin._usual == pytest.approx(WORK + machine.woken + machine.waking)
    play(a, End(machine, never=True), JUDGED + 1)
    assert not a.until


def test_after_a_long_pause_it_learns_anew() -> None:
    """Nobody knows what it costs by then; and who now exchanges rarely is never awake in vain."""
    machine = Machine()
    a, b = pair(machine)
    play(a, b, 1000)
    assert a.until
    awake = a.awake, b.awake
    for _ in range(10):
        machine.now += 1.01 * PAUSE
        play(a, b, 1)
        assert not a.until
    assert a.awake == awake[0]
    assert b.awake - awake[1] < 1.01 * SPIN  # it awaits the first of those questions
    play(a, b, LEARNED + 2)
    assert a.until
    assert b.until


@pytest.mark.parametrize("ahead", [0.003, 0.05, 1.2])
def test_clocks_that_differ_do_no_harm(ahead: float) -> None:
    """Who begin to exchange try at the same time, whatever their clocks show. Later one may sleep beside the other."""
    machine = Machine()
    asleep = End(machine, never=True), End(machine, never=True)
    usual = play(*asleep, 1000)
    each = (asleep[0].cpu + asleep[1].cpu) / 1000
    a, b = End(machine), End(machine, ahead=ahead)
    assert play(a, b, 2000) < usual / 3
    assert len(a.trials) == len(b.trials) == 1
    machine.now += FRESH - 1.5 - machine.now % FRESH
    began, cpu, count = machine.now, a.cpu + b.cpu, 20_000
    play(a, b, count, think=0.5e-3)
    assert machine.now > began + 3.0
    assert machine.now - began < 1.01 * count * (usual + 0.5e-3)
    assert a.cpu + b.cpu - cpu < 1.02 * count * each


def test_ends_that_began_to_try_at_different_times_meet() -> None:
    """One that had tried alone for long, and rests as long as it ever does, tries again together with the other."""
    machine = Machine()
    a = End(machine)
    play(a, End(machine, never=True), 50_000)
    assert a.spin._rest == LONGEST
    machine.now += 0.123
    b = End(machine)
    usual = play(End(machine, never=True), End(machine, never=True), 100)
    b.spin._rests = machine.now + 3 * SHORTEST  # it, too, has just tried in vain, not as often
    began = machine.now
    while not (a.until and b.until):
        play(a, b, 1)
        assert machine.now - began < 2 * LONGEST
    assert play(a, b, 2000) < usual / 3


def test_rests_begin_short_again_where_it_pays() -> None:
    """What was found not to pay once, and does now, is tried soon after it fails."""
    machine = Machine()
    a = End(machine)
    play(a, End(machine, never=True), 50_000)
    b = End(machine)
    while not (a.until and b.until):
        play(a, b, 1)
    play(a, b, 2 * JUDGED)
    assert a.spin._rest == SHORTEST


def test_who_sends_on_and_is_not_answered_sleeps() -> None:
    """What goes one way has no answer: the time to wait for one runs from the first that was sent."""
    machine = Machine()
    a, b = pair(machine)
    play(a, b, 100)
    assert a.spin.sent() == machine.now + SPIN
    for _ in range(100):
        machine.now += SPIN / 2
        assert a.spin.sent() == 0.0
    a.spin.came()
    assert a.spin.sent() == machine.now + SPIN


def test_answers_that_are_late_now_and_then_do_not_end_it() -> None:
    """That is what machines do: as long as it pays nevertheless, it goes on."""
    machine = Machine()
    a, b = pair(machine)
    play(a, b, 2 * JUDGED)
    for _ in range(100):
        play(a, b, JUDGED // 3)
        a.send(b)
        machine.now += 1.5 * SPIN
        b.send(a)
        assert a.until
    assert len(a.trials) == 1


class Driver:
    """Makes exchanges with figures of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cpu = 0.0
        self.spin = AdaptiveSpin(lambda: self.now, lambda: self.now, lambda: self.cpu)

    def exchange(self, cpu: float, waited: float = 1.1 * SLOW, think: float = 10e-6) -> bool:
        """One, with so much CPU used beside the waiting; whether it was awake."""
        self.now += think
        awake = self.spin.sent() > 0.0
        self.now += waited
        self.cpu += cpu + (min(waited, SPIN) if awake else 0.0)
        self.spin.came()
        return awake

    def learn(self, cpu: float) -> None:
        """So many that it tries from then on, each with so much."""
        for _ in range(LEARNED + 1):
            assert not self.exchange(cpu)


def test_answers_that_are_late_one_after_the_other_end_it() -> None:
    """So many of them in a row tell enough, whatever they cost, each time; with one in time between they do not."""
    driver = Driver()
    for _ in range(3):
        driver.now += LONGEST
        driver.learn(1.0)
        for late in (LATE - 1, LATE - 1, LATE):
            for _ in range(late):
                assert driver.exchange(0.0, 1.01 * SPIN)
            assert driver.exchange(0.0) is (late < LATE)


def test_rests_double_up_to_the_longest() -> None:
    """They end at multiples of their lengths, at the latest after so long; the first one is short."""
    driver = Driver()
    for rest in (SHORTEST, 2 * SHORTEST, 4 * SHORTEST, 8 * SHORTEST, LONGEST, LONGEST):
        while not driver.exchange(1e-6):
            pass
        while driver.spin._awake:
            driver.exchange(1e-6)
        assert driver.now < driver.spin._rests <= driver.now + rest
        assert driver.spin._rests % rest == pytest.approx(
            0.0, abs=1e-6
        ) or driver.spin._rests % rest == pytest.approx(rest)


def test_what_was_used_in_a_pause_is_no_part_of_what_exchanges_cost() -> None:
    """Nor is what was used before a trial that was given up: each count begins with an answer."""
    driver = Driver()
    for _ in range(LEARNED - 1):
        driver.exchange(50e-6)
    driver.cpu += 1.0
    driver.now += LEARNED * CLOSE
    driver.learn(50e-6)
    assert driver.spin._usual == pytest.approx(50e-6)
    for _ in range(LATE):
        driver.exchange(0.0, 2 * SPIN)
    driver.cpu += 1.0
    driver.now = driver.spin._rests
    driver.learn(70e-6)
    assert driver.spin._usual == pytest.approx(70e-6)


def test_the_figures_are_those_of_the_documentation() -> None:
    """docs/tuning.md and docs/performance.md give them."""
    assert (SPIN, SLOW, CLOSE) == (0.3e-3, 0.1e-3, 0.8e-3)
    assert (LEARNED, JUDGED, LATE) == (32, 64, 6)
    assert (SHORTEST, LONGEST, PAUSE, FRESH) == (0.1, 1.6, 1.0, 60.0)


@pytest.mark.parametrize(("more", "goes_on"), [(-5e-6, True), (0.0, False), (5e-6, False)])
def test_what_it_costs_awake_is_held_against_what_it_costs_asleep(more: float, goes_on: bool) -> None:
    """By the CPU of the thread, over whole exchanges; and it is judged after so many, not before."""
    driver = Driver()
    driver.learn(0.25e-3)
    for _ in range(JUDGED):
        assert driver.exchange(0.125e-3 + more, waited=0.125e-3)
    assert driver.exchange(0.125e-3, waited=0.125e-3) is goes_on


@pytest.mark.parametrize(("waited", "goes_on"), [(0.145e-3, True), (0.155e-3, False)])
def test_what_is_saved_is_held_against_how_long_answers_take(waited: float, goes_on: bool) -> None:
    """Whatever the work is by then: for each 64 by themselves, and one that is late counts for all it costs."""
    for work in (0.1e-3, 5e-6, 5e-3):
        driver = Driver()
        driver.learn(0.25e-3)
        for _ in range(2 * JUDGED):
            assert driver.exchange(0.1e-3, waited=0.125e-3)
        assert driver.spin._saved == pytest.approx(0.15e-3)
        for _ in range(JUDGED):
            assert driver.exchange(work, waited=waited)
        assert driver.exchange(work, waited=waited) is goes_on
    driver = Driver()
    driver.learn(0.25e-3)
    for _ in range(2 * JUDGED):
        assert driver.exchange(0.1e-3, waited=0.125e-3)
    # 64 times 0.15 ms is 9.6. With 0.45 for each that is late, and 0.1 for the others, 9 late ones make 9.55.
    late = 9 if goes_on else 10
    for number in range(JUDGED):
        assert driver.exchange(0.0, waited=2 * SPIN if number % 5 == 0 and number // 5 < late else 0.1e-3)
    assert driver.exchange(0.0) is goes_on


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from((0.0, 1e-6, 5e-5, 1.5e-4, 2.5e-4, 4e-4, 6e-4, 5e-2)),
        ),
        max_size=400,
    ),
    st.integers(min_value=1, max_value=8),
)
def test_whatever_comes_when_it_is_awake_in_vain_for_a_small_part_of_the_time(
    steps: list[tuple[bool, float]], times: int
) -> None:
    """Where sleeping costs nothing, being awake never pays: from one rest to the next there is one trial."""
    now, cpu, awake, until = 1000.0, 0.0, 0.0, 0.0
    spin = AdaptiveSpin(lambda: now, lambda: now, lambda: cpu)
    for sends, pause in (EXCHANGE * (LEARNED + 1) + steps) * times:
        spun = max(0.0, min(until - now, pause))
        awake += spun
        cpu += spun
        now += pause
        if sends:
            until = spin.sent()
        else:
            spin.came()
            until = 0.0
    trials = 1 + (now - 1000.0) / SHORTEST
    assert awake <= trials * (JUDGED + 1) * SPIN
