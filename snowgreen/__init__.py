"""Trusted links between Python processes under gevent."""

import logging

from . import patching
from ._version import __version__
from .certificates import TLSConfig
from .config import Config, Limits
from .cookie import Cookie
from .errors import (
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
from .events import (
    CertificateProblem,
    ConnectionsRefused,
    Event,
    EventsDropped,
    HandshakeFailed,
    LoopStalled,
    MessagesDropped,
    NodeDown,
    NodeUp,
    PeerListRefused,
)
from .link.bus import Monitor, Subscription
from .link.session import Session
from .messaging.calls import Call, current_call
from .messaging.codec import Codec
from .messaging.groups import Broadcast
from .messaging.mailbox import Mailbox, Message
from .node import Node
from .protocol.messages import RejectCode

# A library stays silent until its user sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Half a monkey-patch is told of here, and again at a node's start, for what has changed in between.
patching.check()

__all__ = [
    "AuthenticationError",
    "Broadcast",
    "Call",
    "CallError",
    "CallTimeout",
    "CertificateError",
    "CertificateProblem",
    "Codec",
    "Config",
    "ConfigurationError",
    "ConnectionsRefused",
    "Cookie",
    "CookieError",
    "Event",
    "EventsDropped",
    "HandshakeFailed",
    "InvalidName",
    "Limits",
    "LinkError",
    "LinkTimeout",
    "LoopStalled",
    "Mailbox",
    "MailboxClosed",
    "MailboxEmpty",
    "MailboxFull",
    "Message",
    "MessagesDropped",
    "MessagingError",
    "Monitor",
    "NameMismatch",
    "Node",
    "NodeDown",
    "NodeStateError",
    "NodeUp",
    "NotTLSError",
    "OutboxFull",
    "PayloadError",
    "PayloadTooLarge",
    "PeerListRefused",
    "PingTimeout",
    "PolicyError",
    "ProtocolError",
    "RejectCode",
    "Rejected",
    "RemoteError",
    "SelfLinkError",
    "SendTimeout",
    "Session",
    "SessionClosed",
    "SessionError",
    "SnowgreenError",
    "Subscription",
    "TLSConfig",
    "TLSError",
    "UnknownHandler",
    "UnknownMailbox",
    "Unreachable",
    "Unsupported",
    "__version__",
    "current_call",
]
