"""The keyring as a value, and the keychain around it: what is accepted, in which order, and who does the work."""

from __future__ import annotations

import _thread
import hashlib
import itertools
import logging
import os
import traceback
from pathlib import Path

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

import snowgreen
from snowgreen import cookie as cookies
from snowgreen.cookie import Cookie
from snowgreen.link import keyring as shell
from snowgreen.link.keyring import Keychain, link_keys
from snowgreen.protocol.keyring import MAX_ACCEPTED, Keyring
from snowgreen.protocol.keys import LinkKeys, prehash
from tests.waiting import until

#: Keys without the cost of scrypt: any 32 bytes are a master key.
K = [LinkKeys(bytes([number]) * 32) for number in range(6)]

_fresh = itertools.count()


def fresh() -> str:
    """A cookie that no test has derived keys from yet."""
    return f"a cookie of its own, number {next(_fresh)}"


def wrap(value: str) -> Cookie:
    """`value` as a node takes it."""
    return Cookie.wrap(value, "test")


def keychain(cookie: str | Cookie, *accepted: str) -> Keychain:
    """An open keychain."""
    given = wrap(cookie) if isinstance(cookie, str) else cookie
    chain = Keychain(given, tuple(map(wrap, accepted)), weak=False)
    chain.open()
    return chain


def file_with(path: Path, value: str) -> Path:
    """A cookie file as a node wants it, put in its place whole."""
    new = path.with_name("new")
    new.touch(0o600)
    new.write_text(value + "\n")
    return new.replace(path)


# The value.


def test_the_primary_comes_first_and_each_key_once() -> None:
    """A key that is given twice is kept where it came first."""
    ring = Keyring.of(K[0], (K[1], K[0], K[1], K[2]))
    assert ring.keys == (K[0], K[1], K[2])
    assert (ring.primary, ring.accepted) == (K[0], (K[1], K[2]))
    assert ring.fingerprints == tuple(key.fingerprint for key in K[:3])


def test_rotating_keeps_the_old_primary_as_the_newest() -> None:
    """Newest first, at most two; the oldest falls out."""
    ring = Keyring.of(K[0])
    expected = [(1, 0), (2, 1, 0), (3, 2, 1), (4, 3, 2)]
    for number, numbers in enumerate(expected, 1):
        ring = ring.rotated(K[number])
        assert ring.keys == tuple(K[i] for i in numbers)


def test_rotating_without_keeping_forgets_the_old_primary_only() -> None:
    """keep=False is a rotation and a forgetting of the old primary in one."""
    ring = Keyring.of(K[0], (K[1],))
    assert ring.rotated(K[2], keep=False) == ring.rotated(K[2]).without(K[0]) == Keyring.of(K[2], (K[1],))


def test_rotating_to_an_accepted_key_loses_none() -> None:
    """The second phase of a rotation: the two change places, and a third stays."""
    assert Keyring.of(K[0], (K[1], K[2])).rotated(K[1]).keys == (K[1], K[0], K[2])
    assert Keyring.of(K[0], (K[1], K[2])).rotated(K[2]).keys == (K[2], K[0], K[1])


@pytest.mark.parametrize("keep", [True, False])
def test_rotating_to_the_primary_changes_nothing(keep: bool) -> None:
    """A rotation that is asked for twice does not forget what the first one made."""
    ring = Keyring.of(K[0], (K[1],))
    assert ring.rotated(K[0], keep=keep) == ring


def test_accepting_puts_the_newest_first_and_leaves_what_is_there() -> None:
    """A third accepted key pushes the oldest out; one that is in the ring already moves nothing."""
    ring = Keyring.of(K[0]).accepting(K[1]).accepting(K[2])
    assert ring.keys == (K[0], K[2], K[1])
    assert ring.accepting(K[3]).keys == (K[0], K[3], K[2])
    assert ring.accepting(K[0]) == ring.accepting(K[1]) == ring


def test_a_key_is_found_by_its_value() -> None:
    """Equal keys from two derivations are one; a ring holds no others."""
    ring = Keyring.of(K[0], (K[1],))
    assert LinkKeys(K[1].master) in ring
    assert K[2] not in ring
    assert LinkKeys(K[1].master) not in ring.without(K[1])
    assert K[0] not in Keyring()


