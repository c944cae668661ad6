"""The handshake spoken as a passing node, in two halves, and the first words on the link that comes of it."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Callable
from typing import TypeAlias

from ..errors import LinkError, LinkTimeout
from ..link import faults
from ..link.attempt import UNNAMED
from ..link.deadline import Deadline
from ..link.runtime import Runtime
from ..names import printable
from ..protocol import frames
from ..protocol.frames import Capability, Farewell, FrameTag
from ..protocol.handshake import Challenged, Continue, Established, Identity, Initiator, Refused, Step
from ..protocol.keys import LinkKeys, Secrets
from ..protocol.messages import CHALLENGE_BYTES
from ..protocol.wire import MAX_FRAME
from .channel import Channel

_GOODBYE = "snowgreen doctor has seen enough"
_PING = 1
_PARTING_SECONDS = 1.0

#: What becomes of a half of the handshake; what breaks the connection is a value, too.
Outcome: TypeAlias = Challenged | Established | Refused | LinkError


class Conversation:
    """One handshake over `channel`, on which TLS is done.

    :param fingerprint: SHA-256 of this side's own certificate, empty if it has presented none.
    :param vouched: the name for which the operator's CA vouches, None without one.
    :param timeout: seconds for each half.
    """

    def __init__(
        self,
        channel: Channel,
        identity: Identity,
        keys: LinkKeys,
        *,
        fingerprint: bytes,
        vouched: str | None,
        timeout: float,
        runtime: Runtime,
    ) -> None:
        self._channel = channel
        self._timeout = timeout
        self._linked: Established | None = None
        #: Whether a last word is on its way, a goodbye or a REJECT, and wants to arrive.
        self._parting = False
        # With the lowest rank there is, and expecting nobody: another name is told of once it is proved.
        self.machine = Initiator(
            identity._replace(capabilities=Capability.GOODBYE),
            Secrets((keys,), None),
            challenge=runtime.entropy(CHALLENGE_BYTES),
            expected=None,
            epoch=UNNAMED.epoch,
            attempt=UNNAMED.attempt,
            acceptor_binding=hashlib.sha256(channel.certificate).digest(),
            binding=fingerprint,
            certified=vouched,
        )

    def introduce(self) -> Outcome:
        """Say NAME, and take the answer."""
        return self._converse(self.machine.start)

    def prove(self) -> Outcome:
        """Prove the cookie, and take the answer."""
        answer = self._converse(self.machine.prove)
        if isinstance(answer, Established):
            answer.decoder.limit = MAX_FRAME
            self._linked = answer
        return answer

    def ping(self) -> str | None:
        """Send a ping over the link that stands now, and wait for its answer; why there is none, or None."""
        try:
            with Deadline(self._timeout, "the answer to a ping"):
                self._channel.send(frames.encode_ping(_PING))
                return self._await_pong()
        except LinkTimeout as error:
            return f"it carries nothing: {error.problem}"
        except OSError as error:
            return f"it broke: {faults.reading(error)}"

    def end(self) -> None:
        """Say goodbye, where there is a link, and close the channel."""
        linked, self._linked = self._linked, None
        if linked is not None:
            self._parting = True
            with contextlib.suppress(OSError), Deadline(_PARTING_SECONDS, "parting"):
                self._channel.send(frames.encode_goodbye(Farewell.CLOSING, _GOODBYE))
        if self._parting:
            self._channel.part()
        else:
            self._channel.close()

    def _converse(self, begin: Callable[[], Step]) -> Outcome:
        """Send and take messages until the machine stops."""
        channel, machine = self._channel, self.machine
        step = begin()
        where = machine.state.value
        try:
            with Deadline(self._timeout, where):
                while isinstance(step, Continue):
                    channel.send(step.send)
                    data = channel.receive()
                    step = machine.feed(data) if data else machine.end_of_stream()
                if step.send:
                    self._parting = True
                    channel.send(step.send)
        except LinkTimeout as error:
            return error
        except ssl.SSLEOFError:
            if not machine.finished:
                step = machine.end_of_stream()
        except OSError as error:
            if not machine.finished:
                about_certificate = faults.certifying(error, None)
                return about_certificate or LinkError(f"{faults.reading(error)} while {where}")
        if isinstance(step, Challenged | Established | Refused):
            return step
        raise AssertionError(f"an initiator does not stop at {step!r}")

    def _await_pong(self) -> str | None:
        assert self._linked is not None  # noqa: S101  # ping() is for a link that stands
        decoder, data = self._linked.decoder, b""
        while True:
            try:
                frame = decoder.feed_one(data)
                data = b""
                if frame is None:
                    data = self._channel.receive()
                    if not data:
                        return "the peer closed it"
                elif frame[:1] == bytes([FrameTag.PONG]) and frames.decode_pong(frame) == _PING:
                    return None
                elif frame[:1] == bytes([FrameTag.GOODBYE]):
                    return f"the peer ended it: {printable(frames.decode_goodbye(frame)[1])}"
            except ValueError as error:
                if isinstance(error, OSError):  # of TLS
                    raise
                return f"the peer sent what is no frame: {error}"
