"""What a handler is made of, and what its arguments become before it runs."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import functools
import logging
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union

import msgspec
import pytest

import snowgreen
from snowgreen.messaging.codec import MessagePack
from snowgreen.messaging.handlers import Handler

if TYPE_CHECKING:
    from nowhere import Unknown

OWN = 200


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Line:
    start: Point
    end: Point


class Picky:
    """A type of the application's own that msgspec takes as it is."""


class Demanding(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        raise KeyError("no such x")


def bound(function: Callable[..., Any], *args: Any, codec: int = MessagePack.id, **kwargs: Any) -> Any:
    """What `function` is called with."""
    arguments = Handler("f", function, shielded=False).bind(list(args), kwargs, codec)
    return arguments.args, arguments.kwargs


def annotated(annotation: Any) -> Callable[..., Any]:
    """A function of one parameter that is annotated with `annotation` itself, not with its text."""

    def function(x):  # type: ignore[no-untyped-def]
        return x

    function.__annotations__ = {"x": annotation}
    return function


# What may be a handler.


def test_a_handler_must_be_callable() -> None:
    """Whatever cannot be called is refused with its type."""
    with pytest.raises(snowgreen.ConfigurationError, match="'f' must be callable, not int"):
        Handler("f", 5, shielded=False)  # type: ignore[arg-type]


async def coroutine() -> None:
    pass


async def generator() -> Any:
    yield 1


class Awaited:
    async def __call__(self) -> None:
        pass

    async def method(self) -> None:
        pass


@pytest.mark.parametrize(
    "function", [coroutine, generator, functools.partial(coroutine), Awaited(), Awaited().method]
)
def test_coroutines_are_refused(function: Callable[..., Any]) -> None:
    """A function that would only return something to be awaited is refused when it is registered."""
    with pytest.raises(snowgreen.ConfigurationError, match="is a coroutine, which gevent does not run"):
        Handler("f", function, shielded=False)


@pytest.mark.parametrize("function", [max, dict, int, getattr])
def test_a_function_that_does_not_say_what_it_takes_is_refused(function: Callable[..., Any]) -> None:
    """A builtin without a signature is refused when it is registered, rather than at each call."""
    with pytest.raises(snowgreen.ConfigurationError, match="does not say what it can be called with"):
        Handler("f", function, shielded=False)


@pytest.mark.parametrize("function", [len, "".join, print, {}.get])
def test_a_builtin_with_a_signature_is_taken(function: Callable[..., Any]) -> None:
    """A builtin that has a signature is as good as a function."""
    assert bound(function, ["x"]) == ((["x"],), {})


# Annotations.


def test_arguments_become_what_their_annotations_say() -> None:
    """Structs, dataclasses, dates and their like are made of what MessagePack carries."""

    def function(
        point: Point,
        line: Line,
        maybe: Optional[Point],  # noqa: UP045
        either: Point | None,
        when: datetime.datetime,
        price: decimal.Decimal,
        id: uuid.UUID,
        points: list[Point],
        *,
        free: Any,
        thing: object = None,
        plain=None,  # type: ignore[no-untyped-def]
    ) -> None: ...

    when, id = datetime.datetime(2024, 5, 6, 7), uuid.uuid4()
    args, kwargs = bound(
        function,
        {"x": 1},
        {"start": {"x": 1}, "end": {"x": 2, "y": 3}},
        {"x": 4},
        None,
        when.isoformat(),
        "1.50",
        str(id),
        [{"x": 5}],
        free={"x": 6},
        thing={"x": 7},
        plain={"x": 8},
    )
    assert args == (
        Point(1),
        Line(Point(1), Point(2, 3)),
        Point(4),
        None,
        when,
        decimal.Decimal("1.50"),
        id,
        [Point(5)],
    )
    assert kwargs == {"free": {"x": 6}, "thing": {"x": 7}, "plain": {"x": 8}}


def test_the_annotations_of_args_and_kwargs_are_those_of_each() -> None:
    """Each positional and each keyword argument beyond the named ones is converted by itself."""

    def function(*args: Point, **kwargs: Line) -> None: ...

    args, kwargs = bound(function, {"x": 1}, {"x": 2}, a={"start": {"x": 3}, "end": {"x": 4}})
    assert args == (Point(1), Point(2))
    assert kwargs == {"a": Line(Point(3), Point(4))}
    with pytest.raises(TypeError, match=r"^args: .*`\$\[1\]`"):
        bound(function, {"x": 1}, 5)
    with pytest.raises(TypeError, match=r"^kwargs: Expected `object`, got `int`"):
        bound(function, b=5)


def test_a_default_is_left_as_it_is() -> None:
    """What the caller leaves out is not converted, whatever its annotation says."""

    def function(x: int = "seven", *rest: int, **more: int) -> None: ...  # type: ignore[assignment]

    assert bound(function) == ((), {})


@pytest.mark.parametrize(
    ("annotation", "value", "result"),
    [
        (int, 5, 5),
        ("int", 5, 5),
        (list["Point"], [{"x": 1}], [Point(1)]),
        (Union[int, str], "x", "x"),  # noqa: UP007
        (Annotated[int, msgspec.Meta(gt=3)], 4, 4),
        (Annotated[int, "in pixels"], 4, 4),
        (None, None, None),
        (float, 1, 1.0),
        (set[int], [1, 2], {1, 2}),
    ],
)
def test_annotations_may_be_texts_or_types(annotation: Any, value: Any, result: Any) -> None:
    """An annotation counts whichever way it is written."""
    found = bound(annotated(annotation), value)
    assert found == ((result,), {})
    assert type(found[0][0]) is type(result)


def test_an_annotation_for_a_type_checker_takes_nothing_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A name that does not exist when the program runs leaves its own parameter unconverted, and is told."""
    caplog.set_level(logging.INFO)

    def function(x: Point, y: Unknown, z: "list[Unknown]") -> Unknown: ...  # noqa: UP037

    assert bound(function, {"x": 1}, {"x": 2}, 3) == ((Point(1), {"x": 2}, 3), {})
    assert "'f' takes any 'y'" in caplog.text
    assert "'f' takes any 'z'" in caplog.text
    assert "'f' takes any 'x'" not in caplog.text


@pytest.mark.parametrize("annotation", [Union[list[int], tuple[int]], 5])  # noqa: UP007
def test_an_annotation_that_nothing_converts_to_is_refused_at_once(annotation: Any) -> None:
    """What msgspec cannot make is refused when the handler is registered, with the parameter's name."""
    with pytest.raises(snowgreen.ConfigurationError, match=r"converted to, that of 'x': "):
        Handler("f", annotated(annotation), shielded=False)


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (int, "5", "Expected `int`, got `str`"),
        (int, True, "Expected `int`, got `bool`"),
        (Point, {"y": 1}, "Object missing required field `x`"),
        (Line, {"start": {"x": 1}, "end": {"x": "two"}}, r"Expected `int`, got `str` - at `\$.end.x`"),
        (Annotated[int, msgspec.Meta(gt=3)], 3, "Expected `int` >= 4"),
        (Picky, {}, "Expected `Picky`, got `dict`"),
        (Demanding, {"x": 1}, "no such x"),
    ],
)
def test_what_does_not_fit_is_told_with_its_parameter(annotation: Any, value: Any, problem: str) -> None:
    """An argument that its annotation does not allow is a TypeError that begins with the parameter's name."""
    with pytest.raises(TypeError, match=f"^x: .*{problem}"):
        bound(annotated(annotation), value)


