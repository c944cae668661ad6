"""The flight of bulk over simulated paths, slow and fast, short and long: kept busy, and with little queued."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.protocol.flight import FRESH, LEAST, MARKS, SLACK, STEP, Flight

PIECE = 64 * 1024
MB = 1e6


class Path:
    """A path of a rate in bytes per second and a delay each way in seconds, with a sender that never rests.

    :param stalls: seconds for which the reader does something else, by the time at which it would read.
    """

    def __init__(
        self, rate: float, delay: Callable[[float], float], stalls: Callable[[float], float] = lambda now: 0
    ) -> None:
        self.flight = Flight()
        self.now = 0.0
        self.read = 0
        #: What a frame posted now would wait behind, in seconds, at each answer.
        self.waits: list[tuple[float, float]] = []
        self._rate, self._delay, self._stalls = rate, delay, stalls
        self._busy_until = 0.0
        self._events: list[tuple[float, int]] = []
        self._send()

    def run(self, seconds: float) -> None:
        """Let time go on."""
        until = self.now + seconds
        while self._events and self._events[0][0] < until:
            self.now, number = heapq.heappop(self._events)
            if number:
                self.flight.landed(number, self.now)
                self.waits.append((self.now, max(0.0, self._busy_until - self.now - self._delay(self.now))))
                self._send()
            else:
                self.read += PIECE
        assert self._events, "it has come to a halt"
        self.now = until

    def _send(self) -> None:
        while self.flight.room > 0:
            begins = max(self._busy_until, self.now + self._delay(self.now))
            begins += self._stalls(begins)
            self._busy_until = begins + PIECE / self._rate
            heapq.heappush(self._events, (self._busy_until, 0))
            if self.flight.took(PIECE, more=True):
                answered = self._busy_until + self._delay(self.now)
                heapq.heappush(self._events, (answered, self.flight.mark(self.now)))

    def share(self, seconds: float) -> float:
        """The part of the rate that is used in the next `seconds`."""
        before = self.read
        self.run(seconds)
        return (self.read - before) / seconds / self._rate


# A path that stays as it is.

PATHS = [(rate * MB, delay) for rate in (1, 10, 100, 1000) for delay in (0.00005, 0.0005, 0.005, 0.05, 0.15)]


@pytest.mark.parametrize(("rate", "delay"), PATHS)
def test_every_path_is_kept_busy_with_little_queued(rate: float, delay: float) -> None:
    """After a while nothing of the rate is lost, and a queue adds about what the empty path takes, or LEAST."""
    path = Path(rate, lambda now: delay)
    path.run(max(0.5, 40 * delay))
    assert path.share(max(1.0, 100 * delay)) > 0.95
    empty = 2 * delay + PIECE / rate
    most = max(1.5 * empty + SLACK + 2 * STEP / rate, (LEAST + 2 * STEP) / rate)
    waits = sorted(wait for now, wait in path.waits if now > path.now / 2)
    assert waits[len(waits) // 2] <= most


@pytest.mark.parametrize("delay", [0.005, 0.05])
def test_a_queue_delays_as_much_as_the_empty_path_does(delay: float) -> None:
    """Where the window is what bounds it: half of what a mark takes is the path, and half the queue."""
    path = Path(500 * MB, lambda now: delay)
    path.run(40 * delay)
    path.waits.clear()
    path.run(40 * delay)
    waits = sorted(wait for _, wait in path.waits)
    assert 0.7 * 2 * delay <= waits[len(waits) // 2] <= 1.5 * 2 * delay


def test_it_doubles_until_the_path_is_full() -> None:
    """From its start a window reaches what 1 GB/s over 100 ms takes within three seconds: not by addition."""
    path = Path(1000 * MB, lambda now: 0.05)
    path.run(3)
    assert path.flight.window > 1000 * MB * 0.1


def test_a_reader_that_is_busy_at_times_costs_only_that_time() -> None:
    """A fifth of the time its reader computes for 20 ms at once: what is left of the rate is used."""
    until = 0.0

    def stalls(now: float) -> float:
        nonlocal until
        if now - until < 0.08:
            return 0.0
        until = now + 0.02
        return 0.02

    path = Path(500 * MB, lambda now: 0.0001, stalls)
    path.run(1)
    assert path.share(5) > 0.75


# A path that changes.


@pytest.mark.parametrize(("before", "after"), [(0.005, 0.05), (0.05, 0.005), (0.0001, 0.02), (0.02, 0.0001)])
def test_a_path_that_becomes_longer_or_shorter_is_learned(before: float, after: float) -> None:
    """Within two measures of the empty path the whole rate is used again, with little queued."""
    path = Path(100 * MB, lambda now: before if now < 5 else after)
    path.run(5 + 2 * FRESH + 2)
    assert path.share(5) > 0.9
    assert path.waits[-1][1] <= 3 * after + SLACK + 3 * STEP / (100 * MB)


def test_the_empty_path_is_measured_afresh_without_a_halt() -> None:
    """A stream that never rests lets its flight land from time to time, at a cost that hardly shows."""
    path = Path(100 * MB, lambda now: 0.005)
    path.run(1)
    assert path.share(10 * FRESH) > 0.97
    landed = [now for now, wait in path.waits if wait == 0.0 and now > 2]
    assert len(landed) >= 8


# Known cases.


def test_the_first_piece_is_marked_and_then_one_in_a_step() -> None:
    """What goes over an empty path says at once how long that is; later marks come by bytes."""
    flight = Flight()
    assert flight.took(1, more=True)
    flight.mark(0.0)
    due = [flight.took(STEP // 4, more=True) for _ in range(8)]
    assert due == [False, False, False, True, True, True, True, True]  # until it is marked


def test_what_fills_the_window_is_marked() -> None:
    """However little was sent since the last mark: else a window that shrinks would leave nothing to wait for."""
    flight = Flight()
    flight.took(LEAST - 10, more=True)
    flight.mark(0.0)
    assert not flight.took(9, more=True)
    assert flight.took(1, more=True)


def test_no_more_than_the_window_leaves() -> None:
    """Room is what the window leaves, a frame that began in it may end beyond it, and then there is none."""
    flight = Flight()
    assert flight.room == LEAST
    flight.took(LEAST - 1, more=True)
    assert flight.room == 1
    flight.took(PIECE, more=True)
    assert flight.room < 0


def test_an_answer_speaks_for_the_marks_before_it() -> None:
    """A peer that leaves some out has still said that all before the later one is read."""
    flight = Flight()
    numbers = []
    for now in range(3):
        flight.took(STEP, more=True)
        numbers.append(flight.mark(float(now)))
    assert numbers == [MARKS + 1, MARKS + 2, MARKS + 3]
    flight.landed(numbers[1], 3.0)
    assert flight.room == flight.window - STEP
    flight.landed(numbers[0], 3.0)
    assert flight.room == flight.window - STEP
    flight.landed(numbers[2], 3.0)
    assert flight.room == flight.window


def test_one_answer_moves_the_window_by_a_part_only() -> None:
    """However quick it was, and however slow: no answer makes a leap of it, and none takes what is always allowed."""
    flight = Flight()
    flight.took(LEAST, more=True)
    flight.landed(flight.mark(0.0), 1e-9)
    assert LEAST < flight.window <= 1.25 * LEAST
    for now in range(1, int(FRESH)):
        flight.took(int(flight.window), more=True)
        before = flight.window
        flight.landed(flight.mark(now), now + 0.9)
        assert flight.window >= 0.75 * before
    assert flight.window == LEAST


def test_one_late_answer_is_no_queue() -> None:
    """While of four marks three are late the window goes on to grow. With all four it shrinks."""
    flight = Flight()
    flight.window = 4 * LEAST

    def exchange(now: float, seconds: float) -> float:
        flight.took(int(flight.room), more=True)
        flight.landed(flight.mark(now), now + seconds)
        return flight.window

    windows = [exchange(now, 0.01 if now < 4 else 0.5) for now in range(8)]
    assert windows[:7] == sorted(windows[:7])
    assert windows[7] < 0.8 * windows[6]


def test_little_bulk_now_and_then_teaches_nothing() -> None:
    """A flight that is far from filling its window neither widens nor narrows it."""
    flight = Flight()
    for seconds in range(100):
        flight.took(1000, more=True)
        flight.landed(flight.mark(seconds), seconds + (0.001 if seconds % 2 else 0.5))
    assert flight.window == LEAST


def test_after_a_pause_nothing_waits_for_a_measure() -> None:
    """A mark with nothing before it measures the empty path by itself: what follows need not wait for it."""
    flight = Flight()
    flight.took(PIECE, more=True)
    flight.landed(flight.mark(0.0), 0.01)
    flight.took(PIECE, more=True)
    flight.mark(100 * FRESH)
    assert flight.room > 0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 131_000)),
            st.tuples(st.just("land"), st.integers(0, 5)),
            st.tuples(st.just("wait"), st.integers(0, 20_000_000)),
            st.tuples(st.just("grow"), st.integers(LEAST, 20_000_000)),
        ),
        max_size=50,
    )
)
def test_it_never_comes_to_a_halt(steps: list[tuple[str, int]]) -> None:
    """Whatever answers take, and however windows shrink: once all marks are answered there is room."""
    flight, now = Flight(), 0.0
    marks: list[int] = []

    def send(piece: int) -> None:
        for _ in range(1000):
            if flight.room <= 0:
                return
            if flight.took(piece, more=True):
                marks.append(flight.mark(now))

    for step, value in steps:
        if step == "send":
            send(value)
        elif step == "wait":
            now += value / 1e6
        elif step == "grow":
            flight.window = max(flight.window, value)
        elif marks:
            number = marks[min(value, len(marks) - 1)]
            del marks[: marks.index(number) + 1]
            flight.landed(number, now)
    send(60_000)
    now += 1e6
    for number in marks:
        flight.landed(number, now)
    assert flight.room > 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("took"), st.integers(0, 200_000)),
            st.tuples(st.just("mark"), st.just(0)),
            st.tuples(st.just("landed"), st.integers(0, 30)),
            st.tuples(st.just("wait"), st.integers(0, 20_000)),
        ),
        max_size=200,
    )
)
def test_whatever_the_peer_answers_the_books_hold(steps: list[tuple[str, int]]) -> None:
    """Answers twice, out of order, or to nothing: the window keeps its bounds, and all marks answered is room again."""
    flight, now, last = Flight(), 0.0, MARKS
    for step, value in steps:
        if step == "took":
            flight.took(value, more=True)
        elif step == "mark":
            last = flight.mark(now)
        elif step == "landed":
            before = flight.window
            flight.landed(MARKS + value, now)
            assert LEAST <= flight.window <= max(LEAST, 2 * before + 2_000_000)
        else:
            now += value / 1000
    flight.landed(flight.mark(now), now)
    assert flight.room == flight.window >= LEAST
    assert last <= MARKS + len(steps)
