"""The dashboard: a page in the browser that shows, live, what a node is doing and why a link failed.

It is a WSGI application that only reads: :func:`dashboard` makes it, to be mounted under any path of any
application that runs in the node's thread, and :func:`serve` serves it by itself.
"""

from __future__ import annotations

from .app import dashboard
from .server import serve

__all__ = ["dashboard", "serve"]
