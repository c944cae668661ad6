"""Calls: what crosses, what a handler sees, and every way in which one ends; of a peer and of the node itself."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import datetime
import functools
import gc
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent
import msgspec
import pytest
from gevent.event import Event

import snowgreen
from snowgreen.messaging.calls import Pending, call_over
from snowgreen.messaging.codec import RAW
from snowgreen.messaging.traffic import Traffic
from snowgreen.protocol import mail
from snowgreen.protocol.mail import Fault, FaultCode
from tests.conftest import FAST, MakeNode
from tests.waiting import until

MIB = 2**20


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Ends(NamedTuple):
    """Who calls, and who is called: two nodes, or one node that calls itself."""

    caller: snowgreen.Node
    callee: snowgreen.Node

    def call(self, handler: str, /, *args: Any, **options: Any) -> Any:
        return self.caller.call(self.callee.name, handler, *args, **options)

    def spawn(self, handler: str, /, *args: Any, **options: Any) -> gevent.Greenlet:
        """A call in a greenlet of its own, of which ``get()`` returns the result or the error."""
        return gevent.spawn(outcome, self.call, handler, *args, **options)

    @property
    def local(self) -> bool:
        return self.caller is self.callee

    def working(self) -> int:
        """Calls that the callee works on, or that wait for their turn there."""
        board = self.callee._board
        assert board is not None
        return len(board.local.running) + sum(
            len(session.carried.running)
            for session in self.callee.sessions.values()
            if isinstance(session.carried, Traffic)
        )


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `function` returns; of what it raises the exception."""
    try:
        return function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001
        return error


def config(**limits: Any) -> snowgreen.Config:
    return dataclasses.replace(FAST, limits=dataclasses.replace(FAST.limits, **limits))


@pytest.fixture(params=["remote", "local"])
def pair(request: pytest.FixtureRequest, make_node: MakeNode) -> Callable[..., Ends]:
    """A maker of two ends; its arguments are those of both nodes."""

    def make(**options: Any) -> Ends:
        callee = make_node(**options)
        return Ends(callee if request.param == "local" else make_node(**options), callee)

    return make


@pytest.fixture
def ends(pair: Callable[..., Ends]) -> Ends:
    return pair()


@pytest.fixture
def linked(make_node: MakeNode) -> Callable[..., Ends]:
    """A maker of two nodes; its limits are those of both."""

    def make(**limits: Any) -> Ends:
        return Ends(make_node(config=config(**limits)), make_node(config=config(**limits)))

    return make


@pytest.fixture(autouse=True)
def uncaught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What gevent would print as the traceback of a greenlet: nothing, in all that follows."""
    found: list[Any] = []
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *args: found.append(args))
    yield found
    assert not found


class Gate:
    """A handler that waits until it is let go, and what became of it."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.open = Event()
        self.begun = 0
        self.now = 0
        self.most = 0
        self.ended: list[BaseException | None] = []
        self._stubborn = stubborn

    def __call__(self, value: Any = None) -> Any:
        self.begun += 1
        self.now += 1
        self.most = max(self.most, self.now)
        ending: BaseException | None = None
        try:
            self.open.wait()
        except BaseException as error:
            ending = error
            if not self._stubborn:
                raise
        finally:
            self.now -= 1
            self.ended.append(ending)
        return value


# What crosses.


VALUES = [
    None,
    True,
    0,
    -(2**63),
    2**64 - 1,
    1.5,
    "",
    "snö ❄ \0\n",
    b"",
    b"\0\xff",
    [],
    [1, [2, [None]]],
    {},
    {"a": {"b": [1, {"c": b"d"}]}},
    {1: "one", "two": 2},
    datetime.datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=datetime.UTC),
]


def test_values_of_every_kind_cross_both_ways(ends: Ends) -> None:
    """What MessagePack carries arrives as it was, as an argument, a keyword argument and a result."""
    seen = []

    @ends.callee.handler("echo")
    def echo(value, *, again):  # type: ignore[no-untyped-def]
        seen.append((value, again))
        return value

    for value in VALUES:
        result = ends.call("echo", value, again=value)
        assert result == value
        assert type(result) is type(value)
    assert seen == [(value, value) for value in VALUES]


