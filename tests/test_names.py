"""Node names and addresses: what is one, what is not, and with which words it is refused."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen import names
from snowgreen.errors import ConfigurationError, InvalidName
from snowgreen.names import Address, is_loopback, is_name, parse_address, parse_name, printable

LONG_HOST = ".".join(["h" * 63] * 3 + ["h" * 61])  # 253 bytes, the longest a host name may be

GOOD = {
    "alice@127.0.0.1:9001": ("alice", "127.0.0.1", 9001),
    "alice@127.0.0.1": ("alice", "127.0.0.1", 9000),
    "a@b": ("a", "b", 9000),
    "0@0.0.0.0": ("0", "0.0.0.0", 9000),
    "a@h:0": ("a", "h", 0),
    "a@h:65535": ("a", "h", 65535),
    "a@[::1]": ("a", "::1", 9000),
    "a@[::1]:0": ("a", "::1", 0),
    "a@[2001:DB8::1]:9001": ("a", "2001:DB8::1", 9001),
    "a@[::ffff:127.0.0.1]:1": ("a", "::ffff:127.0.0.1", 1),
    "Node_1.b-2@Host_1.example.COM:80": ("Node_1.b-2", "Host_1.example.COM", 80),
    "a@1host": ("a", "1host", 9000),
    "a@1.2.3.4x": ("a", "1.2.3.4x", 9000),
    "a" * 64 + "@h": ("a" * 64, "h", 9000),
    "a@" + "h" * 63: ("a", "h" * 63, 9000),
    "a@" + LONG_HOST: ("a", LONG_HOST, 9000),
}

NAME_PART = "the part before '@' must be 1 to 64 letters, digits"
HOST = "the host is neither a host name, nor an IPv4 address, nor a bracketed IPv6 address"
IPV4 = "the host looks like an IPv4 address but is none"
PORT = "the port must be a number from 0 to 65535 without leading zeros"
BLANK = "it has spaces or control characters"

BAD_PLACES = {
    "": "the host is missing",
    ":9000": "the host is missing",
    "h:": PORT,
    "h:65536": PORT,
    "h:99999": PORT,
    "h:100000": PORT,
    "h:09000": PORT,
    "h:00": PORT,
    "h:-1": PORT,
    "h:+1": PORT,
    "h:1_0": PORT,
    "h:http": PORT,
    "[::1]:": PORT,
    "[::1]:65536": PORT,
    "[::1]:01": PORT,
    "::1": "an IPv6 address needs brackets",
    "h:1:2": "an IPv6 address needs brackets",
    "[::1": "the bracket before the IPv6 address is not closed",
    "[]": "what stands in the brackets is no IPv6 address",
    "[127.0.0.1]": "what stands in the brackets is no IPv6 address",
    "[fe80::1%eth0]": "what stands in the brackets is no IPv6 address",
    "[1:2:3]": "what stands in the brackets is no IPv6 address",
    "[::1]9000": "after the bracket only ':port' may follow",
    "[::1]]": "after the bracket only ':port' may follow",
    "h.": HOST,
    ".h": HOST,
    "a..b": HOST,
    "-h": HOST,
    "h-": HOST,
    "h/x": HOST,
    "h]": HOST,
    "u@h": HOST,
    "h" * 64: HOST,
    LONG_HOST + "h": HOST,
    "256.0.0.1": IPV4,
    "127.1": IPV4,
    "1": IPV4,
    "1.2.3": IPV4,
    "1.2.3.4.5": IPV4,
    "127.0.0.01": IPV4,
    "host.1": IPV4,
}

BAD_NAMES = {
    "": "it has no '@'; write name@host or name@host:port",
    "alice": "it has no '@'; write name@host or name@host:port",
    "@h": NAME_PART,
    "a" * 65 + "@h": NAME_PART,
    "-a@h": NAME_PART,
    ".a@h": NAME_PART,
    "_a@h": NAME_PART,
    "a/b@h": NAME_PART,
    "a:b@h": NAME_PART,
    " a@h": BLANK,
    "a@h ": BLANK,
    "a@h\n": BLANK,
    "a@h:9000\n": BLANK,
    "a\x00@h": BLANK,
    "a@h\x7f": BLANK,
    "a\x1b[31m@h": BLANK,
    "älice@h": "it has characters outside ASCII",
    "a@h\u0661": "it has characters outside ASCII",
    "a@h:\uff11": "it has characters outside ASCII",
    "a@\ud800": "it has characters outside ASCII",
    # The longest place would make the name too long, which is another defect.
    **{f"a@{place}": defect for place, defect in BAD_PLACES.items() if len(place) < 254},
}


@pytest.mark.parametrize("text", GOOD)
def test_a_good_name_is_taken_apart_and_kept_as_it_is(text):
    """Each part is the piece of text it was written as; only a missing port is filled in, with 9000."""
    name = parse_name(text)
    assert is_name(text)
    assert (name.name, name.host, name.port) == GOOD[text]
    assert name.text == str(name) == text
    assert name.address == Address(name.host, name.port)


@pytest.mark.parametrize("text", BAD_NAMES)
def test_a_bad_name_is_refused_with_its_defect(text):
    """Every rule has its own words, and what broke it is told by them."""
    with pytest.raises(InvalidName) as caught:
        parse_name(text)
    assert not is_name(text)
    assert caught.value.argument == "name"
    assert BAD_NAMES[text] in caught.value.problem


@pytest.mark.parametrize(("size", "fits"), [(255, True), (256, False)])
def test_a_name_has_at_most_255_bytes(size, fits):
    """The limit is exact, and told as such rather than as a defect of the host."""
    head = "a" * 40 + "@" + ".".join(["h" * 63] * 3) + "."
    text = head + "h" * (size - len(head))
    assert len(text) == size
    if fits:
        assert parse_name(text).text == text
    else:
        with pytest.raises(InvalidName, match="it is 256 bytes long, at most 255 are allowed"):
            parse_name(text)


def test_a_huge_name_is_refused_without_being_repeated():
    """4,000 bytes from anywhere become a message of bounded size."""
    with pytest.raises(InvalidName, match="4000 bytes long") as caught:
        parse_name("a" * 3998 + "@h")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("value", [None, 5, b"a@h", ["a@h"]])
def test_only_text_is_a_name(value):
    """Bytes and other types are refused by type, with the error every defect has."""
    with pytest.raises(InvalidName, match=f"a node name is a str, not {type(value).__name__}"):
        parse_name(value)


def test_names_that_differ_in_bytes_are_different():
    """Nothing is normalised: case, a default port and the spelling of an address all count."""
    spellings = ["a@h", "A@h", "a@H", "a@h:9000", "a@[::1]", "a@[0::1]", "a@[::0001]", "a@[::1]:9000"]
    assert len({parse_name(text).text for text in spellings}) == len(spellings)


@given(st.text(max_size=300) | st.from_regex(r"[a-z0-9._-]{1,9}@[a-z0-9.:\[\]_-]{1,20}", fullmatch=True))
@settings(max_examples=200, deadline=None)
def test_a_text_is_a_name_as_it_stands_or_not_at_all(text):
    """Whatever the text, parsing gives it back unchanged or raises InvalidName in printable ASCII."""
    try:
        name = parse_name(text)
    except InvalidName as error:
        message = str(error)
    else:
        message = ""
        assert name.text == text
        host = f"[{name.host}]" if ":" in name.host else name.host
        assert text in (f"{name.name}@{host}", f"{name.name}@{host}:{name.port}")
    assert message.replace("…", "").isascii()
    assert message == "" or message.isprintable()


@pytest.mark.parametrize("text", [text for text in GOOD if len(text) <= 250])
def test_with_port_announces_another_port_and_stays_a_name(text):
    """The name a node announces from the port it got is again a name, with the other parts untouched."""
    name = parse_name(text)
    moved = name.with_port(4711)
    assert parse_name(moved.text) == moved
    assert (moved.name, moved.host, moved.port) == (name.name, name.host, 4711)


def test_with_port_never_makes_a_name_that_is_too_long():
    """A name with no room left for its port is refused here, not by every peer it is announced to."""
    name = parse_name("a@" + LONG_HOST)
    with pytest.raises(InvalidName):
        name.with_port(9001)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("it's", "it's"),
        ("a\nb\x00\x1b[0m\x7f", r"a\nb\x00\x1b[0m\x7f"),
        ("\u202e\ud800é", r"\u202e\ud800\xe9"),
    ],
)
def test_printable_escapes(text, shown):
    """Control characters, direction marks and lone surrogates come out as escapes."""
    assert printable(text) == shown


@given(st.text(max_size=200), st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_printable_is_short_and_harmless(text, limit):
    """The result is never longer than the limit and holds nothing that moves a terminal."""
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    assert shown.removesuffix("…").isascii()


@pytest.mark.parametrize(
    ("size", "shown"),
    [(80, "x" * 80), (81, "x" * 79 + "…"), (4000, "x" * 79 + "…")],
    ids=["80", "81", "4000"],
)
def test_printable_cuts_at_its_limit(size, shown):
    """A text of exactly the limit stays whole; a longer one ends in an ellipsis."""
    assert printable("x" * size) == shown


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("h", ("h", 9000)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", 9000)),
        ("h:0", ("h", 0)),
    ],
)
def test_an_address_is_taken_apart(text, address):
    """Host and port come out, IPv6 without its brackets, and the default fills a missing port only."""
    assert parse_address(text) == address
    if text in ("h", "[::1]"):
        assert parse_address(text, default_port=1).port == 1


@pytest.mark.parametrize("text", ["h:1", "127.0.0.1:80", "[::1]:65535"])
def test_an_address_prints_as_it_is_written(text):
    """str() gives the form that parse_address takes."""
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("place", BAD_PLACES)
def test_a_bad_address_is_refused_with_its_defect(place):
    """The same defects as in a name, under the argument's own name, and not as an InvalidName."""
    with pytest.raises(ConfigurationError) as caught:
        parse_address(place, argument="listen")
    assert caught.value.argument == "listen"
    assert BAD_PLACES[place] in caught.value.problem
    assert not isinstance(caught.value, InvalidName)


