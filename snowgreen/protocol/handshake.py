"""The handshake as two machines: bytes in, a step out, and in the end Established or Refused.

::

    initiator                        acceptor
        NAME       ----------------->
                   <-----------------  CHALLENGE
        REPLY      ----------------->
                   <-----------------  ACK

Each machine stops once to be told what to do: the initiator at :class:`Challenged`, before it proves
anything, and the acceptor at :class:`Proved`, the first moment at which it may decide anything about
its peer. What may follow what stands in :mod:`~snowgreen.protocol.steps`. Specification: section 3.
"""

from __future__ import annotations

from collections.abc import Callable

from . import keys, messages
from .machine import Machine
from .messages import (
    BINDING_CERTIFICATE,
    DOWNGRADE_MARK,
    Ack,
    Challenge,
    ChallengeExt,
    Malformed,
    Name,
    NameExt,
    Reject,
    RejectCode,
    Reply,
    Tag,
)
from .steps import (
    TRANSITIONS,
    Cause,
    Challenged,
    Continue,
    Established,
    Form,
    Identity,
    Move,
    OutOfTurn,
    Peer,
    Proved,
    Refused,
    State,
    Step,
)
from .wire import MAX_BOUND_HELLO, MAX_HANDSHAKE, pack

__all__ = [
    "TRANSITIONS",
    "Acceptor",
    "Cause",
    "Challenged",
    "Continue",
    "Established",
    "Form",
    "Identity",
    "Initiator",
    "Move",
    "OutOfTurn",
    "Peer",
    "Proved",
    "Refused",
    "State",
    "Step",
]


_OFFERED_BINDINGS = BINDING_CERTIFICATE


