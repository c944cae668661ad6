"""The tree of errors: its shape, its texts, and that each survives copying and pickling."""

import copy
import inspect
import pickle
import queue
import re

import pytest

from snowgreen import errors
from snowgreen.errors import (
    AuthenticationError,
    CallError,
    CallTimeout,
    CertificateError,
    ConfigurationError,
    CookieError,
    InvalidName,
    LinkError,
    LinkTimeout,
    MailboxClosed,
    MailboxEmpty,
    MailboxFull,
    MessagingError,
    NameMismatch,
    NodeStateError,
    NotTLSError,
    OutboxFull,
    PayloadError,
    PayloadTooLarge,
    PingTimeout,
    PolicyError,
    ProtocolError,
    Rejected,
    RemoteError,
    SelfLinkError,
    SendTimeout,
    SessionClosed,
    SessionError,
    SnowgreenError,
    TLSError,
    UnknownHandler,
    UnknownMailbox,
    Unreachable,
    Unsupported,
)

#: One of each, with its text and the attributes that a handler may rely on.
SAMPLES = [
    (SnowgreenError("text"), "text", {}),
    (ConfigurationError("listen", "is odd"), "listen: is odd", {"argument": "listen", "problem": "is odd"}),
    (InvalidName("name", "is odd"), "name: is odd", {"argument": "name", "problem": "is odd"}),
    (CookieError("cookie", "is odd"), "cookie: is odd", {"argument": "cookie", "problem": "is odd"}),
    (NodeStateError("not started"), "not started", {}),
    *(
        sample
        for cls in (
            LinkError,
            Unreachable,
            LinkTimeout,
            TLSError,
            NotTLSError,
            CertificateError,
            AuthenticationError,
            ProtocolError,
            PolicyError,
            NameMismatch,
            SelfLinkError,
        )
        for sample in (
            (cls("went wrong"), "went wrong", {"problem": "went wrong", "peer": None}),
            (
                cls("went wrong", peer="b@h:1"),
                "b@h:1: went wrong",
                {"problem": "went wrong", "peer": "b@h:1"},
            ),
        )
    ),
    (Rejected("no", code=16), "no", {"problem": "no", "code": 16, "peer": None}),
    (Rejected("no", code=19, peer="b@h:1"), "b@h:1: no", {"problem": "no", "code": 19, "peer": "b@h:1"}),
    (SessionError("odd"), "odd", {}),
    (
        SessionClosed("b@h:1", "it left"),
        "the session with b@h:1 is closed: it left",
        {"peer": "b@h:1", "reason": "it left"},
    ),
    (PingTimeout("no answer in 2 s"), "no answer in 2 s", {}),
    (OutboxFull("full for 5 s"), "full for 5 s", {}),
    *(
        (cls("went wrong"), "went wrong", {})
        for cls in (
            MessagingError,
            PayloadError,
            PayloadTooLarge,
            SendTimeout,
            MailboxClosed,
            MailboxEmpty,
            Unsupported,
        )
    ),
    (
        UnknownMailbox("b@h:1", "jobs"),
        "the mailbox 'jobs' of b@h:1: there is none of that name",
        {"peer": "b@h:1", "mailbox": "jobs"},
    ),
    (
        MailboxFull("b@h:1", "jobs"),
        "the mailbox 'jobs' of b@h:1 is full",
        {"peer": "b@h:1", "mailbox": "jobs"},
    ),
    *(
        (cls("b@h:1", "f", "odd"), "'f' on b@h:1: odd", {"peer": "b@h:1", "handler": "f", "problem": "odd"})
        for cls in (CallError, CallTimeout, UnknownHandler)
    ),
    (
        RemoteError("b@h:1", "f", "ValueError", "Größe\x1b[2J"),
        "'f' on b@h:1: it raised ValueError: Größe\\x1b[2J",
        {"kind": "ValueError", "text": "Größe\x1b[2J"},
    ),
    (RemoteError("b@h:1", "f", "KeyError", ""), "'f' on b@h:1: it raised KeyError", {"text": ""}),
]
every_sample = pytest.mark.parametrize(
    ("error", "text", "attributes"), SAMPLES, ids=[f"{type(s[0]).__name__}-{s[1]}" for s in SAMPLES]
)

