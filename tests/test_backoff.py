"""The wait before a redial: bounded, spread, and never negative."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from snowgreen.protocol.backoff import delay


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_within_its_bound(failures: int, chance: float) -> None:
    """The delay lies between nothing and the bound, which doubles until it meets the ceiling."""
    found = delay(failures, chance, base=0.5, ceiling=60)
    assert 0 <= found <= min(60, 0.5 * 2 ** min(failures, 20))


def test_it_doubles_up_to_the_ceiling() -> None:
    """The bounds of a first run of failures."""
    assert [delay(n, 1.0, base=0.5, ceiling=10) for n in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]


def test_the_jitter_is_full() -> None:
    """A draw of nothing waits for nothing: returns are spread over the whole time, not around its end."""
    assert delay(5, 0.0, base=1, ceiling=60) == 0
    assert delay(5, 0.5, base=1, ceiling=60) == 16
