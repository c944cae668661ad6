"""Frames: what each known one carries, and that a wrong one is refused and never crashes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snowgreen.protocol import frames
from snowgreen.protocol.frames import BadFrame, Farewell


@given(st.integers(0, 2**64 - 1))
def test_a_pong_echoes_its_ping(number: int) -> None:
    """Eight bytes go and come back, whatever they are."""
    ping = frames.encode_ping(number)[4:]
    pong = frames.encode_pong(ping)[4:]
    assert (ping[0], pong[0]) == (0xF0, 0xF1)
    assert ping[1:] == pong[1:]
    assert frames.decode_pong(pong) == number


@pytest.mark.parametrize("size", [0, 7, 9, 100])
def test_a_ping_or_pong_of_another_size_is_refused(size: int) -> None:
    """A body that is not eight bytes is an error that says how many there were."""
    for work in (frames.encode_pong, frames.decode_pong):
        with pytest.raises(BadFrame, match=f"of {size} bytes instead of 8"):
            work(b"\xf0" + bytes(size))


@given(st.sampled_from(Farewell), st.text(max_size=400))
def test_a_goodbye_arrives(farewell: Farewell, reason: str) -> None:
    """A farewell and its reason come back, the reason cut to 256 bytes between two characters."""
    frame = frames.encode_goodbye(farewell, reason)[4:]
    assert frame[0] == 0x40
    kind, text = frames.decode_goodbye(frame)
    assert kind is farewell
    sound = reason.encode(errors="replace").decode()
    assert sound.startswith(text)
    assert text == sound or 252 < len(text.encode()) <= 256


def test_a_goodbye_of_a_later_version_is_a_close() -> None:
    """An unknown farewell is understood as the mildest one."""
    frame = frames.encode_goodbye(Farewell.STOPPING, "x")[4:]
    assert frames.decode_goodbye(frame.replace(b"@\x01", b"@\x63")) == (Farewell.CLOSING, "x")


@given(st.binary(max_size=300))
def test_only_bad_frame_leaves_a_decoder(body: bytes) -> None:
    """Arbitrary bytes either decode or raise BadFrame, whose text holds none of them."""
    for tag, work in (
        (b"\x40", frames.decode_goodbye),
        (b"\xf1", frames.decode_pong),
        (b"\xf0", frames.encode_pong),
    ):
        try:
            work(tag + body)
        except BadFrame as error:
            assert str(error).isascii()
            assert str(error).isprintable()