@pytest.mark.parametrize("size", [1, 16_000, 16_384, 16_400, 65_500, 65_536, 66_000, MIB, 3 * MIB + 1])
def test_arguments_and_results_of_every_size_cross(ends: Ends, size: int) -> None:
    """Around every bound at which frames go another way, and far beyond, all bytes arrive."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    ends.callee.handler("echo")(lambda value: value)
    ends.callee.handler("wrap")(lambda value: [value, "end"])
    ends.callee.handler("size")(lambda value: len(value))
    assert ends.call("echo", body) == body
    assert ends.call("wrap", body) == [body, "end"]
    assert ends.call("size", body.decode("latin-1")) == size


def test_large_calls_at_once_do_not_mix_nor_hold_up_small_ones(ends: Ends) -> None:
    """Eight calls of some MiB and two hundred small ones at once: each gets its own answer, the small soon."""
    ends.callee.handler("double")(lambda value: value + value)
    bodies = [bytes([number]) * (MIB + number * 70_000) for number in range(8)]
    large = [ends.spawn("double", body) for body in bodies]
    first = ends.call("double", 4)
    if not ends.local:
        assert first == 8
        assert not any(call.ready() for call in large)
    small = [ends.spawn("double", f"{number},") for number in range(200)]
    assert [call.get() for call in small] == [f"{number},{number}," for number in range(200)]
    for body, call in zip(bodies, large, strict=True):
        assert call.get() == body + body


def test_a_result_is_of_the_type_that_its_caller_asks_for(ends: Ends) -> None:
    """A result becomes the type that the caller names; one that does not fit is a PayloadError there."""
    ends.callee.handler("point")(lambda x: {"x": x})
    assert ends.call("point", 1) == {"x": 1}
    assert ends.call("point", 1, result_type=Point) == Point(1)
    for wrong in ("one", None):
        with pytest.raises(snowgreen.PayloadError, match="does not fit Point"):
            ends.call("point", wrong, result_type=Point)
    ends.callee.handler("raw")(lambda: b"raw")
    assert ends.call("raw", result_type=bytes) == b"raw"
    with pytest.raises(snowgreen.PayloadError, match="does not fit int"):
        ends.call("raw", result_type=int)


def test_what_cannot_be_encoded_is_told_to_whoever_made_it(ends: Ends) -> None:
    """Arguments that cannot be sent are a PayloadError, and never called; a result is a CallError."""
    called = []
    ends.callee.handler("note")(called.append)
    with pytest.raises(snowgreen.PayloadError):
        ends.call("note", object())
    assert not called
    ends.callee.handler("thing")(lambda: object())
    with pytest.raises(snowgreen.CallError, match=r"its result cannot be sent: a body of type object"):
        ends.call("thing")
    assert ends.call("note", 1) is None


def test_a_result_above_the_callers_limit_is_a_call_error(make_node: MakeNode) -> None:
    """The caller says how large a result it takes; a larger one fails that call and nothing else."""
    ends = Ends(make_node(config=config(max_message=MIB)), make_node(config=config(max_message=4 * MIB)))
    ends.callee.handler("zeros")(lambda size: bytes(size))
    assert len(ends.call("zeros", MIB)) == MIB
    with pytest.raises(snowgreen.CallError, match=f"{MIB + 1} bytes, and the caller takes {MIB}"):
        ends.call("zeros", MIB + 1)
    with pytest.raises(snowgreen.CallError, match=f"sends at most {4 * MIB}"):
        ends.call("zeros", 4 * MIB + 1)
    assert ends.call("zeros", 1) == b"\0"
    with pytest.raises(snowgreen.PayloadTooLarge):
        ends.call("zeros", bytes(MIB))


def test_arguments_above_the_callees_limit_are_refused_here(make_node: MakeNode) -> None:
    """The callee says how large arguments it takes; the caller is told before any of them is sent."""
    ends = Ends(make_node(config=config(max_message=4 * MIB)), make_node(config=config(max_message=MIB)))
    ends.callee.handler("size")(lambda value: len(value))
    with pytest.raises(snowgreen.PayloadTooLarge, match=f"takes at most {MIB} bytes of arguments"):
        ends.call("size", bytes(MIB))
    assert ends.call("size", bytes(MIB - 100)) == MIB - 100


class Json:
    """A codec of the application's own."""

    id = 201
    name = "JSON"

    def encode(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def decode(self, data: bytes, type: Any) -> Any:
        return msgspec.convert(json.loads(data), type)


def test_a_codec_of_the_applications_own_carries_calls(pair: Callable[..., Ends]) -> None:
    """Arguments, results and types go through the codec that both nodes were given."""
    ends = pair(codec=Json())

    @ends.callee.handler("move")
    def move(point: Point, *, by: int = 1) -> dict[str, int]:
        assert type(point) is Point
        return {"x": point.x + by}

    assert ends.call("move", {"x": 1}) == {"x": 2}
    assert ends.call("move", {"x": 1}, by=5, result_type=Point) == Point(6)
    with pytest.raises(snowgreen.CallError, match="the arguments do not fit: by: Expected `int`"):
        ends.call("move", {"x": 1}, by="5")
    with pytest.raises(snowgreen.PayloadError):
        ends.call("move", {1, 2})


def test_a_codec_that_the_other_side_has_not_fails_the_call(make_node: MakeNode) -> None:
    """Arguments in a codec that the callee does not know are a CallError, and the link lives on."""
    ends = Ends(make_node(codec=Json()), make_node())
    ends.callee.handler("echo")(lambda value: value)
    with pytest.raises(snowgreen.CallError, match=r"the arguments do not fit: .*codec 201"):
        ends.call("echo", 1)
    assert ends.callee.name in ends.caller.sessions


@pytest.mark.parametrize(
    "encoded",
    [
        (RAW, b"raw"),
        (1, b""),
        (1, b"\xc1"),
        (1, msgspec.msgpack.encode([])),
        (1, msgspec.msgpack.encode([[], {}, 1])),
        (1, msgspec.msgpack.encode([{}, []])),
        (1, msgspec.msgpack.encode([[], {1: 2}])),
        (1, msgspec.msgpack.encode({"args": []})),
        (99, b"\x92\x90\x80"),
    ],
)
def test_arguments_that_no_caller_of_ours_sends_are_a_fault(ends: Ends, encoded: tuple[int, bytes]) -> None:
    """Whatever a peer sends for arguments, the handler is not run unless it is a list and a map of names."""
    called = []
    ends.callee.handler("note")(lambda *args, **kwargs: called.append(args))
    board = ends.caller._board
    assert board is not None
    if ends.local:
        found = board.local.call("note", encoded, 5)
    else:
        ends.caller.connect(ends.callee.name)
        found = call_over(board.traffic(ends.callee.name, 5)[0], board, "note", encoded, 5)
    assert isinstance(found, Fault)
    assert found.code is FaultCode.ARGUMENTS
    assert not called


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_levels_around_the_arguments_do_not_count(pair: Callable[..., Ends], depth: int) -> None:
    """An argument may nest as deep as ``Limits.max_depth`` says, and no deeper."""
    ends = pair(config=config(max_depth=depth))
    ends.callee.handler("echo")(lambda *args, **kwargs: [*args, *kwargs.values()][0] == nested(depth))
    assert ends.call("echo", nested(depth)) is True
    assert ends.call("echo", a=nested(depth)) is True
    for args, kwargs in (((nested(depth + 1),), {}), ((), {"a": nested(depth + 1)})):
        with pytest.raises(snowgreen.CallError, match=f"nests more than {depth} levels"):
            ends.call("echo", *args, **kwargs)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


# What a handler is called with.


def test_arguments_are_bound_as_in_any_call(ends: Ends) -> None:
    """Positional, keyword, default and collected arguments arrive where a call in Python puts them."""

    @ends.callee.handler("f")
    def f(a, /, b, *rest, c=3, **more):  # type: ignore[no-untyped-def]
        return [a, b, list(rest), c, more]

    assert ends.call("f", 1, 2) == [1, 2, [], 3, {}]
    assert ends.call("f", 1, b=2, c=4) == [1, 2, [], 4, {}]
    assert ends.call("f", 1, 2, 5, 6, c=4, d=7, a=8) == [1, 2, [5, 6], 4, {"d": 7, "a": 8}]
    assert ends.call("f", 1, 2, handler="h", peer="p") == [1, 2, [], 3, {"handler": "h", "peer": "p"}]


def test_arguments_that_do_not_fit_never_reach_the_handler(ends: Ends) -> None:
    """A misfit is a CallError that names the parameter, and the handler is not run."""
    called = []

    @ends.callee.handler("f")
    def f(a: int, point: Point | None = None, *rest: int, **more: Point) -> None:
        called.append((a, point, rest, more))

    for args, kwargs, problem in (
        ((), {}, "missing a required argument: 'a'"),
        (("1",), {}, "a: Expected `int`, got `str`"),
        ((1, {"y": 2}), {}, "point: Object missing required field `x`"),
        ((1, None, 2, "3"), {}, "rest: Expected `int`, got `str`"),
        ((1,), {"b": 5}, "more: Expected `object`, got `int`"),
        ((1,), {"a": 1}, "multiple values for argument 'a'"),
    ):
        with pytest.raises(snowgreen.CallError, match="the arguments do not fit: ") as caught:
            ends.call("f", *args, **kwargs)
        assert type(caught.value) is snowgreen.CallError
        assert problem in str(caught.value)
    assert not called
    ends.call("f", 1, {"x": 2}, 3, b={"x": 4})
    assert called == [(1, Point(2), (3,), {"b": Point(4)})]


class Demanding(msgspec.Struct):
    """Raises what msgspec does not expect."""

    x: int

    def __post_init__(self) -> None:
        raise KeyError("no such x")


def test_a_type_that_raises_when_it_is_made_is_a_misfit(ends: Ends) -> None:
    """What the types of parameters raise is told to the caller like any other misfit."""

    @ends.callee.handler("f")
    def f(a: Demanding) -> None: ...

    with pytest.raises(snowgreen.CallError, match=r"the arguments do not fit: a: .*no such x"):
        ends.call("f", {"x": 1})


def test_a_type_error_inside_the_handler_is_the_handlers(ends: Ends) -> None:
    """A TypeError that the handler raises is a RemoteError, however much it looks like a misfit."""

    def inner(a: int) -> None: ...

    @ends.callee.handler("f")
    def f() -> None:
        inner()  # type: ignore[call-arg]

    with pytest.raises(snowgreen.RemoteError) as caught:
        ends.call("f")
    assert caught.value.kind == "TypeError"
    assert "missing 1 required positional argument: 'a'" in caught.value.text


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, by: int) -> int:
        self.value += by
        return self.value

    def __call__(self) -> int:
        return self.value


def test_whatever_can_be_called_can_be_a_handler(ends: Ends) -> None:
    """Methods, lambdas, partials, builtins, instances and classes are handlers as good as functions."""
    counter = Counter()
    ends.callee.handler("method")(counter.add)
    ends.callee.handler("instance")(counter)
    ends.callee.handler("partial")(functools.partial(counter.add, by=10))
    ends.callee.handler("lambda")(lambda a, b=2: a * b)
    ends.callee.handler("builtin")(len)
    ends.callee.handler("class")(Point)
    assert ends.call("method", 5) == 5
    assert ends.call("partial") == 15
    assert ends.call("partial", by=1) == 16
    assert ends.call("instance") == 16
    assert ends.call("lambda", 4) == 8
    assert ends.call("builtin", "four") == 4
    assert ends.call("class", 1, y=2, result_type=Point) == Point(1, 2)
    with pytest.raises(snowgreen.CallError, match="by: Expected `int`"):
        ends.call("partial", by="x")


# Registration.


def test_a_handler_may_be_registered_when_calls_have_failed_for_want_of_it(ends: Ends) -> None:
    """A name without a handler is an UnknownHandler; from its registration on, it is called."""
    for _ in range(3):
        with pytest.raises(snowgreen.UnknownHandler) as caught:
            ends.call("late")
    assert (caught.value.peer, caught.value.handler) == (ends.callee.name, "late")
    ends.callee.handler("late")(lambda: "here")
    assert ends.call("late") == "here"


def test_a_name_has_one_handler(ends: Ends) -> None:
    """A second handler of a name is refused, whether it is asked for before the first is there or after."""
    first, second = ends.callee.handler("f"), ends.callee.handler("f")
    first(lambda: 1)
    with pytest.raises(snowgreen.ConfigurationError, match="there is a handler 'f' already"):
        second(lambda: 2)
    with pytest.raises(snowgreen.ConfigurationError, match="there is a handler 'f' already"):
        ends.callee.handler("f")
    assert ends.call("f") == 1


