"""The part of a node that its user sends, receives and calls with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import Config, check_timeout
from ..errors import CallTimeout, ConfigurationError, NodeStateError
from ..protocol.mail import checked_name
from .calls import call_over, current_call, outcome_of
from .codec import Codec, Codecs
from .groups import Broadcast
from .handlers import Handler
from .mailbox import Mailbox
from .switchboard import Switchboard

if TYPE_CHECKING:
    from ..link.dialer import Dialer
    from ..link.endpoint import Endpoint

Function = TypeVar("Function", bound=Callable[..., Any])


class Messaging:
    """Mailboxes, calls and groups. A base of :class:`snowgreen.Node`, and nothing by itself."""

    _config: Config
    _board: Switchboard | None = None

    def _prepare_messaging(self, codec: Codec | None) -> None:
        self._codecs = Codecs(codec, self._config.limits)
        self._mailboxes: dict[str, Mailbox] = {}
        self._inboxes: dict[str, list[Mailbox]] = {}
        self._handlers: dict[str, Handler] = {}

    def _begin_messaging(self, endpoint: Endpoint, dialer: Dialer) -> None:
        self._board = Switchboard(
            endpoint, dialer, self._codecs, self._mailboxes, self._inboxes, self._handlers
        )

    def _end_messaging(self) -> None:
        board, self._board = self._board, None
        if board is not None:
            board.stop()
        for mailbox in self._all_mailboxes():
            mailbox.close()

    def _forget_messaging(self) -> None:
        """In a child of a fork: what has come is the parent's, and so are the links it came by."""
        board, self._board = self._board, None
        if board is not None:
            board.let_go()
        for mailbox in self._all_mailboxes():
            mailbox.forget()

    # Messages.

    def mailbox(
        self,
        name: str,
        *,
        type: Any = Any,
        size: int | None = None,
        max_bytes: int | None = None,
        full: str = "block",
    ) -> Mailbox:
        """Open the mailbox `name`, to which peers and this node can send from now on.

        :param name: 1 to 255 bytes of UTF-8 without control characters.
        :param type: what a body must be: any type that msgspec knows, such as a Struct. A message that does
            not fit is dropped and told. Default: whatever comes, with raw bytes as bytes.
        :param size: messages that it holds. Default: ``Config.mailbox_size``. With one sender it is never
            exceeded; several have a share each, and at least 16.
        :param max_bytes: the same in bytes, exceeded by one message of each sender at most. Default:
            ``Config.mailbox_bytes``.
        :param full: what becomes of a message that it has no room for. ``"block"``, the default: its sender
            waits, and other mailboxes of the same link go on. ``"error"``: its sender gets
            :class:`MailboxFull` instead. ``"drop_newest"``, ``"drop_oldest"``: it, or the one that has waited
            longest, is dropped and told.
        :raises ConfigurationError: naming the argument; also if the mailbox is open already.
        """
        checked_name(name, "name")
        if name in self._mailboxes:
            raise ConfigurationError("name", f"the mailbox {name!r} is open already")

        def closed(mailbox: Mailbox) -> None:
            del self._mailboxes[name]
            for flow in mailbox.flows:
                flow.teller.mailbox_closed(flow)

        mailbox = self._mailboxes[name] = self._make(name, type, size, max_bytes, full, closed)
        return mailbox

    def send(self, peer: str, mailbox: str, body: Any, timeout: float | None = None) -> None:
        """Send `body` to a mailbox of `peer`, or of this node itself.

        Returns once the message is queued: behind all that this greenlet sent to that mailbox before, and to
        be delivered at most once. If the link goes down after that, the event ``NodeDown`` tells, and what
        was under way may be lost; if the mailbox drops it, ``MessagesDropped`` does. Waits while the link or
        the mailbox has no room. A link that does not exist is made first.

        :param peer: its node name.
        :param body: bytes go as they are; any other value as MessagePack, or by the codec of the node. A
            classic peer takes bytes only.
        :param timeout: seconds in all; None, the default, for as long as it takes, though a link that is to
            be made first has 10.
        :raises SendTimeout: there was no room in time. The message was not sent.
        :raises SessionClosed: the link went down meanwhile. The message was not sent.
        :raises UnknownMailbox: the peer has none of that name, or has closed it.
        :raises MailboxFull: it is full, and of the kind that says so.
        :raises PayloadError: the body cannot be encoded, or is too large here or there.
        :raises Unsupported: the peer is of a kind that takes no such message.
        :raises LinkError: there is no link, and none came about; see :meth:`connect`.
        :raises NodeStateError: this node is not started.
        """
        board = self._board or self._live()  # not called for each message, of which there may be millions
        if timeout is not None:
            check_timeout(timeout)
        codec, payload = board.codecs.encode(body)
        if peer == board.name:
            board.local.send(mailbox, codec, payload, timeout)
            return
        session = board.sessions.get(peer)
        if session is None:
            checked_name(mailbox, "mailbox")
            traffic, timeout = board.traffic(peer, timeout)
        else:
            traffic = board.of(session)
        traffic.send(mailbox, codec, payload, timeout)

    # Calls.

    def handler(self, name: str, *, shielded: bool = False) -> Callable[[Function], Function]:
        """Let peers call the decorated function as `name`: ``@node.handler("resize")``.

        Each call runs in a greenlet of its own, those of peers at most ``Limits.handlers`` at once and the
        others in turn. Parameters with an annotation get what msgspec converts to it; one that cannot be read
        when the program runs is passed over. :func:`current_call` tells who calls, and how long he will wait.
        When the deadline passes, ``gevent.Timeout`` is raised in the function; when the caller gives up or
        the link goes down, ``GreenletExit`` is. What it raises its caller is told, ``SystemExit`` and
        ``KeyboardInterrupt`` too, which then go on to the main greenlet as from any other greenlet.

        :param name: 1 to 255 bytes of UTF-8 without control characters.
        :param shielded: let it run to its end, whether or not somebody still waits for the result. The calls
            that it makes are then not bound by its deadline.
        :raises ConfigurationError: naming the argument; also if there is a handler of that name, or the
            function is one that cannot be called with what comes over a link.
        """
        checked_name(name, "name")

        def check() -> None:
            if name in self._handlers:
                raise ConfigurationError("name", f"there is a handler {name!r} already")

        def register(function: Function) -> Function:
            check()
            self._handlers[name] = Handler(name, function, shielded=shielded)
            return function

        check()
        return register

    def call(
        self,
        peer: str,
        handler: str,
        /,
        *args: Any,
        timeout: float | None = 10.0,
        result_type: Any = Any,
        **kwargs: Any,
    ) -> Any:
        """Call a handler of `peer`, or of this node itself, and return what it returns.

        :param peer: its node name. A link that does not exist is made first.
        :param args: with `kwargs`, what the handler is called with: any values that the codec encodes.
        :param timeout: seconds in all, None for no limit. It travels along: the handler is ended when it
            passes. Within a handler a call waits no longer than the call that it works on, unless the handler
            is shielded.
        :param result_type: what the result must be. Default: whatever comes.
        :raises CallTimeout: no answer in time.
        :raises UnknownHandler: the peer has none of that name.
        :raises RemoteError: the handler raised; the exception's type and text have crossed the link.
        :raises CallError: the arguments do not fit, the result cannot be sent, or the peer stops.
        :raises SessionClosed: the link went down. Whether the handler has run is not known.
        :raises PayloadError: the arguments cannot be encoded, or the result is not of `result_type`.
        :raises Unsupported: the peer is of a kind that cannot be called.
        :raises LinkError: there is no link, and none came about; see :meth:`connect`.
        :raises NodeStateError: this node is not started.
        """
        board = self._live()
        check_timeout(timeout)
        checked_name(handler, "handler")
        outer = current_call()
        if outer is not None and outer.remaining is not None and not outer.shielded:
            timeout = outer.remaining if timeout is None else min(timeout, outer.remaining)
        encoded = board.codecs.encode((args, kwargs))
        if peer == board.name:
            outcome = board.local.call(handler, encoded, timeout)
        else:
            try:
                traffic, timeout = board.traffic(peer, timeout)
            except TimeoutError as error:
                raise CallTimeout(peer, handler, str(error)) from error
            outcome = call_over(traffic, board, handler, encoded, timeout)
        return outcome_of(board.codecs, peer, handler, outcome, result_type)

    # Groups.

    def join(
        self,
        topic: str,
        *,
        type: Any = Any,
        size: int | None = None,
        max_bytes: int | None = None,
        full: str = "drop_oldest",
    ) -> Mailbox:
        """Join a group: a mailbox that gets what is broadcast on `topic` from now on. Closing it leaves.

        :param topic: 1 to 255 bytes of UTF-8 without control characters.
        :param full: ``"drop_oldest"``, the default, or ``"drop_newest"``: a broadcast waits for nobody.

        The other arguments are those of :meth:`mailbox`. A node may join a topic several times.

        :raises ConfigurationError: naming the argument.
        """
        checked_name(topic, "topic")
        if full not in ("drop_newest", "drop_oldest"):
            raise ConfigurationError("full", "must be 'drop_oldest' or 'drop_newest' for a group")

        def closed(mailbox: Mailbox) -> None:
            boxes = self._inboxes[topic]
            boxes.remove(mailbox)
            if not boxes:
                del self._inboxes[topic]
                if self._board is not None:
                    self._board.groups.leave(topic)

        inbox = self._make(topic, type, size, max_bytes, full, closed)
        boxes = self._inboxes.setdefault(topic, [])
        boxes.append(inbox)
        if len(boxes) == 1 and self._board is not None:
            self._board.groups.join(topic)
        return inbox

    def broadcast(self, topic: str, body: Any) -> Broadcast:
        """Send `body` to every inbox that has joined `topic`, on this node and on those linked with it.

        Each gets it once; nobody passes it on. A member that does not read what was sent to it before is left
        out, and told of by ``MessagesDropped``.

        :returns: the names of the nodes it is on its way to, and of those left out.
        :raises PayloadError: the body cannot be encoded, or has more than 1 MiB.
        :raises NodeStateError: this node is not started.
        """
        board = self._live()
        checked_name(topic, "topic")
        return board.groups.broadcast(topic, *board.codecs.encode(body))

    def group(self, topic: str) -> tuple[str, ...]:
        """The names of the nodes that have joined `topic`, among this one and those linked with it.

        :raises NodeStateError: this node is not started.
        """
        return self._live().groups.members(topic)

    def _all_mailboxes(self) -> list[Mailbox]:
        return [*self._mailboxes.values(), *(box for boxes in self._inboxes.values() for box in boxes)]

    def _live(self) -> Switchboard:
        board = self._board
        if board is None:
            raise NodeStateError("the node is not started; call start() first")
        return board

    def _make(
        self,
        name: str,
        type: Any,
        size: int | None,
        max_bytes: int | None,
        full: str,
        closed: Callable[[Mailbox], None],
    ) -> Mailbox:
        self._codecs.check(type)
        return Mailbox(
            name,
            self._codecs,
            size=self._config.mailbox_size if size is None else size,
            max_bytes=self._config.mailbox_bytes if max_bytes is None else max_bytes,
            full=full,
            type=type,
            on_close=closed,
        )
