"""The functions that peers may call, and what their parameters are annotated with."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from ..errors import ConfigurationError
from .codec import MessagePack

log = logging.getLogger("snowgreen.messaging")

_Parameter = inspect.Parameter
#: What MessagePack carries as it is. Text for bytes is then a mistake, and not bytes in base64.
_CARRIED = (bytes, bytearray, memoryview)


class Handler:
    """A function that peers may call.

    :param shielded: whether it runs to its end although nobody waits for its result any more.
    """

    __slots__ = ("_hints", "function", "shielded", "signature")

    def __init__(self, name: str, function: Callable[..., Any], *, shielded: bool) -> None:
        if not callable(function):
            raise ConfigurationError(
                "function", f"the handler {name!r} must be callable, not {type(function).__name__}"
            )
        if _asynchronous(function) or _asynchronous(getattr(type(function), "__call__", None)):  # noqa: B004
            raise ConfigurationError(
                "function", f"the handler {name!r} is a coroutine, which gevent does not run"
            )
        self.function = function
        self.shielded = shielded
        try:
            self.signature = inspect.signature(function)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                "function",
                f"the handler {name!r} does not say what it can be called with; make it a function that does",
            ) from error
        self._hints = _hints(name, function, self.signature)

    def bind(self, args: list[Any], kwargs: dict[str, Any], codec: int) -> inspect.BoundArguments:
        """The arguments as the function takes them, those with an annotation checked and converted to it.

        :param codec: what they were decoded by.
        :raises TypeError: naming the parameter that they do not fit.
        """
        bound = self.signature.bind(*args, **kwargs)
        for name, hint in self._hints.items():
            if name in bound.arguments:
                bound.arguments[name] = _converted(name, bound.arguments[name], hint, codec)
        return bound


def _asynchronous(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _converted(name: str, value: Any, hint: Any, codec: int) -> Any:
    import msgspec

    try:
        return msgspec.convert(value, hint, builtin_types=_CARRIED if codec == MessagePack.id else None)
    except Exception as error:
        # Mostly a ValidationError; but types are the user's code, and may raise what they like.
        raise TypeError(f"{name}: {error}") from error


def _hints(name: str, function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """What to convert the parameters to, of those that are to be converted.

    :raises ConfigurationError: if nothing can be converted to it.
    """
    found = {}
    space = None
    for parameter in signature.parameters.values():
        if parameter.annotation is _Parameter.empty:
            continue
        if space is None:
            space = _space(function)
        # One by one: what only a type checker can read must not keep the others from being converted.
        holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
        try:
            hint = typing.get_type_hints(holder, globalns=space, include_extras=True)[parameter.name]
        except Exception as error:  # noqa: BLE001  # it is the user's expression
            log.info("%r takes any %r: its annotation cannot be read (%s)", name, parameter.name, error)
            continue
        if hint is not Any and hint is not object:
            found[parameter.name] = _checked(name, parameter, hint)
    return found


def _checked(name: str, parameter: inspect.Parameter, hint: Any) -> Any:
    """`hint` as that of all that `parameter` stands for, if msgspec knows what it is."""
    import msgspec

    if parameter.kind is _Parameter.VAR_POSITIONAL:
        hint = tuple[hint, ...]
    elif parameter.kind is _Parameter.VAR_KEYWORD:
        hint = dict[str, hint]
    try:
        msgspec.msgpack.Decoder(hint)
    except Exception as error:
        raise ConfigurationError(
            "function",
            f"the handler {name!r} has an annotation that no argument can be converted to,"
            f" that of {parameter.name!r}: {error}",
        ) from error
    return hint


def _space(function: Any) -> dict[str, Any]:
    """The names that annotations of `function` were written among."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif inspect.isclass(function):
            made: Any = function
            if not inspect.isfunction(made.__init__):
                module = sys.modules.get(made.__module__)
                return {} if module is None else vars(module)
            function = made.__init__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif hasattr(function, "__globals__"):
            return typing.cast(dict[str, Any], function.__globals__)
        elif inspect.isfunction(type(function).__call__):
            function = type(function).__call__
        else:
            return {}