def test_a_handler_that_cannot_be_one_leaves_its_name_free(ends: Ends) -> None:
    """A refused registration registers nothing, and the decorator gives back what it got."""

    async def wrong() -> None: ...

    with pytest.raises(snowgreen.ConfigurationError):
        ends.callee.handler("f")(wrong)

    def right() -> int:
        return 1

    assert ends.callee.handler("f")(right) is right
    assert ends.call("f") == 1


def test_names_are_checked_on_both_sides(ends: Ends) -> None:
    """A name that cannot be sent is refused where it is given."""
    for name in ("", "x" * 256, "a\nb", 5):
        with pytest.raises(snowgreen.ConfigurationError):
            ends.callee.handler(name)  # type: ignore[arg-type]
        with pytest.raises(snowgreen.ConfigurationError):
            ends.call(name)  # type: ignore[arg-type]
    ends.callee.handler("ö" * 127)(lambda: 1)
    assert ends.call("ö" * 127) == 1


# What a handler raises.


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("no"), "ValueError", "no"),
        (KeyError("k"), "KeyError", "'k'"),
        (ValueError(), "ValueError", ""),
        (Mute(), "Mute", ""),
        (Odd("odd"), "Odd", "odd"),
        (ValueError("a\x1b[2J\n\u2028\0"), "ValueError", "a\x1b[2J\n\u2028\0"),
        (ValueError("\udc80"), "ValueError", "?"),
        (ValueError("x" * 10_000_000), "ValueError", "x" * 1024),
        (ValueError("x" + "ö" * 1000), "ValueError", "x" + "ö" * 511),
        (type("K" * 300, (ValueError,), {})("x"), "K" * 79 + "…", "x"),
        (gevent.GreenletExit("own"), "GreenletExit", "own"),
        (gevent.GreenletExit(), "GreenletExit", "the handler was ended"),
        (gevent.Timeout(3), "Timeout", "3 seconds"),
        (StopIteration("stop"), "StopIteration", "stop"),
        (SystemError("bad"), "SystemError", "bad"),
        (GeneratorExit("exit"), "GeneratorExit", "exit"),
        (RecursionError("deep"), "RecursionError", "deep"),
        (snowgreen.CallTimeout("a", "b", "c"), "CallTimeout", "'b' on a: c"),
    ],
)
def test_the_type_and_text_of_an_exception_cross(
    ends: Ends, error: BaseException, kind: str, text: str
) -> None:
    """Whatever a handler raises is a RemoteError with its type and text, cut, and shown without harm."""

    @ends.callee.handler("f")
    def f() -> None:
        raise error

    with pytest.raises(snowgreen.RemoteError) as caught:
        ends.call("f")
    assert caught.value.kind == kind
    assert caught.value.text == text
    assert str(caught.value).isprintable()
    ends.callee.handler("g")(lambda: "still here")
    assert ends.call("g") == "still here"
    until(lambda: not ends.working(), "nothing is left of it")