#: Where an error is also one of Python's own.
ALSO = {
    "ConfigurationError": ValueError,
    "LinkTimeout": TimeoutError,
    "PingTimeout": TimeoutError,
    "OutboxFull": TimeoutError,
    "SendTimeout": TimeoutError,
    "CallTimeout": TimeoutError,
    "MailboxEmpty": (queue.Empty, TimeoutError),
}


def also(name):
    """The bases of the class `name` that are Python's own."""
    bases = ALSO.get(name, ())
    return bases if isinstance(bases, tuple) else (bases,)


def classes():
    """Every exception that the module defines, by name."""
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }


def documented_tree():
    """The tree of the module's docstring: {class name: parent's name}, in depth-first order."""
    parents, branch = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r"    ([ │├└─]*)([A-Z]\w+)(?: |$)", line)
        if found:
            depth = len(found[1]) // 4
            del branch[depth:]
            parents[found[2]] = branch[-1] if branch else None
            branch.append(found[2])
    return parents


def test_the_tree_is_as_documented():
    """The docstring's tree names every class, each under its first base, and no other."""
    assert documented_tree() == {
        name: None if cls is SnowgreenError else cls.__bases__[0].__name__ for name, cls in classes().items()
    }


def test_further_bases_are_pythons_own_where_documented():
    """A timeout is also a TimeoutError, a bad argument also a ValueError, and nothing else is mixed in."""
    for name, cls in classes().items():
        if cls is not SnowgreenError:
            assert cls.__bases__[1:] == also(name)
    assert SnowgreenError.__bases__ == (Exception,)
    for line in errors.__doc__.splitlines():
        if "also a TimeoutError" in line:
            assert also(re.search(r"[A-Z]\w+", line)[0])[-1] is TimeoutError


def test_every_class_has_a_sample():
    """What is tested below is tested for all of them."""
    assert {type(error) for error, _, _ in SAMPLES} == set(classes().values())


@pytest.mark.parametrize("cls", classes().values())
def test_every_class_says_what_it_means(cls):
    """Each has a docstring of its own rather than its base's."""
    assert cls.__dict__.get("__doc__")


@every_sample
def test_an_error_reads_as_it_should(error, text, attributes):
    """The text leads with what it is about, and the attributes carry the same to a program."""
    assert str(error) == text
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert type(error).__name__ in repr(error)


@every_sample
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(error, text, attributes, protocol):
    """Type, text and attributes come back, so an error can cross a process pool or a log queue."""
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is type(error)
    assert str(back) == text
    assert {name: getattr(back, name) for name in attributes} == attributes
    assert repr(back) == repr(error)


@every_sample
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_an_error_survives_copying(error, text, attributes, duplicate):
    """Copies are equal in everything that can be seen."""
    back = duplicate(error)
    assert type(back) is type(error)
    assert (str(back), vars(back)) == (text, vars(error))


def test_a_pickled_error_keeps_its_notes():
    """Notes added on the way stay with it."""
    error = LinkError("went wrong", peer="b@h:1")
    error.add_note("while joining")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while joining"]


@pytest.mark.parametrize("cls", [LinkTimeout, PingTimeout, OutboxFull])
def test_a_timeout_is_caught_as_one(cls):
    """`except TimeoutError` catches all three, and they show no errno that they do not have."""
    error = cls("too late")
    assert isinstance(error, TimeoutError)
    assert isinstance(error, SnowgreenError)
    assert error.errno is None


def test_attributes_beyond_the_problem_are_named_when_given():
    """A peer or code cannot slip in by position and be taken for something else."""
    with pytest.raises(TypeError):
        LinkError("went wrong", "b@h:1")
    with pytest.raises(TypeError):
        Rejected("no", 16)
    with pytest.raises(TypeError):
        Rejected("no")