@given(st.lists(st.tuples(st.sampled_from(["rotated", "accepting", "without"]), st.integers(0, 5))))
def test_no_sequence_of_changes_breaks_the_bounds(steps: list[tuple[str, int]]) -> None:
    """Whatever is done: one primary, at most two more, none twice, and never one that was not put in."""
    ring, known = Keyring.of(K[0]), {K[0]}
    for method, number in steps:
        if method == "without" and K[number] == ring.primary:
            continue
        ring = getattr(ring, method)(K[number])
        known = known - {K[number]} if method == "without" else known | {K[number]}
        assert 1 <= len(ring.keys) <= 1 + MAX_ACCEPTED
        assert len(set(ring.keys)) == len(ring.keys)
        assert set(ring.keys) <= known
        if method != "without":
            assert K[number] in ring


def test_a_ring_is_a_value_that_shows_fingerprints_only() -> None:
    """It cannot be changed in place, and its repr has nothing that a link could be made with."""
    ring = Keyring.of(K[1])
    with pytest.raises(AttributeError):
        ring.keys = ()  # type: ignore[misc]
    assert repr(ring) == f"<Keyring {K[1].fingerprint}>"
    assert K[1].master.hex() not in repr(ring)
    assert repr(Keyring()) == "<Keyring without keys>"


# Deriving.


def test_keys_are_derived_once_and_off_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done in another thread than the loop's, and for one cookie only once, however many ask."""
    threads = []
    derive = LinkKeys.derive

    def watched(cookie: bytes) -> LinkKeys:
        threads.append(_thread.get_ident())
        return derive(cookie)

    monkeypatch.setattr(LinkKeys, "derive", watched)
    cookie = wrap(fresh())
    jobs = [gevent.spawn(link_keys, cookie) for _ in range(3)]
    gevent.joinall(jobs, raise_error=True)
    assert len(threads) == 1
    assert threads[0] != _thread.get_ident()
    assert len({id(job.value) for job in jobs}) == 1


def test_a_failed_derivation_shows_neither_the_cookie_nor_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the memory for scrypt gives a traceback in which there is nothing to guess from."""

    def refused(*_: object, **__: object) -> bytes:
        raise ValueError("memory limit exceeded")

    monkeypatch.setattr(hashlib, "scrypt", refused)
    secret = fresh()
    with pytest.raises(ValueError, match="memory limit") as caught:
        link_keys(wrap(secret))
    package = os.path.dirname(snowgreen.__file__)
    shown = ""
    for frame, _ in traceback.walk_tb(caught.value.__traceback__):
        if frame.f_code.co_filename.startswith(package):
            shown += repr(frame.f_locals)
    assert "Cookie from test" in shown
    assert secret not in shown
    assert repr(prehash(secret.encode())) not in shown


# The keychain.


def test_changes_are_made_in_the_order_in_which_they_were_asked_for() -> None:
    """Two greenlets that rotate at once lose neither change, and the later one is the primary."""
    first, second, known = fresh(), fresh(), fresh()
    chain = keychain(known)
    jobs = [gevent.spawn(chain.rotate, wrap(value), keep=True) for value in (first, second)]
    gevent.joinall(jobs, raise_error=True)
    assert chain.ring.keys == tuple(link_keys(wrap(value)) for value in (second, first, known))


def test_forgetting_waits_for_a_rotation_under_way() -> None:
    """What needs no scrypt does not overtake what does: rotate, then forget, leaves the new cookie only."""
    new = fresh()
    chain = keychain(fresh())
    jobs = [gevent.spawn(chain.rotate, wrap(new), keep=True), gevent.spawn(chain.forget, None)]
    gevent.joinall(jobs, raise_error=True)
    assert chain.ring.keys == (link_keys(wrap(new)),)


def test_a_fork_does_not_inherit_a_change_under_way() -> None:
    """In the child, the greenlet that was rotating is not waited for: it lives in the parent."""
    chain = keychain(fresh())
    job = gevent.spawn(chain.rotate, wrap(fresh()), keep=True)
    gevent.idle()
    assert not job.ready()
    chain.forked()
    assert chain.forget(None) is False  # at once, while the other is still at work
    assert not job.ready()
    job.get(timeout=10)


def test_forgetting_says_whether_there_was_anything_to_forget() -> None:
    """By cookie or all at once; the primary cannot be forgotten."""
    primary, one, two = fresh(), fresh(), fresh()
    chain = keychain(primary, one, two)
    assert chain.forget(wrap(one)) is True
    assert chain.forget(wrap(one)) is False
    assert chain.forget(None) is True
    assert chain.forget(None) is False
    with pytest.raises(snowgreen.ConfigurationError, match="rotate to another first") as caught:
        chain.forget(wrap(primary))
    assert caught.value.argument == "cookie"
    assert chain.ring.keys == (link_keys(wrap(primary)),)


def test_what_was_changed_outlasts_a_life() -> None:
    """Opened again, the keychain has the rotated primary and what was accepted, not what it began with."""
    old, new = fresh(), fresh()
    chain = keychain(old)
    chain.rotate(wrap(new), keep=True)
    ring = chain.ring
    chain.open()
    assert chain.ring == ring
    chain.forget(None)
    chain.open()
    assert chain.ring.keys == (link_keys(wrap(new)),)


def test_reading_again_rotates_only_to_another_cookie(tmp_path: Path) -> None:
    """The file's new cookie becomes the primary, the old one stays; an unchanged file changes nothing."""
    old, new = fresh(), fresh()
    path = file_with(tmp_path / "cookie", old)
    chain = keychain(cookies.load(path))
    assert chain.reload() is False
    file_with(path, new)
    assert chain.reload() is True
    assert chain.reload() is False
    assert chain.ring.keys == (link_keys(wrap(new)), link_keys(wrap(old)))
    chain.open()
    assert chain.ring.primary == link_keys(wrap(new))


