"""What to check after a failed handshake: there is something for every error, on either side."""

from __future__ import annotations

import pytest

from snowgreen import errors
from snowgreen.cli.errors import explained
from snowgreen.link.advice import advice
from snowgreen.protocol.messages import RejectCode

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LinkError)
]
ELSEWHERE = "see the log of the other node, which may say why"


def error(kind: type[errors.LinkError], code: int = 4) -> errors.LinkError:
    """One of its kind."""
    return kind("it failed", code=code) if kind is errors.Rejected else kind("it failed")


@pytest.mark.parametrize("initiated", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_there_is_advice_for_every_kind_of_error(kind: type[errors.LinkError], initiated: bool):
    """One line, no sentence of its own, and for whom nothing better is known the other node's log."""
    text = advice(error(kind), initiated=initiated)
    assert text.isprintable()
    assert 20 < len(text) < 180
    assert not text.endswith(".")
    if kind not in (errors.LinkError, errors.ProtocolError):
        assert text != ELSEWHERE


@pytest.mark.parametrize(
    "code", ["BUSY", "STALE_INCARNATION", "NAME_NOT_ALLOWED", "SHUTTING_DOWN", "CAPABILITIES"]
)
def test_a_rejection_is_explained_by_its_code(code: str):
    """What to do depends on why the other node declined."""
    assert advice(error(errors.Rejected, RejectCode[code]), initiated=True) != ELSEWHERE


def test_a_code_that_is_not_known_has_advice_too():
    """A later version may decline for reasons that this one does not know."""
    assert advice(error(errors.Rejected, 99), initiated=True) == ELSEWHERE


def test_the_more_specific_kind_comes_first():
    """A certificate's trouble, and that of a port that speaks no TLS, is not that of TLS in general."""
    texts = {
        advice(error(kind), initiated=True) for kind in (errors.TLSError, *errors.TLSError.__subclasses__())
    }
    assert len(texts) == 3


def test_different_cookies_are_compared_by_fingerprint():
    """The most common cause of all names the command that shows who has which."""
    for initiated in (True, False):
        assert "`snowgreen cookie`" in advice(errors.AuthenticationError("x"), initiated=initiated)
    assert "a stranger" in advice(errors.AuthenticationError("x"), initiated=False)


@pytest.mark.parametrize("kind", KINDS)
def test_commands_and_logs_give_the_same_advice(kind: type[errors.LinkError]):
    """There is one place that says what to check."""
    failed = error(kind)
    assert explained(failed) == f"it failed; {advice(failed, initiated=True)}"


def test_an_error_that_is_none_of_a_link_stands_alone():
    """What a configuration error says is all there is to it."""
    assert explained(errors.ConfigurationError("listen", "is\nodd")) == "listen: is odd"
