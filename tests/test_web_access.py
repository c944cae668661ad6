"""Who may look at a dashboard."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

import snowgreen
from snowgreen.web.access import Guard, asked_token, defect

TOKEN = "a-token_of-22-letters"


def request(**changes: str) -> dict[str, Any]:
    """A request that this machine's browser makes for this machine."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:9180",
        "wsgi.url_scheme": "http",
    } | changes


def refused(guard: Guard, **changes: str) -> int:
    """The status with which a request is refused, 0 if it is not."""
    reply = guard.refusal(request(**changes))
    return 0 if reply is None else reply.status


@pytest.mark.parametrize("source", ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9180", "127.0.0.1:9180", "[::1]:9180", "127.0.0.2"])
def test_without_a_token_this_machine_is_answered(source: str, host: str):
    """A loopback address that asks for a loopback name or address is let in."""
    assert refused(Guard(None), REMOTE_ADDR=source, HTTP_HOST=host) == 0


@pytest.mark.parametrize("source", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "", "localhost", "unix:"])
def test_without_a_token_other_machines_are_refused(source: str):
    """Whoever comes from elsewhere, or from nobody knows where, is refused and told what to do."""
    reply = Guard(None).refusal(request(REMOTE_ADDR=source))
    assert reply is not None
    assert reply.status == 403
    assert b"dashboard(node, token=...)" in reply.body


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:9180", "127.0.0.1.evil.example", "localhost.evil.example",
     "localhost@evil.example", "0.0.0.0", "[::]", "127.1", "10.0.0.1:9180", "a b", "\x00", "x" * 5000],
)  # fmt: skip
def test_without_a_token_other_hosts_are_refused(host: str):
    """A name of somebody else's that points to this machine (DNS rebinding) opens nothing."""
    reply = Guard(None).refusal(request(HTTP_HOST=host))
    assert reply is not None
    assert reply.status == 403
    assert len(reply.body) < 600


@pytest.mark.parametrize(
    "header",
    ["HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA"],
)
def test_without_a_token_what_a_proxy_passes_on_is_refused(header: str):
    """Behind a proxy every request seems to come from this machine: one that says so is refused."""
    assert refused(Guard(None), **{header: "192.0.2.1"}) == 403
    assert refused(Guard(TOKEN), HTTP_AUTHORIZATION=f"Bearer {TOKEN}", **{header: "192.0.2.1"}) == 0


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_are_refused(site: str):
    """Another site's page cannot make the browser fetch from here; it can only link here."""
    for guard in (Guard(None), Guard(TOKEN)):
        authorization = f"Bearer {TOKEN}"
        asked = {"HTTP_AUTHORIZATION": authorization, "HTTP_SEC_FETCH_SITE": site}
        assert refused(guard, HTTP_SEC_FETCH_MODE="no-cors", **asked) == 403
        assert refused(guard, HTTP_SEC_FETCH_MODE="navigate", **asked) == 0
        for place, status in (("document", 0), ("iframe", 403), ("embed", 403)):
            assert (
                refused(guard, HTTP_SEC_FETCH_MODE="navigate", HTTP_SEC_FETCH_DEST=place, **asked) == status
            )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_token_is_let_in_from_anywhere(scheme: str):
    """With a token neither address nor host count."""
    changes = {"REMOTE_ADDR": "192.0.2.1", "HTTP_HOST": "node.example"}
    assert refused(Guard(TOKEN), HTTP_AUTHORIZATION=f"{scheme} {TOKEN}", **changes) == 0


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer " + "x" * 9999,
     f"Bearer {TOKEN.upper()}", "Bearer caf\xe9-caf\xe9-caf\xe9-caf\xe9"],
)  # fmt: skip
def test_anything_else_is_refused(header: str):
    """With a token this machine is refused as well, unless it has it."""
    reply = Guard(TOKEN).refusal(request(HTTP_AUTHORIZATION=header))
    assert reply is not None
    assert reply.status == 401
    assert ("WWW-Authenticate", 'Bearer realm="snowgreen"') in reply.headers
    assert TOKEN.encode() not in reply.body


def test_the_token_in_the_address_becomes_a_session():
    """The right token in the URL gets a cookie, which is let in, is not the token, and no script reads."""
    guard = Guard(TOKEN)
    header = guard.admission(request(QUERY_STRING=f"token={TOKEN}", SCRIPT_NAME="/ops/node"))
    assert header is not None
    pair, *attributes = header.split("; ")
    assert attributes == ["Path=/ops/node", "HttpOnly", "SameSite=Strict"]
    assert TOKEN not in header
    assert refused(guard, HTTP_COOKIE=f"theme=dark; {pair}; x=y") == 0
    assert refused(guard, HTTP_COOKIE=pair[:-1]) == 401
    assert refused(guard, HTTP_COOKIE=f"{pair}; junk={'x' * 5000}") == 401
    assert refused(Guard(TOKEN + "!"), HTTP_COOKIE=pair) == 401


def test_two_dashboards_of_one_machine_have_two_cookies():
    """Cookies know no ports, so their names differ with the tokens; https makes them Secure."""
    https = {"wsgi.url_scheme": "https"}
    one, other = (
        Guard(token).admission(request(QUERY_STRING=f"token={token}", **https))
        for token in (TOKEN, TOKEN[::-1])
    )
    assert one is not None
    assert other is not None
    assert one.split("=")[0] != other.split("=")[0]
    assert one.endswith("; Secure")


@pytest.mark.parametrize(
    "query", ["", "token=", "token=wrong", f"Token={TOKEN}", "&".join(["a=b"] * 20 + [f"token={TOKEN}"])]
)
def test_a_wrong_token_in_the_address_gets_nothing(query: str):
    """No cookie comes of a wrong token, nor of one among too many fields."""
    assert Guard(TOKEN).admission(request(QUERY_STRING=query)) is None
    assert Guard(None).admission(request(QUERY_STRING=f"token={TOKEN}")) is None


def test_a_mount_that_cannot_stand_in_a_cookie_is_left_out():
    """A path with a semicolon adds no attribute to the cookie."""
    header = Guard(TOKEN).admission(
        request(QUERY_STRING=f"token={TOKEN}", SCRIPT_NAME="/a; Domain=evil.example")
    )
    assert header is not None
    assert "; Path=/; " in header
    assert "evil" not in header


@pytest.mark.parametrize(
    ("token", "words"),
    [("tiny-one", "shorter than 16"), ("x" * 257, "longer than 256"), ("with a space in it", "spaces"),
     ("line\nbreak-is-in-here", "spaces"), ("zeichen-außerhalb-von", "outside ASCII"), (b"bytes-are-not-text", "not bytes"),
     (12345678901234567, "not int")],
)  # fmt: skip
def test_a_token_that_cannot_be_used_is_refused_and_not_shown(token: Any, words: str):
    """The error says what is wrong with a token, and neither it nor its traceback shows it."""
    with pytest.raises(snowgreen.ConfigurationError, match=words) as caught:
        Guard(token)
    assert caught.value.argument == "token"
    shown = "".join(traceback.format_exception(caught.value))
    assert str(token) not in shown
    assert str(token) not in str(defect(token))


def test_a_guard_keeps_no_token():
    """Nothing that a guard holds is the token."""
    assert TOKEN not in repr(vars(Guard(TOKEN)))


def test_a_query_with_too_many_fields_has_no_token():
    """A flood of fields is not gone through."""
    assert asked_token(request(QUERY_STRING="&".join(f"a{n}=1" for n in range(50)))) is None
