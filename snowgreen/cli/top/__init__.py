"""``snowgreen top``: a live picture of a node that runs on this machine."""

from __future__ import annotations

from .command import top

__all__ = ["top"]
