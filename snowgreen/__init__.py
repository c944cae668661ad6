"""Trusted links between Python processes under gevent."""

import logging

from ._version import __version__
from .certificates import TLSConfig
from .config import Config, Limits
from .cookie import Cookie
from .errors import (
    AuthenticationError,
    CertificateError,
    ConfigurationError,
    CookieError,
    InvalidName,
    LinkError,
    LinkTimeout,
    NameMismatch,
    NodeStateError,
    NotTLSError,
    OutboxFull,
    PingTimeout,
    PolicyError,
    ProtocolError,
    Rejected,
    SelfLinkError,
    SessionClosed,
    SessionError,
    SnowgreenError,
    TLSError,
    Unreachable,
)
from .events import (
    CertificateProblem,
    ConnectionsRefused,
    Event,
    EventsDropped,
    HandshakeFailed,
    LoopStalled,
    NodeDown,
    NodeUp,
)
from .link.bus import Subscription
from .link.session import Session
from .node import Node
from .protocol.messages import RejectCode

# A library stays silent until its user sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "AuthenticationError",
    "CertificateError",
    "CertificateProblem",
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
    "NameMismatch",
    "Node",
    "NodeDown",
    "NodeStateError",
    "NodeUp",
    "NotTLSError",
    "OutboxFull",
    "PingTimeout",
    "PolicyError",
    "ProtocolError",
    "RejectCode",
    "Rejected",
    "SelfLinkError",
    "Session",
    "SessionClosed",
    "SessionError",
    "SnowgreenError",
    "Subscription",
    "TLSConfig",
    "TLSError",
    "Unreachable",
    "__version__",
]