def test_the_file_is_found_again_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that was relative when the cookie was loaded means the same file ever after."""
    new = fresh()
    monkeypatch.chdir(tmp_path)
    file_with(tmp_path / "cookie", fresh())
    chain = keychain(cookies.load(Path("cookie")))
    file_with(tmp_path / "cookie", new)
    monkeypatch.chdir("/")
    assert chain.reload() is True
    assert chain.ring.primary == link_keys(wrap(new))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.write_text(""), "it is empty"),
        (lambda path: path.write_text("short\n"), "shorter than 16"),
        (lambda path: path.chmod(0o640), "open to other users"),
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.rename(path.with_name("x")) and path.mkdir(), "not a regular file"),
    ],
)
def test_a_spoilt_file_leaves_the_old_cookie_in_force(tmp_path: Path, spoil: object, problem: str) -> None:
    """Whatever is wrong with the file is said in a CookieError, and the keyring stays as it was."""
    path = file_with(tmp_path / "cookie", fresh())
    chain = keychain(cookies.load(path))
    ring = chain.ring
    spoil(path)  # type: ignore[operator]
    with pytest.raises(snowgreen.CookieError, match=problem):
        chain.reload()
    assert chain.ring == ring


def test_only_a_file_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cookie from the environment, or from an argument, gives a ConfigurationError that says so."""
    monkeypatch.setenv(cookies.VARIABLE, fresh())
    from_environment = Keychain(None, (), weak=False)
    from_environment.open()
    for chain, source in ((from_environment, cookies.VARIABLE), (keychain(fresh()), "test")):
        with pytest.raises(snowgreen.ConfigurationError, match=f"from no file .{source}.") as caught:
            chain.reload()
        assert caught.value.argument == "cookie"


def test_a_change_is_logged_by_fingerprints(caplog: pytest.LogCaptureFixture) -> None:
    """Each change leaves a line that tells the cookies apart and shows none; no change leaves none."""
    caplog.set_level(logging.DEBUG, logger="snowgreen")
    old, new = fresh(), fresh()
    chain = keychain(old)
    chain.rotate(wrap(new), keep=True)
    chain.rotate(wrap(new), keep=True)
    chain.forget(None)
    primary, accepted = (link_keys(wrap(value)).fingerprint for value in (new, old))
    until(lambda: len(caplog.messages) == 2, "both are written")
    assert caplog.messages == [
        f"the primary cookie is {primary}; also accepted: {accepted}",
        f"the primary cookie is {primary}; also accepted: none",
    ]
    assert shell.log.name.startswith("snowgreen")