def test_an_exception_is_logged_where_it_was_raised(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    """The callee's log has the traceback that does not cross the link."""

    @ends.callee.handler("f")
    def f() -> None:
        raise ValueError("no")

    with pytest.raises(snowgreen.RemoteError):
        ends.call("f")
    record = until(lambda: [found for found in caplog.records if found.exc_info], "it is logged")[0]
    assert record.name == "snowgreen.messaging"
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"the handler 'f', called by {ends.caller.name}, raised"


def test_a_log_that_raises_or_waits_keeps_nobody_from_an_answer(ends: Ends) -> None:
    """What a logging handler of the user's does is no matter of the call."""
    stuck = Event()

    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stuck.wait()

    @ends.callee.handler("f")
    def f() -> None:
        raise ValueError("no")

    handler = Bad()
    logging.getLogger("snowgreen.messaging").addHandler(handler)
    try:
        with pytest.raises(snowgreen.RemoteError):
            ends.call("f", timeout=5)
    finally:
        logging.getLogger("snowgreen.messaging").removeHandler(handler)
        stuck.set()


def test_a_timeout_of_the_handlers_own_is_not_the_deadline(ends: Ends) -> None:
    """A gevent.Timeout that the handler sets and does not catch is an exception like others."""

    @ends.callee.handler("f")
    def f() -> None:
        with gevent.Timeout(0.01):
            Event().wait()

    with pytest.raises(snowgreen.RemoteError) as caught:
        ends.call("f", timeout=10)
    assert (caught.value.kind, caught.value.text) == ("Timeout", "0.01 seconds")


def test_a_timer_that_a_handler_leaves_behind_does_not_silence_it(linked: Callable[..., Ends]) -> None:
    """A Timeout that is still set when the handler has returned may end the wait for room, and says so."""
    ends = linked(outbox_bytes=64 * 1024)
    traffic = traffic_of(ends)

    @ends.callee.handler("f")
    def f() -> bytes:
        gevent.Timeout.start_new(0.5)
        return b"x"

    ends.callee.handler("echo")(lambda value: value)
    assert ends.call("echo", 1) == 1  # from now on there is credit
    blocked = Blocked(ends)
    call = ends.spawn("f")
    until(lambda: traffic.room_line, "the result waits for room")
    until(lambda: not traffic.running, "the timer has ended the wait")
    blocked.end()
    found = call.get()
    assert isinstance(found, snowgreen.RemoteError)
    assert found.kind == "Timeout"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_the_end_of_the_program_is_told_to_the_caller_first(
    ends: Ends, kind: type[BaseException], uncaught: list[Any]
) -> None:
    """SystemExit goes where gevent sends it, to the main greenlet; the caller has its answer by then."""

    @ends.callee.handler("leave")
    def leave() -> None:
        raise kind("bye")

    ends.callee.handler("stay")(lambda: "still here")
    call = ends.spawn("leave")
    with pytest.raises(kind):
        Event().wait(10)
    found = until(lambda: call.ready(), "the call has ended") and call.get()
    assert isinstance(found, snowgreen.RemoteError)
    assert (found.kind, found.text) == (kind.__name__, "bye")
    assert ends.call("stay") == "still here"
    until(lambda: not ends.working(), "nothing is left of it")
    assert [args[1] for args in uncaught] == ([kind] if kind is KeyboardInterrupt else [])  # as gevent does
    uncaught.clear()


def test_a_handler_that_ends_its_process_answers_before(make_node: MakeNode) -> None:
    """``sys.exit()`` in a handler ends the process with its status, once the answer has left."""
    program = textwrap.dedent(
        """
        import sys, gevent, snowgreen
        node = snowgreen.Node("other@127.0.0.1:0", cookie="correct horse battery staple").start()
        @node.handler("leave")
        def leave():
            sys.exit(7)
        print(node.name, flush=True)
        gevent.sleep(60)
        """
    )
    caller = make_node()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            name = process.stdout.readline().strip()
            with pytest.raises(snowgreen.RemoteError) as caught:
                caller.call(name, "leave")
            assert (caught.value.kind, caught.value.text) == ("SystemExit", "7")
            assert process.wait(20) == 7
        finally:
            process.kill()


def test_a_handler_that_is_killed_by_others_is_told_to_its_caller(ends: Ends) -> None:
    """Whoever kills the greenlet of a handler, with what error he likes, its caller hears of it."""
    greenlets = []

    @ends.callee.handler("f")
    def f() -> None:
        greenlets.append(gevent.getcurrent())
        Event().wait()

    for error, kind in ((gevent.GreenletExit, "GreenletExit"), (ValueError("killed"), "ValueError")):
        call = ends.spawn("f")
        until(lambda: greenlets, "the handler runs")
        greenlets.pop().kill(error)
        assert call.get().kind == kind


# Deadlines.


def test_the_deadline_travels_along(ends: Ends) -> None:
    """A handler knows who calls it, as what, and how long that one will wait, which shrinks."""

    @ends.callee.handler("f")
    def f() -> list[Any]:
        call = snowgreen.current_call()
        assert call is not None
        first = call.remaining
        assert first is not None
        until(lambda: call.remaining is not None and call.remaining < first - 0.02, "it shrinks")
        return [call.caller, call.handler, first, repr(call)]

    caller, handler, remaining, shown = ends.call("f", timeout=50)
    assert (caller, handler) == (ends.caller.name, "f")
    assert 40 < remaining <= 50.001
    assert shown.startswith(f"<Call of 'f' by {ends.caller.name}, 4")
    assert snowgreen.current_call() is None


def test_without_a_deadline_there_is_none(ends: Ends) -> None:
    """timeout=None, and one that is longer than a frame can say, are no deadline there."""

    @ends.callee.handler("f")
    def f() -> list[Any]:
        call = snowgreen.current_call()
        assert call is not None
        return [call.remaining, repr(call)]

    assert ends.call("f", timeout=None) == [None, f"<Call of 'f' by {ends.caller.name}, no deadline>"]
    if not ends.local:
        assert ends.call("f", timeout=2**32 / 1000)[0] is None
        assert ends.call("f", timeout=(2**32 - 1) / 1000)[0] > 4_000_000
    with pytest.raises(snowgreen.ConfigurationError):
        ends.call("f", timeout=-1)


def test_the_handler_is_ended_at_the_deadline(ends: Ends) -> None:
    """At the deadline the caller gets a CallTimeout, and the handler's finally blocks run."""
    gate = Gate()
    ends.callee.handler("wait")(gate)
    with pytest.raises(snowgreen.CallTimeout) as caught:
        ends.call("wait", timeout=0.5)
    assert isinstance(caught.value, TimeoutError)
    until(lambda: gate.ended, "the handler has ended")
    assert isinstance(gate.ended[0], gevent.Timeout | gevent.GreenletExit)
    until(lambda: not ends.working(), "nothing is left of it")


def test_the_callee_keeps_the_deadline_by_itself(
    linked: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler ends at the deadline also if its caller never says that it has given up."""
    ends = linked()
    gate = Gate()
    ends.callee.handler("wait")(gate)
    waits = Pending.wait
    monkeypatch.setattr(Pending, "wait", lambda self, seconds: waits(self, None))
    with pytest.raises(snowgreen.CallTimeout, match="its deadline passed there"):
        ends.call("wait", timeout=0.5)
    assert isinstance(gate.ended[0], gevent.Timeout)


def test_a_deadline_ends_with_its_call(ends: Ends) -> None:
    """A call that has returned, or raised, leaves no timer behind."""
    ends.callee.handler("divide")(lambda a, b: a / b)
    for _ in range(10):
        assert ends.call("divide", 6, 3, timeout=1234) == 2
        assert isinstance(outcome(ends.call, "divide", 1, 0, timeout=1234), snowgreen.RemoteError)
    timers = [item for item in gc.get_objects() if isinstance(item, gevent.Timeout)]
    assert not [timer for timer in timers if timer.pending and timer.seconds and timer.seconds > 1000]


def test_a_handler_may_outlive_its_deadline_by_catching_it(ends: Ends) -> None:
    """What a handler returns after it caught its deadline goes nowhere, and disturbs no later call."""
    caught = []
    late = Event()

    @ends.callee.handler("wait")
    def wait() -> str:
        try:
            Event().wait()
        except (gevent.Timeout, gevent.GreenletExit) as error:
            caught.append(error)
        with contextlib.suppress(gevent.GreenletExit):
            late.wait()
        late.wait()
        return "late"

    for _ in range(3):
        with pytest.raises(snowgreen.CallTimeout):
            ends.call("wait", timeout=0.3)
    until(lambda: len(caught) == 3, "all have been told")
    ends.callee.handler("echo")(lambda value: value)
    assert ends.call("echo", 1) == 1
    late.set()
    until(lambda: not ends.working(), "nothing is left of it")


def test_no_time_at_all_is_a_timeout_at_once(ends: Ends) -> None:
    """timeout=0 never waits, and what was begun for it is ended."""
    gate = Gate()
    ends.callee.handler("wait")(gate)
    for _ in range(3):
        with pytest.raises(snowgreen.CallTimeout):
            ends.call("wait", timeout=0)
        gevent.sleep(0)
    until(lambda: not ends.working(), "nothing is left of it")
    assert gate.now == 0


def test_a_shielded_handler_runs_to_its_end(ends: Ends) -> None:
    """A shielded handler is not ended, neither by its deadline nor by its caller; its result goes nowhere."""
    gate = Gate()
    ends.callee.handler("wait", shielded=True)(gate)
    with pytest.raises(snowgreen.CallTimeout):
        ends.call("wait", timeout=0.5)
    killed = ends.spawn("wait", timeout=None)
    until(lambda: gate.begun == 2, "the second has begun")
    killed.kill()
    ends.callee.handler("echo")(lambda value: value)
    assert ends.call("echo", 1) == 1
    assert gate.now == 2
    gate.open.set()
    until(lambda: gate.ended == [None, None], "both have come to their end")
    assert ends.call("wait", 5, timeout=5) == 5


def test_a_nested_call_waits_no_longer_than_the_one_it_is_made_for(make_node: MakeNode) -> None:
    """Through two hops and back to oneself, nobody works on after the first caller has given up."""
    first, second, third = make_node(), make_node(), make_node()
    seen = []
    gate = Gate()

    @second.handler("outer")
    def outer() -> Any:
        return second.call(third.name, "inner", timeout=None)

    @third.handler("inner")
    def inner() -> Any:
        call = snowgreen.current_call()
        assert call is not None
        seen.append(call.remaining)
        return third.call(third.name, "innermost", timeout=60)

    @third.handler("innermost")
    def innermost() -> Any:
        call = snowgreen.current_call()
        assert call is not None
        seen.append(call.remaining)
        return gate()

    first.connect(second.name)
    second.connect(third.name)
    with pytest.raises(snowgreen.CallTimeout):
        first.call(second.name, "outer", timeout=1.5)
    assert 0 < seen[1] <= seen[0] <= 1.501
    until(lambda: gate.ended, "the innermost has ended")
    again = gevent.spawn(outcome, first.call, second.name, "outer", timeout=5)
    until(lambda: gate.begun == 2, "the innermost runs")
    gate.open.set()
    assert again.get() is None


def test_a_shielded_handler_makes_its_calls_to_their_end_too(ends: Ends) -> None:
    """What must come to its end may call others for it after its own caller has given up."""
    late = Event()
    results = []

    @ends.callee.handler("charge", shielded=True)
    def charge() -> None:
        late.wait()
        call = snowgreen.current_call()
        assert call is not None
        until(lambda: call.remaining == 0, "the deadline")
        results.append(ends.callee.call(ends.callee.name, "book", timeout=5))

    ends.callee.handler("book")(lambda: "booked")
    with pytest.raises(snowgreen.CallTimeout):
        ends.call("charge", timeout=0.5)
    late.set()
    until(lambda: results == ["booked"], "it has made its call")


def test_greenlets_that_a_handler_starts_are_not_bound_by_its_deadline(ends: Ends) -> None:
    """current_call() is that of the handler's own greenlet; what it leaves behind is on its own."""
    seen: list[Any] = []

    @ends.callee.handler("f")
    def f() -> None:
        gevent.spawn(lambda: seen.append(snowgreen.current_call())).join()
        assert snowgreen.current_call() is not None

    ends.call("f")
    assert seen == [None]


# Giving up.


def test_a_caller_that_is_killed_ends_the_handler(ends: Ends) -> None:
    """Who no longer waits lets the handler end, with GreenletExit."""
    gate = Gate()
    ends.callee.handler("wait")(gate)
    call = ends.spawn("wait", timeout=None)
    until(lambda: gate.begun, "the handler runs")
    call.kill()
    until(lambda: gate.ended, "the handler has ended")
    assert isinstance(gate.ended[0], gevent.GreenletExit)
    until(lambda: not ends.working(), "nothing is left of it")


def test_a_timeout_around_a_call_ends_the_handler(ends: Ends) -> None:
    """A gevent.Timeout of the caller's own is as good as the deadline."""
    gate = Gate()
    ends.callee.handler("wait")(gate)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.5):
        ends.call("wait", timeout=None)
    until(lambda: gate.ended, "the handler has ended")


def test_giving_up_while_the_arguments_are_on_their_way(linked: Callable[..., Ends]) -> None:
    """A call whose large arguments have only begun to leave is ended like any other."""
    ends = linked()
    gate = Gate()
    ends.callee.handler("wait")(gate)
    ends.callee.handler("echo")(lambda value: value)
    ends.call("echo", 1)
    for _ in range(3):
        call = ends.spawn("wait", bytes(16 * MIB), timeout=None)
        gevent.sleep(0)
        call.kill()
    assert ends.call("echo", bytes(MIB)) == bytes(MIB)
    until(lambda: not ends.working() and not gate.now, "nothing is left of them")
    assert len(gate.ended) == gate.begun


def test_a_result_that_is_on_its_way_when_its_caller_gives_up_is_dropped(linked: Callable[..., Ends]) -> None:
    """The rest of a large result that nobody waits for harms no later call."""
    ends = linked()
    made = []

    @ends.callee.handler("zeros")
    def zeros(size: int) -> bytes:
        made.append(size)
        return bytes(size)

    for _ in range(3):
        call = ends.spawn("zeros", 8 * MIB)
        until(lambda: made, "the result is made")
        made.clear()
        call.kill()
    assert ends.call("zeros", 100) == bytes(100)
    assert not traffic_of(ends, calling=True).pending


def test_a_late_result_is_not_taken_for_that_of_another_call(linked: Callable[..., Ends]) -> None:
    """A number that its caller uses again at once, as it may, does not get the answer of the call before."""
    ends = linked()
    began, late, ended = [], Event(), []

    @ends.callee.handler("stubborn")
    def stubborn() -> str:
        began.append(1)
        with contextlib.suppress(gevent.GreenletExit):
            Event().wait()
        late.wait()
        ended.append(1)
        return "old"

    @ends.callee.handler("shielded", shielded=True)
    def shielded() -> str:
        began.append(1)
        late.wait()
        ended.append(1)
        raise ValueError("old")

    other = Gate()
    ends.callee.handler("other")(other)
    traffic = traffic_of(ends, calling=True)
    old = [ends.spawn(name, timeout=None) for name in ("stubborn", "shielded")]
    until(lambda: len(began) == 2, "both run")
    for call in old:
        call.kill()
    traffic.calls -= 2
    new = [ends.spawn("other", number) for number in range(2)]
    until(lambda: other.begun == 2, "the others run")
    late.set()
    until(lambda: len(ended) == 2, "the first have returned")
    traffic.session.ping()
    assert not any(call.ready() for call in new)
    other.open.set()
    assert [call.get() for call in new] == [0, 1]


def test_answers_that_nobody_waits_for_are_ignored(linked: Callable[..., Ends]) -> None:
    """A second answer to a call, and one to a call that never was, change nothing."""
    ends = linked()
    gate = Gate()
    ends.callee.handler("wait")(gate)
    call = ends.spawn("wait", "right")
    until(lambda: gate.begun, "it runs")
    traffic = traffic_of(ends)
    (number,) = traffic.running
    for unknown in (0, number + 1, 2**32 - 1):
        traffic.session.post_control(mail.encode_fault(unknown, FaultCode.RAISED, "Wrong", ""))
        traffic.session.post_message("x", mail.result_head(unknown, RAW), b"wrong")
    traffic.session.post_message("x", mail.result_head(number, RAW), b"first")
    traffic.session.post_message("x", mail.result_head(number, RAW), b"second")
    assert call.get() == b"first"
    traffic.session.post_control(mail.encode_fault(number, FaultCode.RAISED, "Wrong", ""))
    gate.open.set()
    assert ends.call("wait", "next") == "next"


def test_numbers_begin_anew_and_pass_over_those_in_use(linked: Callable[..., Ends]) -> None:
    """After the last number comes the first that no call under way has."""
    ends = linked()
    gate = Gate()
    ends.callee.handler("wait")(gate)
    ends.callee.handler("echo")(lambda value: value)
    long = [ends.spawn("wait", number, timeout=None) for number in (1, 2)]
    until(lambda: gate.begun == 2, "both run")
    traffic = traffic_of(ends, calling=True)
    assert set(traffic.pending) == {1, 2}
    traffic.calls = 2**32 - 3
    seen = []
    for number in range(4):
        assert ends.call("echo", number) == number
        seen.append(traffic.calls)
    assert seen == [2**32 - 2, 2**32 - 1, 3, 4]
    gate.open.set()
    assert [call.get() for call in long] == [1, 2]


# The end of the link, and of the node.


def test_the_end_of_the_link_ends_the_call_on_both_sides(linked: Callable[..., Ends]) -> None:
    """The caller gets SessionClosed at once, the handler GreenletExit, and a new link works."""
    ends = linked(handlers=2)
    gate = Gate()
    ends.callee.handler("wait")(gate)
    for _ in range(5):
        calls = [ends.spawn("wait", timeout=None) for _ in range(4)]
        until(lambda: gate.now == 2, "two run, and two wait for credit")
        ends.caller.sessions[ends.callee.name].close("enough")
        assert [type(call.get(timeout=1)) for call in calls] == [snowgreen.SessionClosed] * 4
        until(lambda: gate.now == 0, "the handlers have ended")
        assert all(isinstance(error, gevent.GreenletExit) for error in gate.ended)
        until(lambda: not ends.callee.sessions, "the link is down there, too")
    gate.open.set()
    assert ends.call("wait", 5) == 5


def test_a_shielded_handler_outlives_its_link(linked: Callable[..., Ends]) -> None:
    """A shielded handler goes on without its link, and takes up its place until it has ended."""
    ends = linked(handlers=1)
    gate = Gate()
    ends.callee.handler("wait", shielded=True)(gate)
    ends.callee.handler("echo")(lambda value: value)
    call = ends.spawn("wait", timeout=None)
    until(lambda: gate.begun, "it runs")
    ends.caller.sessions[ends.callee.name].close()
    assert isinstance(call.get(), snowgreen.SessionClosed)
    until(lambda: not ends.callee.sessions, "the link is down")
    waiting = ends.spawn("echo", 1, timeout=None)
    until(lambda: ends.callee.sessions, "there is a new link")
    ends.callee.sessions[ends.caller.name].ping()
    assert not waiting.ready()
    gate.open.set()
    assert waiting.get(timeout=5) == 1
    assert gate.ended == [None]


def test_a_callee_that_stops_says_so(ends: Ends) -> None:
    """Calls under way when the node stops end with a CallError; the handlers' finally blocks run."""
    gate = Gate()
    ends.callee.handler("wait")(gate)
    calls = [ends.spawn("wait", timeout=None) for _ in range(3)]
    until(lambda: gate.begun == 3, "all run")
    ends.callee.stop()
    for call in calls:
        found = call.get(timeout=5)
        assert type(found) is snowgreen.CallError
        assert found.problem == "the node stops"
    until(lambda: gate.now == 0, "the handlers have ended")
    with pytest.raises((snowgreen.LinkError, snowgreen.NodeStateError)):
        ends.call("wait", timeout=1)


def test_a_caller_that_stops_ends_its_calls(linked: Callable[..., Ends]) -> None:
    """When the calling node stops its calls end, and so do the handlers that work on them."""
    ends = linked()
    gate = Gate()
    ends.callee.handler("wait")(gate)
    call = ends.spawn("wait", timeout=None)
    until(lambda: gate.begun, "it runs")
    ends.caller.stop()
    assert isinstance(call.get(timeout=5), snowgreen.SessionClosed)
    until(lambda: gate.ended, "the handler has ended")


def test_a_handler_may_stop_its_node(ends: Ends) -> None:
    """stop() in a handler comes to its end, with all that is to be sent, and what follows it runs."""
    others = Gate()
    done = []
    ends.callee.handler("wait")(others)

    @ends.callee.handler("stop")
    def stop() -> str:
        ends.callee.stop()
        done.append(ends.callee.started)
        return "stopped"

    other = ends.spawn("wait", timeout=None)
    until(lambda: others.begun, "another call runs")
    found = outcome(ends.call, "stop", timeout=5)
    if ends.local:
        assert found == "stopped"
    else:
        assert isinstance(found, snowgreen.SessionClosed)
    until(lambda: done == [False], "it has come to its end")
    assert other.get().problem == "the node stops"
    ends.callee.start()
    assert ends.callee.call(ends.callee.name, "stop", timeout=5) == "stopped"


def test_a_handler_that_stops_its_node_leaves_the_other_links_in_peace(make_node: MakeNode) -> None:
    """The end of the caller's link does not cut short the goodbye to the others."""
    callee, first, second = make_node(), make_node(), make_node()
    inbox = second.mailbox("inbox")
    callee.connect(second.name)

    @callee.handler("stop")
    def stop() -> None:
        callee.send(second.name, "inbox", bytes(4 * MIB))
        callee.stop()

    callee.send(second.name, "inbox", b"first")
    assert inbox.get(5).body == b"first"
    found = outcome(first.call, callee.name, "stop", timeout=None)
    assert isinstance(found, snowgreen.SessionClosed)
    assert len(inbox.get(10).body) == 4 * MIB


def test_handlers_serve_every_life_of_their_node(ends: Ends) -> None:
    """A stopped node that starts again has the handlers that it had."""
    ends.callee.handler("echo")(lambda value: value)
    assert ends.call("echo", 1) == 1
    ends.callee.stop()
    ends.callee.start()
    assert ends.caller.call(ends.callee.name, "echo", 2) == 2


# How many at once.


def test_beyond_the_limit_callers_wait_and_nothing_is_lost(linked: Callable[..., Ends]) -> None:
    """With two handlers at once, fifty calls come to their results, never more than two at a time."""
    ends = linked(handlers=2)
    gate = Gate()
    ends.callee.handler("wait")(gate)
    calls = [ends.spawn("wait", number, timeout=30) for number in range(50)]
    until(lambda: gate.now == 2, "two run")
    ends.caller.sessions[ends.callee.name].ping()
    assert gate.begun == 2
    gate.open.set()
    assert [call.get() for call in calls] == list(range(50))
    assert gate.most == 2


@pytest.mark.parametrize("handlers", [1, 3])
def test_the_limit_is_shared_among_all_callers(make_node: MakeNode, handlers: int) -> None:
    """However many nodes call at once, no more handlers run than the limit says, and all get their turn."""
    callee = make_node(config=config(handlers=handlers))
    callers = [make_node() for _ in range(4)]
    gate = Gate()
    callee.handler("wait")(gate)
    callee.handler("echo")(lambda value: value)
    for caller in callers:
        caller.call(callee.name, "echo", 0)
    calls = [
        gevent.spawn(outcome, caller.call, callee.name, "wait", [which, number], timeout=30)
        for number in range(10)
        for which, caller in enumerate(callers)
    ]
    until(lambda: gate.now == handlers, "as many run as may")
    for caller in callers:
        caller.sessions[callee.name].ping()
    assert gate.begun == handlers
    gate.open.set()
    assert [call.get() for call in calls] == [[which, number] for number in range(10) for which in range(4)]
    assert gate.most == handlers


def test_long_calls_do_not_take_more_room_than_their_own(linked: Callable[..., Ends]) -> None:
    """With three of four places taken for long, the fourth is there for one call after another."""
    for handlers in (2, 3, 4, 7):
        ends = linked(handlers=handlers)
        gate = Gate()
        ends.callee.handler("wait")(gate)
        ends.callee.handler("echo")(lambda value: value)
        long = [ends.spawn("wait", number, timeout=None) for number in range(handlers - 1)]
        until(lambda gate=gate, handlers=handlers: gate.now == handlers - 1, "the long ones run")
        for number in range(20):
            assert ends.call("echo", number, timeout=5) == number
        gate.open.set()
        assert [call.get() for call in long] == list(range(handlers - 1))


def test_room_that_was_not_told_of_is_told_of_when_it_is_needed(linked: Callable[..., Ends]) -> None:
    """A place that became free while there were others is there for the call after those."""
    ends = linked(handlers=8)
    gate = Gate()
    ends.callee.handler("wait")(gate)
    ends.callee.handler("echo")(lambda value: value)
    assert ends.call("echo", 1) == 1
    long = [ends.spawn("wait", number, timeout=None) for number in range(7)]
    until(lambda: gate.now == 7, "the long ones run")
    assert ends.call("echo", 2, timeout=5) == 2
    gate.open.set()
    assert [call.get() for call in long] == list(range(7))


def test_large_arguments_of_a_long_call_do_not_hold_up_the_others(make_node: MakeNode) -> None:
    """Bytes that a long call holds leave the rest of them to one call after another."""
    small = dataclasses.replace(FAST, mailbox_bytes=64 * 1024)
    ends = Ends(make_node(config=small), make_node(config=small))
    gate = Gate()
    ends.callee.handler("wait")(gate)
    ends.callee.handler("size")(lambda value: len(value))
    long = ends.spawn("wait", bytes(40_000), timeout=None)
    until(lambda: gate.now == 1, "the long one runs")
    for _ in range(10):
        assert ends.call("size", bytes(30_000), timeout=5) == 30_000
    gate.open.set()
    assert len(long.get()) == 40_000


def test_places_that_another_caller_leaves_are_there_for_those_that_stay(make_node: MakeNode) -> None:
    """When one of two callers goes, the other may have its places, also while its own calls go on."""
    callee = make_node(config=config(handlers=40))
    first, second = make_node(), make_node()
    gate = Gate()
    callee.handler("wait")(gate)
    callee.handler("echo")(lambda value: value)
    assert second.call(callee.name, "echo", 1) == 1
    long = [gevent.spawn(first.call, callee.name, "wait", number, timeout=None) for number in range(22)]
    until(lambda: gate.now == 20, "as many run as may")
    first.sessions[callee.name].ping()
    assert gate.now == 20
    second.stop()
    until(lambda: gate.now == 22, "the others run, too")
    gate.open.set()
    assert [call.get() for call in long] == list(range(22))


def queued(make_node: MakeNode, **options: Any) -> tuple[snowgreen.Node, list[snowgreen.Node], Gate]:
    """A node whose one place is taken by the first of three callers; each of them can send a call."""
    callee = make_node(config=config(handlers=1))
    callers = [make_node() for _ in range(3)]
    gate = Gate()
    callee.handler("wait", **options)(gate)
    callee.handler("echo")(lambda value: value)
    for caller in callers:
        assert caller.call(callee.name, "echo", 1) == 1
    return callee, callers, gate


def running(callee: snowgreen.Node) -> int:
    return sum(len(carried(session).running) for session in callee.sessions.values())


def carried(session: snowgreen.Session) -> Traffic:
    assert isinstance(session.carried, Traffic)
    return session.carried


def test_a_call_that_ends_before_its_turn_is_never_run(make_node: MakeNode) -> None:
    """A call that is given up, or whose link ends, while it waits for its turn does not have one."""
    callee, callers, gate = queued(make_node)
    first = gevent.spawn(outcome, callers[0].call, callee.name, "wait", "first", timeout=None)
    until(lambda: gate.now == 1, "the first runs")
    second = gevent.spawn(outcome, callers[1].call, callee.name, "wait", "second", timeout=None)
    third = gevent.spawn(outcome, callers[2].call, callee.name, "wait", "third", timeout=None)
    until(lambda: running(callee) == 3, "the others wait for their turn")
    second.kill()
    callers[2].sessions[callee.name].close()
    until(lambda: running(callee) == 1, "they have left")
    assert isinstance(third.get(), snowgreen.SessionClosed)
    gate.open.set()
    assert first.get() == "first"
    for caller in callers:
        assert caller.call(callee.name, "echo", 2) == 2
    assert gate.begun == 1


def test_a_call_whose_deadline_passes_before_its_turn_is_never_run(make_node: MakeNode) -> None:
    """A call that has waited too long is answered, and its handler not begun."""
    callee, callers, gate = queued(make_node)
    first = gevent.spawn(outcome, callers[0].call, callee.name, "wait", "first", timeout=None)
    until(lambda: gate.now == 1, "the first runs")
    with pytest.raises(snowgreen.CallTimeout):
        callers[1].call(callee.name, "wait", "second", timeout=0.1)
    gate.open.set()
    assert first.get() == "first"
    assert callers[1].call(callee.name, "echo", 2) == 2
    assert gate.begun == 1


def test_a_deadline_that_has_passed_when_the_turn_comes_is_a_fault(linked: Callable[..., Ends]) -> None:
    """The callee finds by its own clock that it is too late, and does not begin."""
    ends = linked()
    called = []
    ends.callee.handler("note")(lambda: called.append(1))
    ends.caller.connect(ends.callee.name)
    traffic = traffic_of(ends, calling=True)
    board = ends.callee._board
    assert board is not None
    now = board.clock
    times = iter([0.0, 100.0])
    board.clock = lambda: next(times, 100.0)
    try:
        with pytest.raises(snowgreen.CallTimeout, match="its deadline passed there"):
            ends.call("note", timeout=5)
    finally:
        board.clock = now
    assert not called
    assert not traffic.pending


@pytest.mark.parametrize("shielded", [False, True])
def test_a_node_that_stops_refuses_those_whose_turn_has_not_come(make_node: MakeNode, shielded: bool) -> None:
    """Calls that wait for their turn are told that the node stops, and never run."""
    callee, callers, gate = queued(make_node, shielded=shielded)
    calls = []
    for index, caller in enumerate(callers):
        calls.append(gevent.spawn(outcome, caller.call, callee.name, "wait", timeout=None))
        until(lambda index=index: running(callee) == index + 1, "it has come")
    callee.stop()
    found = [call.get(timeout=5) for call in calls]
    assert [error.problem for error in found[1:]] == ["the node stops"] * 2
    if shielded:
        assert isinstance(found[0], snowgreen.SessionClosed)
        assert gate.now == 1
    gate.open.set()
    until(lambda: not gate.now, "the first has ended")
    assert gate.begun == 1


def test_a_call_that_comes_while_the_node_stops_is_refused(linked: Callable[..., Ends]) -> None:
    """Between the stop of the handlers and the end of the link, nothing is begun any more."""
    ends = linked()
    gate = Gate()
    ends.callee.handler("wait", shielded=True)(gate)
    ends.caller.connect(ends.callee.name)
    board = ends.callee._board
    assert board is not None
    board.stop()
    with pytest.raises(snowgreen.CallError, match="the node stops"):
        ends.call("wait")
    assert not gate.begun
    until(lambda: not ends.working(), "nothing is left of it")


@pytest.mark.parametrize("handlers", [1, 2, 3, 4])
def test_credit_is_not_lost_with_calls_that_fail(linked: Callable[..., Ends], handlers: int) -> None:
    """After thousands of calls that ended in every other way, as many as before can run at once."""
    ends = linked(handlers=handlers)
    gate = Gate()
    stubborn = Gate(stubborn=True)

    @ends.callee.handler("f")
    def f(value: int) -> int:
        if value % 3:
            raise gevent.GreenletExit if value % 2 else ValueError("no")
        return value

    ends.callee.handler("wait")(gate)
    ends.callee.handler("stubborn")(stubborn)
    ends.callee.handler("object")(lambda: object())

    def one(number: int) -> None:
        kind = number % 8
        if kind == 0:
            outcome(ends.call, "f", number)
        elif kind == 1:
            outcome(ends.call, "f", "misfit")
        elif kind == 2:
            outcome(ends.call, "missing")
        elif kind == 3:
            outcome(ends.call, "object")
        elif kind == 4:
            outcome(ends.call, "wait", timeout=0)
        elif kind == 5:
            outcome(ends.call, "wait", timeout=0.001)
        elif kind == 6:
            outcome(ends.call, "stubborn", timeout=0.001)
        else:
            call = ends.spawn("wait", bytes(number % 100_000))
            for _ in range(number % 5):
                gevent.sleep(0)
            call.kill()

    pool = gevent.pool.Pool(8)
    for number in range(2000):
        pool.spawn(one, number)
    pool.join()
    gate.open.set()
    stubborn.open.set()
    until(lambda: not ends.working() and not gate.now and not stubborn.now, "everything has ended")
    gate.open.clear()
    gate.most = 0
    calls = [ends.spawn("wait", number, timeout=30) for number in range(handlers * 3)]
    until(lambda: gate.now == handlers, "as many run at once as ever")
    gate.open.set()
    assert [call.get() for call in calls] == list(range(handlers * 3))
    assert gate.most == handlers
    assert not traffic_of(ends, calling=True).pending
    until(lambda: not ends.working(), "nothing is left of it")


def test_arguments_that_overtake_others_are_not_past_the_credit(make_node: MakeNode) -> None:
    """The last call that the credit allows may come first, and then the others still are what was allowed."""
    small = dataclasses.replace(FAST, mailbox_bytes=64 * 1024)
    ends = Ends(make_node(config=small), make_node(config=small))
    ends.callee.mailbox("bulk", max_bytes=64 * MIB)
    came = Event()
    ends.callee.handler("long " * 40)(lambda value: came.set())
    ends.callee.handler("wait")(lambda value: came.wait(10))
    ends.callee.handler("size")(lambda value: len(value))
    gate = Gate()
    ends.callee.handler("gate")(gate)
    assert ends.call("size", b"") == 0
    taken = ends.spawn("gate", bytes(100), timeout=None)
    until(lambda: gate.now, "some of the credit is taken")
    session = ends.caller.sessions[ends.callee.name]
    ends.caller.send(ends.callee.name, "bulk", b"first")
    ends.caller.send(ends.callee.name, "bulk", bytes(16 * MIB))  # what is posted from now on takes turns
    # With its long name the first needs two pieces. The second goes whole, between them.
    calls = [ends.spawn("long " * 40, bytes(65_390)), ends.spawn("wait", bytes(65_490))]
    assert [call.get() for call in calls] == [None, True]
    gate.open.set()
    assert taken.get() == bytes(100)
    sizes = [65_390, 300_000, 70_000, 10, 20_000] * 8
    calls = [ends.spawn("size", bytes(size), timeout=30) for size in sizes]
    assert [call.get() for call in calls] == sizes
    assert ends.caller.sessions[ends.callee.name] is session


# A peer that does not read.


class Blocked:
    """A caller that does not read, and a callee whose outbox is full."""

    def __init__(self, ends: Ends) -> None:
        if ends.callee.name not in ends.caller.sessions:
            ends.caller.connect(ends.callee.name)
        self._session = ends.caller.sessions[ends.callee.name]
        self._session._read_watcher.stop()
        until(lambda: ends.callee.sessions, "the link is up there")
        session = ends.callee.sessions[ends.caller.name]
        while not session.full:
            session.post_message("filling", mail.result_head(2**32 - 1, RAW), bytes(MIB))
        seen: list[int] = []

        def settled() -> bool:
            while not session.crowded:  # small messages go ahead of those
                session.post_message("crumbs", mail.result_head(2**32 - 1, RAW), bytes(10_000))
            seen.append(session._outbox.waiting)
            return len(seen) >= 10 and len(set(seen[-10:])) == 1

        until(settled, "nothing more is taken")

    def end(self) -> None:
        """Read again."""
        self._session._read_watcher.start(self._session._readable)
        gevent.get_hub().loop.run_callback(self._session._readable)


def traffic_of(ends: Ends, *, calling: bool = False) -> Traffic:
    """The messages of the link of `ends`, as the callee has them or the caller."""
    ends.caller.connect(ends.callee.name)
    near, far = (ends.caller, ends.callee) if calling else (ends.callee, ends.caller)
    until(lambda: far.name in near.sessions, "the link is up on both sides")
    assert near._board is not None
    return near._board.of(near.sessions[far.name])


def test_results_wait_while_the_caller_does_not_read(linked: Callable[..., Ends]) -> None:
    """A result finds its way when the caller reads again; the handler's function has long returned."""
    ends = linked(outbox_bytes=64 * 1024)
    returned = []

    @ends.callee.handler("f")
    def f(value: int) -> list[Any]:
        returned.append(value)
        return [value, bytes(100_000)]

    traffic = traffic_of(ends)
    assert ends.call("f", 0)[0] == 0
    blocked = Blocked(ends)
    calls = [ends.spawn("f", number, timeout=30) for number in range(1, 6)]
    until(lambda: len(traffic.room_line) == 5, "all wait for room")
    assert returned == [0, 1, 2, 3, 4, 5]
    assert len(traffic.running) == 5
    blocked.end()
    assert [call.get()[0] for call in calls] == [1, 2, 3, 4, 5]
    until(lambda: not traffic.running, "nothing is left of them")


def test_results_that_wait_for_room_give_up(linked: Callable[..., Ends]) -> None:
    """They do when the deadline passes, when the caller cancels, and when the link ends."""
    ends = linked(outbox_bytes=64 * 1024)
    ends.callee.handler("f")(lambda: b"x")
    ends.callee.handler("shielded", shielded=True)(lambda: b"x")
    traffic = traffic_of(ends)
    assert ends.call("f") == b"x"
    blocked = Blocked(ends)
    late = ends.spawn("f", timeout=2)
    killed = ends.spawn("f", timeout=None)
    shielded = ends.spawn("shielded", timeout=None)
    left = ends.spawn("f", timeout=None)
    until(lambda: len(traffic.room_line) == 4, "all wait for room")
    killed.kill()
    until(lambda: len(traffic.room_line) == 3, "the cancelled one has given up")
    until(lambda: len(traffic.room_line) == 2, "the late one has given up")
    assert isinstance(late.get(), snowgreen.CallTimeout)
    ends.callee.sessions[ends.caller.name].close()
    until(lambda: not traffic.room_line and not traffic.running, "the others have given up")
    blocked.end()
    assert isinstance(left.get(), snowgreen.SessionClosed)
    assert isinstance(shielded.get(), snowgreen.SessionClosed)


def test_a_result_that_finds_no_room_in_time_is_a_fault(
    linked: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call is answered: in place of a result that comes too late the caller hears that it does."""
    ends = linked(outbox_bytes=64 * 1024)
    ends.callee.handler("f")(lambda: b"x")
    traffic = traffic_of(ends)
    assert ends.call("f") == b"x"
    waits = Pending.wait
    monkeypatch.setattr(Pending, "wait", lambda self, seconds: waits(self, None))
    blocked = Blocked(ends)
    call = ends.spawn("f", timeout=0.5)
    until(lambda: traffic.running, "the call has come")
    until(lambda: not traffic.running, "it has given up")
    blocked.end()
    assert "its deadline passed there" in str(call.get())


def test_a_result_that_waits_for_room_is_not_sent_when_nobody_wants_it(linked: Callable[..., Ends]) -> None:
    """Cancelled in the meantime, it does not become the answer of the next call of that number."""
    ends = linked(outbox_bytes=64 * 1024)
    gate = Gate()
    ends.callee.handler("shielded", shielded=True)(lambda: "old")
    ends.callee.handler("wait")(gate)
    here, there = traffic_of(ends, calling=True), traffic_of(ends)
    assert ends.call("shielded") == "old"
    blocked = Blocked(ends)
    old = ends.spawn("shielded", timeout=None)
    until(lambda: there.room_line, "the result waits for room")
    old.kill()
    here.calls -= 1
    new = ends.spawn("wait", "new")
    until(lambda: gate.begun, "the next runs")
    blocked.end()
    until(lambda: not there.room_line, "there was room")
    here.session.ping()
    gate.open.set()
    assert new.get() == "new"


def test_a_callee_that_does_not_read_is_a_timeout(linked: Callable[..., Ends]) -> None:
    """A caller whose own outbox is full waits for room, and says why when it gives up."""
    ends = linked(outbox_bytes=64 * 1024)
    ends.callee.handler("echo")(lambda value: value)
    ends.call("echo", 1)
    reverse = Ends(ends.callee, ends.caller)
    blocked = Blocked(reverse)
    with pytest.raises(snowgreen.CallTimeout, match="it does not read"):
        ends.call("echo", 1, timeout=0.05)
    waiting = ends.spawn("echo", 2, timeout=30)
    blocked.end()
    assert waiting.get() == 2


def test_a_caller_without_credit_says_why_it_gave_up(linked: Callable[..., Ends]) -> None:
    """With all handlers at work the caller's own wait ends with that reason."""
    ends = linked(handlers=1)
    gate = Gate()
    ends.callee.handler("wait")(gate)
    first = ends.spawn("wait", 1, timeout=None)
    until(lambda: gate.now, "the one place is taken")
    with pytest.raises(snowgreen.CallTimeout, match="its handlers are all at work"):
        ends.call("wait", 2, timeout=0.05)
    killed = ends.spawn("wait", 3, timeout=None)
    third = ends.spawn("wait", 4, timeout=None)
    gevent.sleep(0)
    killed.kill()
    gate.open.set()
    assert (first.get(), third.get()) == (1, 4)
    assert gate.begun == 2


# What handlers share, and what not.


variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default="unset")


def test_calls_at_once_do_not_see_each_others_context(ends: Ends) -> None:
    """Each handler has a context of its own: its call, and the variables that it sets."""
    turn = Event()
    seen = []

    @ends.callee.handler("f")
    def f(value: int) -> Any:
        seen.append(variable.get())
        variable.set(value)
        if len(seen) == 5:
            turn.set()
        turn.wait(5)
        call = snowgreen.current_call()
        assert call is not None
        return [variable.get(), call.remaining]

    variable.set("the caller's")
    calls = [ends.spawn("f", number, timeout=10 * (number + 1)) for number in range(5)]
    found = [call.get() for call in calls]
    assert [value for value, _ in found] == [0, 1, 2, 3, 4]
    for number, (_, remaining) in enumerate(found):
        assert 10 * number + 5 < remaining <= 10 * (number + 1) + 0.001
    assert seen == ["unset"] * 5
    assert variable.get() == "the caller's"


def test_a_call_to_oneself_inside_a_handler_is_another_call(make_node: MakeNode) -> None:
    """current_call() is that of the inner handler in there, and of the outer one before and after."""
    ends = Ends(make_node(), make_node())
    node = ends.callee

    @node.handler("outer")
    def outer() -> list[Any]:
        before = snowgreen.current_call()
        inner = node.call(node.name, "inner", timeout=1)
        assert snowgreen.current_call() is before
        assert before is not None
        return [before.caller, before.handler, *inner]

    @node.handler("inner")
    def inner() -> list[Any]:
        call = snowgreen.current_call()
        assert call is not None
        return [call.caller, call.handler]

    assert ends.call("outer") == [ends.caller.name, "outer", node.name, "inner"]


def test_peers_may_call_each_other_in_turn(linked: Callable[..., Ends]) -> None:
    """A handler may call back whoever calls it, to a depth that the limit allows."""
    ends = linked()

    def make(node: snowgreen.Node, other: snowgreen.Node) -> None:
        @node.handler("down")
        def down(depth: int) -> int:
            return 1 + int(node.call(other.name, "down", depth - 1)) if depth else 0

    make(ends.caller, ends.callee)
    make(ends.callee, ends.caller)
    assert ends.call("down", 20) == 20


# Peers that take no calls.


def test_a_peer_that_refuses_the_flow_for_calls_is_a_call_error(
    linked: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the peer says that there are no calls to it, the caller is told so in words of calls."""
    ends = linked()
    ends.callee.handler("echo")(lambda value: value)

    def refuse(self: Traffic, frame: bytes) -> None:
        self._refuse(mail.decode_open(frame).flow, mail.Refusal.LIMIT, 0)

    ends.caller.connect(ends.callee.name)
    board = ends.callee._board
    assert board is not None
    opened = board.endpoint.receivers[0x41]
    monkeypatch.setitem(board.endpoint.receivers, 0x41, board._receiver(refuse))
    for _ in range(2):
        with pytest.raises(snowgreen.CallError, match="takes no calls") as caught:
            ends.call("echo", 1)
        assert type(caught.value) is snowgreen.CallError
    monkeypatch.setitem(board.endpoint.receivers, 0x41, opened)
    assert ends.call("echo", 1) == 1


def test_a_peer_that_does_not_answer_is_a_timeout(
    linked: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the peer has not said what may be sent, nothing is; the CallTimeout says so."""
    ends = linked()
    ends.caller.connect(ends.callee.name)
    board = ends.callee._board
    assert board is not None
    monkeypatch.setitem(board.endpoint.receivers, 0x41, lambda session, frame: None)
    with pytest.raises(snowgreen.CallTimeout, match=r"it has not answered$"):
        ends.call("echo", 1, timeout=0.05)


def test_a_node_that_cannot_be_reached_is_the_links_error(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No link, no call: the error is that of connect(), or a CallTimeout if it took too long."""
    node = make_node()
    with pytest.raises(snowgreen.LinkError):
        node.call("nobody@127.0.0.1:1", "echo", timeout=5)
    assert node._board is not None

    def slow(name: Any, timeout: float | None) -> Any:
        raise snowgreen.LinkTimeout(f"not within {timeout} s", peer=str(name))

    monkeypatch.setattr(node._board._dialer, "connect", slow)
    with pytest.raises(snowgreen.CallTimeout, match=r"not within 0.5 s"):
        node.call("nobody@127.0.0.1:1", "echo", timeout=0.5)
    idle = make_node(start=False)
    with pytest.raises(snowgreen.NodeStateError):
        idle.call(node.name, "echo")
