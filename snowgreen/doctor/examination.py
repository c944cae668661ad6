"""The examination itself: one handshake with a peer, each step of which is looked at before the next."""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket

from .. import certificates
from ..certificates import TLSConfig
from ..config import check_timeout
from ..cookie import Cookie
from ..errors import CertificateError, ConfigurationError, CookieError, LinkError, LinkTimeout, NotTLSError
from ..link import credentials, faults, tls
from ..link.deadline import Deadline
from ..link.endpoint import new_incarnation
from ..link.keyring import link_keys
from ..link.runtime import Runtime
from ..names import Address, NodeName, parse_name
from ..protocol.handshake import Cause, Challenged, Established, Identity, Peer, Refused
from ..protocol.keys import LinkKeys
from ..protocol.messages import RejectCode
from . import clocks, conversation, places, words
from .certificate import Shown, prepare, read
from .channel import Channel, what_answered
from .conversation import Conversation
from .steps import Failure, Finding, Outcome, Step

#: An incarnation below that of any living node: a live link of the same name is the later one, and stays.
_LOWEST_INCARNATION = 1


def examine(
    target: NodeName | Address,
    *,
    cookie: Cookie | CookieError,
    tls: TLSConfig | None = None,
    name: str | None = None,
    timeout: float = 5.0,
    runtime: Runtime | None = None,
) -> Iterator[Step]:
    """Go through all that it takes to link with `target`, and give each step as it is done.

    All of `STEPS` come, in their order; those behind one that failed as not reached.

    :param cookie: the cookie to prove, or why there is none: the steps before it are taken all the same.
    :param tls: certificates of the operator's CA, as the node has them that is to link.
    :param name: the node name to ask under, so that an allow-list is tried with it. Default: the one in the
        certificate, else a passing one. A live link of that name stays as it is.
    :param timeout: seconds for each step, and for each address of a host name.
    :raises InvalidName: if `name` is none.
    :raises ConfigurationError: if the files of `tls` cannot be used, or are not those of `name`.
    """
    check_timeout(timeout)
    return _steps(Examination(target, cookie, tls, name, timeout, runtime or Runtime()))


def _steps(examination: Examination) -> Iterator[Step]:
    failed = False
    monotonic = examination.runtime.monotonic
    try:
        for name, look in _LOOKS:
            if failed:
                yield Step(name, Outcome.NOT_REACHED, "not reached")
                continue
            began = monotonic()
            try:
                found: Finding | Failure = look(examination)
                outcome = Outcome.WARNING if found.advice else Outcome.OK
            except Failure as failure:
                found, outcome, failed = failure, Outcome.FAILED, True
            seconds = monotonic() - began if found.seconds is None else found.seconds
            if failed:
                examination.close()  # before anybody reads about it: the peer must not wait for that
            yield Step(name, outcome, found.text, found.advice, found.details, found.facts, seconds)
    finally:
        examination.close()