@pytest.mark.parametrize(
    "text", ["h\n", "h:1\n", "h\x00", "hé", "h:\u0661", " h", "x" * 4000, "[" + ":" * 4000 + "]"]
)
def test_an_address_with_foreign_characters_is_refused_and_shown_escaped(text):
    """What is no address raises the one documented error, whose text is short and printable."""
    with pytest.raises(ConfigurationError) as caught:
        parse_address(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("value", [None, 9000, b"h:1", ("h", 1)])
def test_only_text_is_an_address(value):
    """Another type is a configuration error too, as it is for a name."""
    with pytest.raises(ConfigurationError):
        parse_address(value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
        ("example.com", False),
    ],
)
def test_is_loopback_knows_what_can_only_mean_this_machine(host, expected):
    """A wildcard, or a name that any resolver may answer, does not count as this machine."""
    assert is_loopback(host) is expected


NEARLY_NAMES = st.from_regex(
    r"[A-Za-z0-9_.-]{0,4}@[A-Za-z0-9_.-]{0,12}(:[0-9]{0,6})?", fullmatch=True
) | st.builds(
    "{}@{}.{}.{}.{}:{}".format,
    st.text("aZ_.-", max_size=3),
    *[st.integers(-1, 300).map(str) | st.sampled_from(["01", "", "0x1"]) for _ in range(4)],
    st.integers(-1, 70_000).map(str) | st.sampled_from(["", "01", "1e3"]),
)


@given(NEARLY_NAMES | st.text(max_size=300))
def test_usual_names_are_read_as_by_pieces(text: str) -> None:
    """The one look that most names need comes to what the pieces come to, for every text."""
    try:
        expected = names._by_pieces(text, "name")
    except InvalidName as error:
        with pytest.raises(InvalidName) as caught:
            parse_name(text)
        assert str(caught.value) == str(error)
        assert not is_name(text)
    else:
        assert parse_name(text) == expected
        assert is_name(text)


@given(
    st.from_regex(r"[0-9.]{0,16}\n?", fullmatch=True) | st.text(max_size=20) | st.ip_addresses(v=4).map(str)
)
def test_an_ipv4_address_is_what_ipaddress_takes_for_one(text: str) -> None:
    """The pattern and Python's own reader agree on every text."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        assert not names.is_ipv4(text)
    else:
        assert names.is_ipv4(text)