class Initiator(Machine):
    """The side that dialed.

    :param secrets: what may be proved. No bound keys: a classic-only node, which offers no extension.
    :param challenge: 32 fresh random bytes.
    :param expected: the name that was dialed, None to take whatever name answers.
    :param epoch: counters of the pairing rule, sent in NAME.
    :param acceptor_binding: SHA-256 of the certificate this side saw.
    :param binding: SHA-256 of this side's own certificate under mutual TLS, else empty.
    :param certified: the name for which an operator's CA vouches, None without one.
    """

    role = "initiator"

    def __init__(
        self,
        identity: Identity,
        secrets: keys.Secrets,
        *,
        challenge: bytes,
        expected: str | None,
        epoch: int = 1,
        attempt: int = 1,
        acceptor_binding: bytes,
        binding: bytes = b"",
        certified: str | None = None,
    ) -> None:
        super().__init__(identity, MAX_HANDSHAKE)
        self.state = State.START
        self.expected = expected
        self.epoch = epoch
        self.attempt = attempt
        self._secrets = secrets
        self._challenge = challenge
        self._acceptor_binding = acceptor_binding
        self._binding = binding
        self._certified = certified
        self._peer: Peer | None = None
        self._their_challenge = b""
        self._transcript = b""
        self._proof = b""

    def start(self) -> Continue:
        """The first message."""
        self._move(Move.SEND_NAME)
        me = self.identity
        ext = None
        if self._secrets.bound:
            ext = NameExt(_OFFERED_BINDINGS, me.capabilities, me.incarnation, self.epoch, self.attempt)
        self._name_payload = messages.encode_name(Name(me.name, me.creation, ext))
        return Continue(pack(self._name_payload))

    def prove(self) -> Step:
        """Go on after :class:`Challenged`: send our proof."""
        self._move(Move.SEND_REPLY)
        peer = self._peer
        assert peer is not None  # noqa: S101  # the table lets nobody come here without a CHALLENGE
        if peer.form is Form.BOUND:
            self._transcript = keys.transcript_hash(
                self._name_payload,
                self._challenge_payload,
                self._challenge,
                BINDING_CERTIFICATE,
                self._acceptor_binding,
                self._binding,
            )
            self._proof = self._secrets.bound[0].initiator_proof(self._transcript)
        else:
            assert self._secrets.classic is not None  # noqa: S101  # _take refused otherwise
            self._proof = keys.mac(self._secrets.classic, self._their_challenge)
        step = self.feed(b"")
        reply = pack(messages.encode_reply(Reply(self._proof, self._challenge)))
        return step._replace(send=reply + step.send)

    def withdraw(self, problem: str) -> Refused:
        """Give up after :class:`Challenged`, having proved nothing; the peer just sees us close."""
        self._move(Move.WITHDRAW)
        return Refused(Cause.WITHDRAWN, problem)

    def _take(self, tag: Tag, payload: bytes) -> Step:
        if tag is Tag.CHALLENGE:
            return self._challenged(payload)
        return self._acknowledged(messages.decode_ack(payload))

    def _challenged(self, payload: bytes) -> Step:
        message = messages.decode_challenge(payload)
        self.claimed = message.name
        if message.ext is None:
            if self._secrets.classic is None:
                return self._refuse(
                    Cause.POLICY,
                    "the peer offers the classic handshake only, which is not allowed for it here "
                    "(Node(classic={name: cookie}) allows it)",
                    RejectCode.BOUND_REQUIRED,
                )
            if self._secrets.bound and message.challenge.endswith(DOWNGRADE_MARK):
                return self._refuse(
                    Cause.POLICY,
                    "the peer can do the bound handshake, yet our offer of it did not arrive: "
                    "something between us removed it",
                    RejectCode.BOUND_REQUIRED,
                )
            peer = Peer(message.name, message.creation, Form.CLASSIC)
        else:
            if not self._secrets.bound:
                raise Malformed("a bound CHALLENGE answers a classic NAME")
            if message.ext.binding != BINDING_CERTIFICATE:
                raise Malformed(f"CHALLENGE uses binding {message.ext.binding}, which was not offered")
            peer = Peer(
                message.name,
                message.creation,
                Form.BOUND,
                incarnation=message.ext.incarnation,
                capabilities=message.ext.capabilities,
            )
        if self._certified not in (None, message.name):
            return self._refuse(
                Cause.CERTIFICATE,
                f"what answers there claims to be {message.name}, with the certificate of {self._certified}",
            )
        if message.name == self.identity.name:
            return self._refuse(Cause.SELF, "what answers is this node itself")
        if self.expected is not None and message.name != self.expected:
            return self._refuse(Cause.MISMATCH, f"what answers there is named {message.name}")
        self._move(Tag.CHALLENGE)
        self._peer = peer
        self._challenge_payload = payload
        self._their_challenge = message.challenge
        return Challenged(peer)

    def _acknowledged(self, message: Ack) -> Step:
        peer = self._peer
        assert peer is not None  # noqa: S101  # see prove()
        bound = peer.form is Form.BOUND
        if bound:
            expected = self._secrets.bound[0].acceptor_proof(self._transcript, self._proof)
        else:
            assert self._secrets.classic is not None  # noqa: S101  # see prove()
            expected = keys.mac(self._secrets.classic, self._challenge)
        if not keys.same(message.proof, expected):
            return self._refuse(
                Cause.AUTHENTICATION,
                "the peer could not prove the cookie: the two nodes have different cookies",
            )
        self._move(Tag.ACK)
        if not bound:
            return Established(peer, self._decoder, None, b"", None)
        return Established(peer, self._decoder, 0, b"", self._secrets.bound[0])

    def _rejected(self, reject: Reject) -> Refused:
        proved = (
            reject.mac is not None
            and reject.code >= 16
            and self._peer is not None
            and self._peer.form is Form.BOUND
            and keys.same(
                reject.mac, self._secrets.bound[0].reject_mac(self._transcript, reject.code, reject.detail)
            )
        )
        if not proved:
            return self._refused_by_hint(reject)
        self.state = State.REFUSED
        try:
            code = RejectCode(reject.code).name
        except ValueError:
            code = f"code {reject.code}"
        return Refused(Cause.DECLINED, f"the peer declined: {code}", b"", reject.code)