class Examination:
    """One attempt, as far as it has come. Each of its looks is one step; they build on each other."""

    def __init__(
        self,
        target: NodeName | Address,
        cookie: Cookie | CookieError,
        tls_config: TLSConfig | None,
        name: str | None,
        timeout: float,
        runtime: Runtime,
    ) -> None:
        self.runtime = runtime
        self._target = target
        self._cookie = cookie
        self._timeout = timeout
        self._end, self._name = _own_end(tls_config, name, runtime)
        #: Whether it asks under a name of chance. With any other, a link that is there must outrank this one.
        self._passing = tls_config is None and name is None
        # Both now, because they take a tenth of a second, in which no peer should wait.
        prepare()
        self._keys = link_keys(cookie) if isinstance(cookie, Cookie) else LinkKeys(os.urandom(32))
        self._places: list[places.Place] = []
        self._sock: gevent.socket.socket | None = None
        self._channel: Channel | None = None
        self._conversation: Conversation | None = None
        self._shown: Shown | None = None
        #: What verifying the peer's certificate came to, where that already ended TLS.
        self._unverified: ssl.SSLCertVerificationError | None = None
        #: What became of NAME, and how long that took.
        self._answer: conversation.Outcome | None = None
        self._answered_after = 0.0
        self._peer: Peer | None = None
        self._declined: Refused | None = None

    # The steps.

    def resolution(self) -> Finding:
        """The host name."""
        address = self._target if isinstance(self._target, Address) else self._target.address
        self._places, found = places.resolve(address, self._timeout)
        return found

    def tcp(self) -> Finding:
        """The connection."""
        self._sock, found = places.connect(self._places, self._timeout, self.runtime.monotonic)
        return found

    def secure(self) -> Finding:
        """TLS: its version and cipher, and the application protocol."""
        assert self._sock is not None  # noqa: S101  # tcp() has made it
        channel = self._channel = Channel(self._sock, self._end)
        try:
            with Deadline(self._timeout, "the TLS handshake"):
                channel.handshake()
        except LinkTimeout as error:
            began = "began to answer, and then fell silent" if channel.first else "says nothing"
            raise Failure(f"what listens there {began}: {error.problem}", words.SILENT) from None
        except ssl.SSLCertVerificationError as error:
            self._unverified = error
            version = channel.version or "TLS"
            return Finding(f"{version}, up to the certificate", facts={"version": version})
        except OSError as error:
            raise _insecure(faults.securing(error, None), channel.first) from None
        facts = {"version": channel.version, "cipher": channel.cipher, "alpn": channel.alpn}
        agreed = f"{channel.version}, {channel.cipher}"
        if channel.alpn == tls.ALPN:
            return Finding(f"{agreed}, ALPN {tls.ALPN}", facts=facts)
        return Finding(f"{agreed}, without agreement on ALPN {tls.ALPN}", facts=facts, advice=words.NO_ALPN)

    def certificate(self) -> Finding:
        """The peer's certificate, and whether it wants and takes ours: which only its first answer tells."""
        if self._unverified is not None:
            verdict = faults.certifying(self._unverified, None)
            assert verdict is not None  # noqa: S101  # it is of the kind that certifying() knows
            raise Failure(verdict.problem, words.verification(self._unverified))
        assert self._channel is not None  # noqa: S101  # secure() has made it
        began = self.runtime.monotonic()
        shown = self._shown = read(self._channel.certificate)
        vouched = self._vouched()
        seconds = self.runtime.monotonic() - began
        answer = self._introduce(vouched)
        self._answered_after = self.runtime.monotonic() - began - seconds
        details = () if shown is None else shown.details
        facts: dict[str, Any] = {} if shown is None else shown.facts
        problem, advice = _about_certificate(answer)
        if problem is not None:
            raise Failure(problem, advice, details=details, facts=facts)
        if shown is None:
            return Finding("one that cannot be read", seconds=seconds, advice=words.NO_NODE)
        if vouched is not None:
            text = f"a certificate of the operator's CA, for {vouched}"
            return Finding(text, details, facts, seconds=seconds)
        advice = "" if shown.ephemeral else words.FOREIGN_CERTIFICATE
        return Finding(shown.kind, details, facts, advice, seconds)

    def form(self) -> Finding:
        """Whether what answers is a node, and which form of the handshake it takes."""
        answer, seconds = self._answer, self._answered_after
        if isinstance(answer, Challenged):
            peer = self._peer = answer.peer
            facts = {"form": str(peer.form), "claimed": peer.name, "incarnation": peer.incarnation}
            return Finding(
                f"what answers says it is {peer.name}; the bound form", facts=facts, seconds=seconds
            )
        if isinstance(answer, LinkTimeout):
            raise Failure(f"no answer to our name: {answer.problem}", words.SILENT, seconds=seconds)
        assert isinstance(answer, Refused | LinkError)  # noqa: S101  # certificate() has got it, before any proof
        if isinstance(answer, Refused) and answer.cause is Cause.POLICY:
            claimed = self._conversation and self._conversation.machine.claimed
            advice = words.CLASSIC.format(name=claimed or "name@host:port")
            raise Failure(answer.problem, advice, facts={"claimed": claimed}, seconds=seconds)
        agreed = self._channel is not None and self._channel.alpn == tls.ALPN
        advice = words.answering(answer) if agreed else words.NO_NODE
        raise Failure(answer.problem, advice, seconds=seconds)

    def clock(self) -> Finding:
        """What the peer's start tells of its clock."""
        peer, shown = self._peer, self._shown
        assert peer is not None and peer.incarnation is not None  # noqa: S101, PT018  # the bound form has one
        made = shown.not_before if shown is not None and shown.ephemeral else None
        return clocks.compare(peer.incarnation, self.runtime.wall(), made)

    def cookie(self) -> Finding:
        """Whether both sides prove the same cookie."""
        spoken, cookie = self._conversation, self._cookie
        assert spoken is not None  # noqa: S101  # certificate() has begun it
        if isinstance(cookie, CookieError):
            spoken.machine.withdraw("there is no cookie to prove")
            raise Failure(cookie.problem, words.NO_COOKIE)
        ours = self._keys.fingerprint
        facts = {"fingerprint": ours, "source": cookie.source}
        details = (f"ours is {ours}, from {cookie.source}",)
        answer = spoken.prove()
        if isinstance(answer, Refused) and answer.cause is Cause.DECLINED:
            self._declined = answer  # with a MAC, which proves the cookie
        elif not isinstance(answer, Established):
            advice = words.answering(answer)
            if advice is words.COOKIE and self._shown is not None and not self._shown.ephemeral:
                advice = words.COOKIE if self._end.certified else f"{words.COOKIE}. {words.PROXY}"
            assert isinstance(answer, Refused | LinkError)  # noqa: S101  # nothing else is left
            raise Failure(answer.problem, advice, details=details, facts=facts)
        return Finding("both sides proved the same one", details, facts)

    def name(self) -> Finding:
        """Whether the node that answers is the one that was asked for."""
        assert self._peer is not None  # noqa: S101  # form() has set it
        answered = self._peer.name
        facts = {"asked": str(self._target), "answered": answered}
        if isinstance(self._target, Address):
            return Finding(f"{answered} is who answers at {self._target}", facts=facts)
        if answered == self._target.text:
            return Finding(f"{answered}, as asked for", facts=facts)
        raise Failure(
            f"{answered} answers where {self._target} was asked for: "
            f"{words.differing(self._target, parse_name(answered))}",
            words.NAMED.format(answered=answered, asked=self._target),
            facts=facts,
        )

    def pairing(self) -> Finding:
        """Whether the peer lets the link in, and the link carries frames."""
        facts = {"as": self._name}
        if self._declined is not None:
            return self._judge(self._declined, facts)
        assert self._conversation is not None  # noqa: S101  # cookie() has spoken through it
        began = self.runtime.monotonic()
        problem = self._conversation.ping()
        if problem is not None:
            raise Failure(f"the link came up, and at once {problem}", words.CUT, facts=facts)
        rtt = self.runtime.monotonic() - began
        text = f"let in as {self._name}; a ping came back in {rtt * 1000:.1f} ms"
        return Finding(text, facts={**facts, "rtt": rtt})

    def close(self) -> None:
        """End the attempt in due form: with a goodbye where there is a link. A second call does nothing."""
        spoken, self._conversation = self._conversation, None
        channel, self._channel = self._channel, None
        sock, self._sock = self._sock, None
        if spoken is not None:
            spoken.end()
        elif channel is not None:
            channel.close()
        elif sock is not None:
            sock.close()

    # What they are made of.

    def _vouched(self) -> str | None:
        """The name for which the operator's CA vouches; None without one."""
        if not self._end.certified:
            return None
        assert self._channel is not None  # noqa: S101  # certificate() has looked
        try:
            return certificates.peer_name(self._channel.verified).text
        except ValueError as error:
            problem = "it cannot be read" if isinstance(error, UnicodeError) else str(error)
            raise Failure(f"the other end's certificate names no node: {problem}", words.ISSUE) from None

    def _introduce(self, vouched: str | None) -> conversation.Outcome:
        assert self._channel is not None  # noqa: S101  # certificate() has looked
        incarnation = new_incarnation(self.runtime) if self._passing else _LOWEST_INCARNATION
        self._conversation = Conversation(
            self._channel,
            Identity(self._name, incarnation),
            self._keys,
            fingerprint=self._end.fingerprint,
            vouched=vouched,
            timeout=self._timeout,
            runtime=self.runtime,
        )
        self._answer = self._conversation.introduce()
        return self._answer

    def _judge(self, declined: Refused, facts: dict[str, str]) -> Finding:
        code = declined.code or 0
        shown = str(code)
        with contextlib.suppress(ValueError):
            shown = RejectCode(code).name
        facts = {**facts, "code": shown}
        if not self._passing and code in (RejectCode.STALE_INCARNATION, RejectCode.DUPLICATE):
            return Finding(f"it has a link with {self._name} already, and keeps that one", facts=facts)
        problem = faults.declined(code, declined.problem, None).problem
        advice = words.DECLINED.get(code, words.CUT)
        if code == RejectCode.NAME_NOT_ALLOWED and self._passing:
            advice = words.AS_A_PASSER_BY.format(name=self._name)
        raise Failure(problem, advice, facts=facts)


