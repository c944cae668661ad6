"""How long to wait before dialing a lost peer again: exponential backoff with full jitter.

The delay is drawn evenly from 0 to a bound that doubles with every failure, so that a thousand peers which
lost the same node spread their return instead of marching in step (Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

_MAX_DOUBLINGS = 32


def delay(failures: int, chance: float, *, base: float, ceiling: float) -> float:
    """Seconds to wait.

    :param failures: attempts that failed since the last success.
    :param chance: an even draw from 0 to 1.
    :param base: the bound, in seconds, after no failure.
    :param ceiling: the highest bound, in seconds.
    """
    return chance * min(ceiling, base * 2.0 ** min(failures, _MAX_DOUBLINGS))