class Acceptor(Machine):
    """The side that was dialed.

    :param bound: the keys accepted in the bound form; none makes it a classic-only node.
    :param classic: gives the cookie that a claimed name would have to prove in the classic form, None
        where that form is off altogether. It must not tell by its answer which names are known.
    :param challenge: 32 fresh random bytes.
    :param binding: SHA-256 of the certificate this side presents.
    :param initiator_binding: SHA-256 of the initiator's certificate under mutual TLS, else empty.
    :param certified: the name for which an operator's CA vouches, None without one.
    """

    role = "acceptor"

    def __init__(
        self,
        identity: Identity,
        bound: tuple[keys.LinkKeys, ...],
        *,
        classic: Callable[[str], bytes] | None = None,
        challenge: bytes,
        binding: bytes,
        initiator_binding: bytes = b"",
        certified: str | None = None,
    ) -> None:
        super().__init__(identity, MAX_HANDSHAKE if classic is not None else MAX_BOUND_HELLO)
        self.state = State.AWAIT_NAME
        self._bound = bound
        self._classic = classic
        self._cookie: bytes | None = None
        self._challenge = challenge
        self._binding = binding
        self._initiator_binding = initiator_binding
        self._certified = certified
        self._peer: Peer | None = None
        self._reply: Reply | None = None
        self._transcript = b""
        self._key_index: int | None = None

    @property
    def withdrawable(self) -> bool:
        """Whether an initiator that closed here did no more than withdraw."""
        return self._challenge_payload != b"" and self._reply is None and not self._decoder.mid_message

    @property
    def key(self) -> keys.LinkKeys | None:
        """The key that the peer has proved; None before :class:`Proved`, and in the classic form."""
        return None if self._key_index is None else self._bound[self._key_index]

    def accept(self) -> Established:
        """Go on after :class:`Proved`: the link is wanted."""
        self._move(Move.SEND_ACK)
        assert self._peer is not None and self._reply is not None  # noqa: S101, PT018  # PROVED implies both
        key = self.key
        if key is None:
            assert self._cookie is not None  # noqa: S101  # _proved verified the REPLY with it
            proof = keys.mac(self._cookie, self._reply.challenge)
        else:
            proof = key.acceptor_proof(self._transcript, self._reply.proof)
        send = pack(messages.encode_ack(Ack(proof)))
        return Established(self._peer, self._decoder, self._key_index, send, key)

    def reject(self, code: RejectCode, problem: str) -> Refused:
        """Go on after :class:`Proved`: the link is not wanted.

        These codes are believed only with a MAC, for which the classic form has no key: a classic peer just
        sees us close.
        """
        self._move(Move.SEND_REJECT)
        send = b""
        if self.key is not None:
            reject_mac = self.key.reject_mac(self._transcript, code, b"") if code.authenticated else None
            send = pack(messages.encode_reject(Reject(code, b"", reject_mac)))
        return Refused(Cause.WITHDRAWN, problem, send, code)

    def _take(self, tag: Tag, payload: bytes) -> Step:
        if tag is Tag.NAME:
            return self._named(payload)
        return self._replied(messages.decode_reply(payload))

    def _named(self, payload: bytes) -> Step:
        message = messages.decode_name(payload)
        self.claimed = message.name
        if self._certified not in (None, message.name):
            # Before CHALLENGE: it gets to see nothing of this node, not even a proof to work on.
            return self._refuse(
                Cause.CERTIFICATE,
                f"the peer claims to be {message.name}, with the certificate of {self._certified}",
                RejectCode.AUTH_FAILED,
            )
        challenge, ext = self._challenge, None
        if message.ext is not None and self._bound:
            offered = message.ext
            if not offered.bindings & BINDING_CERTIFICATE:
                return self._refuse(
                    Cause.MALFORMED,
                    "the peer offers no way of binding that this side has",
                    RejectCode.VERSION,
                )
            self._peer = Peer(
                message.name,
                message.creation,
                Form.BOUND,
                offered.incarnation,
                offered.capabilities,
                offered.epoch,
                offered.attempt,
            )
            ext = ChallengeExt(BINDING_CERTIFICATE, self.identity.capabilities, self.identity.incarnation)
        elif self._classic is None:
            return self._refuse(
                Cause.POLICY,
                "the peer offers the classic handshake only, which is not allowed here "
                "(Node(classic={name: cookie}) allows it)",
                RejectCode.BOUND_REQUIRED,
            )
        else:
            self._cookie = self._classic(message.name)
            self._peer = Peer(message.name, message.creation, Form.CLASSIC)
            if self._bound:
                challenge = self._challenge = self._challenge[: -len(DOWNGRADE_MARK)] + DOWNGRADE_MARK
        self._move(Tag.NAME)
        self._name_payload = payload
        self._challenge_payload = messages.encode_challenge(
            Challenge(self.identity.name, self.identity.creation, challenge, ext)
        )
        return Continue(pack(self._challenge_payload))

    def _replied(self, reply: Reply) -> Step:
        assert self._peer is not None  # noqa: S101  # AWAIT_REPLY implies a NAME
        if not self._verify(self._peer.form, reply):
            return self._refuse(
                Cause.AUTHENTICATION,
                "the peer could not prove the cookie: the two nodes have different cookies "
                "(or something between them ends the TLS connection)",
                RejectCode.AUTH_FAILED,
            )
        self._move(Tag.REPLY)
        self._reply = reply
        return Proved(self._peer, b"")

    def _verify(self, form: Form, reply: Reply) -> bool:
        if form is Form.CLASSIC:
            assert self._cookie is not None  # noqa: S101  # _named set it with the form
            return keys.same(reply.proof, keys.mac(self._cookie, self._challenge))
        self._transcript = keys.transcript_hash(
            self._name_payload,
            self._challenge_payload,
            reply.challenge,
            BINDING_CERTIFICATE,
            self._binding,
            self._initiator_binding,
        )
        # Every key is tried, whichever matches: the time taken tells nothing.
        for index, key in enumerate(self._bound):
            if keys.same(reply.proof, key.initiator_proof(self._transcript)) and self._key_index is None:
                self._key_index = index
        return self._key_index is not None
