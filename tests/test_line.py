"""The line of those who wait for room: who came first goes first, and nobody is forgotten behind one who left."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import hypothesis
import pytest
from gevent.event import Event
from hypothesis import strategies as st

from snowgreen.messaging.line import Line
from tests.waiting import until


def turns() -> None:
    """Let everybody run who can."""
    gevent.idle()


def forever() -> None:
    """No limit."""


class Counter:
    """A line in front of a number of places, which those who go take."""

    def __init__(self) -> None:
        self.line = Line()
        self.places = 0
        self.went: list[int] = []
        self.came = 0

    def ready(self) -> bool:
        """Whether there is a place."""
        return self.places > 0

    def spawn(self, left: Callable[[], float | None] = forever) -> gevent.Greenlet[..., bool]:
        """A greenlet that lines up at once."""
        number = self.came
        self.came += 1

        def work() -> bool:
            if not self.line.wait(self.ready, left):
                return False
            assert self.places > 0, "somebody came before"
            self.places -= 1
            self.went.append(number)
            return True

        job = gevent.spawn(work)
        turns()
        return job

    def free(self, places: int = 1) -> None:
        """There is more room."""
        self.places += places
        self.line.poke()


def test_who_need_not_wait_does_not() -> None:
    """With nobody in front and the condition true, the first look is enough: nobody else has a turn."""
    line, ran = Line(), Event()
    job = gevent.spawn(ran.set)
    assert line.wait(lambda: True, forever)
    assert not ran.is_set()
    assert len(line) == 0
    job.join()


def test_no_time_is_no_wait() -> None:
    """Without a second left it is False at once, unless the condition is true: time is looked at last."""
    line, ran = Line(), Event()
    job = gevent.spawn(ran.set)
    assert not line.wait(lambda: False, lambda: 0)
    assert not line.wait(lambda: False, lambda: -1.0)
    assert line.wait(lambda: True, lambda: 0)
    assert not ran.is_set()
    assert not line
    job.join()


def test_first_come_first_served() -> None:
    """Each place goes to who has waited longest, however many there are at once."""
    counter = Counter()
    jobs = [counter.spawn() for _ in range(6)]
    assert len(counter.line) == 6
    counter.free()
    turns()
    assert counter.went == [0]
    counter.free(3)
    turns()
    assert counter.went == [0, 1, 2, 3]
    jobs.append(counter.spawn())
    counter.free(9)
    turns()
    assert counter.went == [0, 1, 2, 3, 4, 5, 6]
    assert counter.places == 6
    assert len(counter.line) == 0
    gevent.joinall(jobs, raise_error=True)


def test_a_latecomer_does_not_pass() -> None:
    """Who could go by its own condition still waits for who came before."""
    line, order = Line(), []
    gate = [False]

    def work(name: str, ready: Callable[[], bool]) -> None:
        assert line.wait(ready, forever)
        order.append(name)

    jobs = [gevent.spawn(work, "first", lambda: gate[0]), gevent.spawn(work, "second", lambda: True)]
    turns()
    line.poke()
    turns()
    assert order == []
    gate[0] = True
    line.poke()
    gevent.joinall(jobs, raise_error=True, timeout=5)
    assert order == ["first", "second"]


def test_who_was_called_goes_before_who_comes_now() -> None:
    """Between the poke and the turn of who was poked, a newcomer finds the line and stands behind it."""
    counter = Counter()
    counter.spawn()
    counter.free()
    assert len(counter.line) == 1  # who looks at it stands behind
    late = counter.spawn()
    assert counter.went == [0]
    counter.free()
    assert late.get(timeout=5)


def test_nobody_comes_between_the_wait_and_what_follows() -> None:
    """Up to its next switch who went is alone: the next one finds what it has made of the places."""
    counter = Counter()
    jobs = [counter.spawn() for _ in range(50)]
    for _ in range(50):
        counter.free()  # all in one turn; work() asserts that its place is there
    gevent.joinall(jobs, raise_error=True, timeout=5)
    assert counter.went == list(range(50))


def test_poke_without_anybody() -> None:
    """An empty line can be poked, and that is not remembered."""
    line = Line()
    line.poke()
    assert not line.wait(lambda: False, lambda: 0)


def test_a_wait_that_runs_out() -> None:
    """The seconds are asked for again after every look, so that being poked in vain does not prolong them."""
    counter, asked = Counter(), []

    def left() -> float:
        asked.append(None)
        return 60.0 if len(asked) < 4 else 0.0

    job = counter.spawn(left)
    for _ in range(2):
        counter.line.poke()
        turns()
        assert not job.dead
    counter.line.poke()
    assert job.get(timeout=5) is False
    assert len(asked) == 4
    assert len(counter.line) == 0


def test_time_that_passes() -> None:
    """Without a poke a wait ends by itself."""
    counter = Counter()
    job = counter.spawn(iter([0.01, 0.0]).__next__)
    assert job.get(timeout=5) is False


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("how", ["killed", "raised", "timeout", "ran out"])
def test_who_leaves_takes_nobody_with_it(position: int, how: str) -> None:
    """Killed, timed out or in error, at any place of the line: those behind go in their order."""
    counter = Counter()
    time = [60.0]
    jobs = [counter.spawn((lambda: time[0]) if n == position else forever) for n in range(4)]
    leaver = jobs.pop(position)
    if how == "ran out":
        time[0] = 0.0
        counter.line.tickets[position].set()
        turns()
        assert leaver.get(timeout=5) is False
    elif how == "killed":
        leaver.kill()
        assert isinstance(leaver.value, gevent.GreenletExit)
    else:
        error = gevent.Timeout() if how == "timeout" else ValueError()
        with pytest.raises(type(error)) as caught:
            leaver.kill(error)
            leaver.get(timeout=5)
        assert caught.value is error
    assert len(counter.line) == 3
    counter.free(3)
    gevent.joinall(jobs, raise_error=True, timeout=5)
    assert counter.went == [n for n in range(4) if n != position]


@pytest.mark.parametrize("killed_first", [True, False])
def test_who_is_killed_when_its_turn_has_come(killed_first: bool) -> None:
    """Poked and killed in one turn of the loop: either it goes, or the place goes to the next one."""
    counter = Counter()
    first, second = counter.spawn(), counter.spawn()
    if killed_first:
        first.kill(block=False)
        counter.free()
    else:
        counter.free()
        first.kill(block=False)
    turns()
    assert counter.went == ([1] if killed_first else [0])
    assert (first.dead, second.dead) == (True, killed_first)
    second.kill()


def test_who_is_killed_before_it_began() -> None:
    """A greenlet that never ran never stood in the line."""
    counter = Counter()
    job = gevent.spawn(counter.line.wait, counter.ready, forever)
    job.kill()
    assert len(counter.line) == 0


def test_all_are_killed_at_once() -> None:
    """Nothing is left of a line whose greenlets were all killed in one turn, and it works on."""
    counter = Counter()
    jobs = [counter.spawn() for _ in range(20)]
    gevent.killall(jobs, timeout=5)
    assert len(counter.line) == 0
    job = counter.spawn()
    counter.free()
    assert job.get(timeout=5)


def test_what_ready_raises_ends_the_wait_of_each() -> None:
    """A condition that raises when its turn comes raises in its own greenlet, and then the next has its turn."""
    line = Line()
    broken = [False]

    def ready() -> bool:
        if broken[0]:
            raise ValueError("closed")
        return False

    jobs = [gevent.spawn(line.wait, ready, forever) for _ in range(5)]
    turns()
    broken[0] = True
    line.poke()
    gevent.joinall(jobs, timeout=5)
    assert [type(job.exception) for job in jobs] == [ValueError] * 5
    assert len(line) == 0
    with pytest.raises(ValueError, match="closed"):
        line.wait(ready, forever)
    assert len(line) == 0


def test_only_the_first_is_asked() -> None:
    """A condition is looked at by who is first: others would raise what is not theirs yet, or cost too much."""
    line, asked = Line(), []

    def ready(name: str) -> bool:
        asked.append(name)
        return False

    jobs = [gevent.spawn(line.wait, lambda name=name: ready(name), forever) for name in "abc"]
    turns()
    line.poke()
    turns()
    assert asked == ["a", "a"]
    gevent.killall(jobs)


def test_the_callers_timeout_passes_through() -> None:
    """A gevent.Timeout around the wait arrives as the caller's own, and is no False."""
    line = Line()
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.01) as timeout:
        line.wait(lambda: False, lambda: 60.0)
    assert caught.value is timeout
    assert len(line) == 0