_LOOKS: tuple[tuple[str, Callable[[Examination], Finding]], ...] = (
    ("resolution", Examination.resolution),
    ("tcp", Examination.tcp),
    ("tls", Examination.secure),
    ("certificate", Examination.certificate),
    ("form", Examination.form),
    ("clock", Examination.clock),
    ("cookie", Examination.cookie),
    ("name", Examination.name),
    ("pairing", Examination.pairing),
)
#: The names of the steps, in their order.
STEPS: tuple[str, ...] = tuple(name for name, _ in _LOOKS)


def _own_end(config: TLSConfig | None, name: str | None, runtime: Runtime) -> tuple[tls.End, str]:
    """The end of TLS to dial with, and the name to ask under."""
    if config is None:
        passing = f"doctor-{runtime.entropy(6).hex()}@127.0.0.1:0"
        return tls.client_end(), passing if name is None else parse_name(name).text
    name = certificates.own_name(config).text if name is None else parse_name(name).text
    now = datetime.datetime.fromtimestamp(runtime.wall(), datetime.UTC)
    # In a thread: a disk may be slow, and so is checking a large RSA key.
    made = gevent.get_hub().threadpool.apply(_client_end, (config, name, now))
    if isinstance(made, ConfigurationError):
        raise made
    return made, name


def _client_end(config: TLSConfig, name: str, now: datetime.datetime) -> tls.End | ConfigurationError:
    # Returned, because gevent prints the traceback of what is raised in its threads.
    try:
        return credentials.load(config, name, now).client
    except ConfigurationError as error:
        return error.with_traceback(None)


def _insecure(error: LinkError, first: bytes) -> Failure:
    text = error.problem
    if isinstance(error, NotTLSError) and (answered := what_answered(first)) is not None:
        text = f"{text}: {answered}"
    return Failure(text, words.securing(error))


def _about_certificate(answer: conversation.Outcome) -> tuple[str | None, str]:
    """What the answer to NAME says against a certificate, the peer's or ours, and what to do about it."""
    if isinstance(answer, CertificateError):
        return answer.problem, words.BOTH_CA
    if isinstance(answer, Refused) and answer.cause is Cause.CERTIFICATE:
        return answer.problem, words.ISSUE
    if isinstance(answer, Refused) and answer.cause is Cause.SELF:
        return "what answers has the very name that this command asks under", words.SELF
    return None, ""
