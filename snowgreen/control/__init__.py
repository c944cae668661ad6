"""A node's control socket: what ``snowgreen top``, ``links``, ``events`` and ``nodes`` read.

``Control(node).start()`` opens it, for the user whom the process runs as and nobody else; ``snowgreen start``
does so by itself. Through it everything can be seen, and nothing changed.
"""

from __future__ import annotations

from .server import Control

__all__ = ["Control"]