steps = st.one_of(
    st.sampled_from(["come", "free", "turn", "poke"]),
    st.tuples(st.sampled_from(["kill", "raise", "expire"]), st.integers(0, 5)),
)


@hypothesis.given(st.lists(steps, max_size=25))
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_course_of_events(course: list[str | tuple[str, int]]) -> None:
    """Whoever comes and leaves when: those who stay go in order, and as long as there are places nobody waits."""
    counter = Counter()
    jobs: list[gevent.Greenlet[..., bool]] = []
    time: list[list[float]] = []
    left_by_force: set[int] = set()
    for step in course:
        if step == "come":
            seconds = [60.0]
            time.append(seconds)
            jobs.append(counter.spawn(lambda seconds=seconds: seconds[0]))
        elif step == "free":
            counter.free()
        elif step == "poke":
            counter.line.poke()
        elif step == "turn":
            turns()
        elif step[1] < len(jobs):
            what, number = step
            if what == "expire":
                time[int(number)][0] = 0.0
                counter.line.poke()
            else:
                error = gevent.GreenletExit if what == "kill" else ValueError
                jobs[int(number)].kill(error, block=False)
            left_by_force.add(int(number))
    turns()
    assert not (counter.places and counter.line), "there is room, and somebody waits"
    counter.free(len(jobs))
    gevent.joinall(jobs, timeout=5)
    assert all(job.dead for job in jobs)
    assert counter.went == sorted(counter.went)
    assert set(range(len(jobs))) - set(counter.went) <= left_by_force
    assert len(counter.line) == 0


def test_a_thousand_wait() -> None:
    """A long line is served to its end."""
    counter = Counter()
    jobs = [gevent.spawn(counter.line.wait, lambda: True, forever) for _ in range(1000)]
    until(lambda: all(job.dead for job in jobs), "all went")
    assert all(job.value for job in jobs)