@pytest.mark.parametrize("annotation", [bytes, bytearray, Optional[bytes]])  # noqa: UP045
def test_text_is_not_bytes(annotation: Any) -> None:
    """MessagePack carries bytes as bytes, so that text where they belong is a mistake, and not base64."""
    assert bound(annotated(annotation), b"\0x")[0][0] == b"\0x"
    with pytest.raises(TypeError, match=r"^x: Expected `.*`, got `str`"):
        bound(annotated(annotation), "c25vdw==")


def test_text_may_be_bytes_in_a_codec_of_the_applications_own() -> None:
    """Of a codec that knows text only, such as JSON, msgspec takes base64 for bytes as it always does."""
    assert bound(annotated(bytes), "c25vdw==", codec=OWN) == ((b"snow",), {})


def test_too_few_and_too_many_arguments_are_told_with_their_names() -> None:
    """What the signature does not allow is a TypeError in Python's own words."""

    def function(a: int, b: int, /, c: int, *, d: int) -> None: ...

    assert bound(function, 1, 2, c=3, d=4) == ((1, 2, 3), {"d": 4})
    for args, kwargs, problem in (
        ((1,), {"c": 3, "d": 4}, "'b'"),
        ((1, 2, 3), {}, "'d'"),
        ((1, 2, 3, 4), {"d": 4}, "too many positional"),
        ((1, 2, 3), {"d": 4, "e": 5}, "'e'"),
        ((1, 2, 3), {"c": 3, "d": 4}, "multiple values for argument 'c'"),
    ):
        with pytest.raises(TypeError, match=problem):
            bound(function, *args, **kwargs)


# What is annotated elsewhere than on the callable itself.


class Shape:
    """Its attributes are annotated otherwise than what it is made of."""

    point: str
    factor: str = ""

    def __init__(self, point: Point) -> None:
        self.made_of = point

    def scaled(self, point: Point, factor: int) -> None: ...

    @staticmethod
    def of(point: Point) -> None: ...

    @classmethod
    def made(cls, point: Point) -> None: ...

    def __call__(self, point: Point, factor: int = 1) -> None: ...


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@wrapped
def decorated(point: Point) -> None: ...


class Outer(msgspec.Struct):
    point: Point


@dataclasses.dataclass
class OuterData:
    point: Point


@pytest.mark.parametrize(
    "function",
    [
        Shape(Point(0)).scaled,
        Shape.of,
        Shape.made,
        Shape(Point(0)),
        functools.partial(Shape(Point(0)).scaled, factor=2),
        functools.partial(functools.partial(Shape(Point(0)).scaled), factor=2),
        functools.partial(Shape(Point(0)), factor=2),
        Shape,
        decorated,
        functools.partial(decorated),
        Outer,
        OuterData,
        lambda point: point,
    ],
)
def test_whatever_is_called_its_own_parameters_are_converted(function: Callable[..., Any]) -> None:
    """Methods, partials, classes, instances and what is wrapped have their parameters' annotations heeded."""
    plain = getattr(function, "__name__", "") == "<lambda>"
    given = {"factor": 3} if "factor" in Handler("f", function, shielded=False).signature.parameters else {}
    args, kwargs = bound(function, {"x": 1}, **given)
    assert [*args, *kwargs.values()][0] == ({"x": 1} if plain else Point(1))
