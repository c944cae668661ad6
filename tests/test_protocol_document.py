"""docs/protocol.md against the code: its figures, names and bytes are those that the code has."""

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import snowgreen
from snowgreen import cookie, names
from snowgreen.config import Config, Limits
from snowgreen.link import converse, heart, table, tls
from snowgreen.protocol import admission, fragments, keys, lanes, mail, messages, pairing, wire
from snowgreen.protocol.frames import MAX_REASON, Capability, Farewell, FrameTag
from snowgreen.protocol.keys import LinkKeys
from snowgreen.protocol.messages import RejectCode, Tag

from . import test_explore

ROOT = Path(__file__).parent.parent
PACKAGE = Path(snowgreen.__file__).parent
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
#: With every run of white space as one space, for sentences that are broken over lines.
FLAT = " ".join(DOCUMENT.split())
VECTOR = json.loads((ROOT / "tests" / "vectors.json").read_text())["vectors"][0]


def tables(text: str = DOCUMENT) -> dict[str, list[list[str]]]:
    """Every table by its first row, as rows of cells without their backquotes."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = (
            [re.sub(r"`([^`]*)`", r"\1", cell.strip()) for cell in line.strip("|").split("|")]
            for line in block.splitlines()
        )
        found[" | ".join(head)] = rows
    return found


TABLES = tables()


def number(text: str) -> int | float | bool | None:
    """A figure as the document writes it, or one of Python's words."""
    if text in (words := {"True": True, "False": False, "None": None}):
        return words[text]
    plain = text.replace(",", "")
    return float(plain) if "." in plain else int(plain)


def section(title: str) -> str:
    """The text under one heading."""
    pattern = rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)"
    found = re.search(pattern, DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def anchors() -> set[str]:
    """What a link inside the document can point at."""
    headings = re.findall(r"^#+ (.+)$", DOCUMENT, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Figures and names.


def test_every_handshake_message_has_its_tag() -> None:
    """The list of messages is the enumeration."""
    rows = TABLES["Tag | Message | From | At most"]
    assert {name: int(tag) for tag, name, *_ in rows} == {tag.name: tag.value for tag in Tag}


def test_every_reject_code_has_its_number_and_says_whether_it_carries_a_mac() -> None:
    """The list of codes is the enumeration."""
    rows = TABLES["Code | Name | MAC | Meaning | Sent in this version"]
    assert {name: (int(code), mac) for code, name, mac, *_ in rows} == {
        code.name: (code.value, "yes" if code.authenticated else "no") for code in RejectCode
    }


def test_the_codes_called_reserved_are_those_that_nothing_sends() -> None:
    """What the document says is sent stands in the code that sends, and what is reserved does not."""
    senders = [*(PACKAGE / "protocol").glob("*.py"), PACKAGE / "link" / "listener.py"]
    sending = "".join(path.read_text(encoding="utf-8") for path in senders)
    for _, name, _, _, sent in TABLES["Code | Name | MAC | Meaning | Sent in this version"]:
        uses = sending.count(f"RejectCode.{name}")
        assert (uses == 0) == (sent == "reserved"), name


def test_every_frame_tag_is_allocated_once() -> None:
    """The tags in use are the code's, and the range shared with Snow is whole and reserved."""
    rows = TABLES["Tag | Name | Body | "]
    own = sorted(tag.value for tag in FrameTag if 0x1F <= tag < 0xF0)
    assert [int(tag, 16) for tag, *_ in rows] == [*range(0x10, 0x1F), *own, 0xF0, 0xF1]
    assert all(0x40 <= tag < 0xF0 for tag in own)
    in_use = {name: int(tag, 16) for tag, name, _, state in rows if state == "in use"}
    assert in_use == {tag.name: tag.value for tag in FrameTag}
    assert all(state in ("in use", "reserved") for *_, state in rows)


def test_every_capability_has_its_bit() -> None:
    """The list of capabilities is the enumeration."""
    assert {name: 1 << int(bit) for bit, name, _ in TABLES["Bit | Name | Meaning"]} == {
        capability.name: capability.value for capability in Capability
    }


def test_every_farewell_has_its_number() -> None:
    """The list of farewells is the enumeration, and the bound on the reason is the code's."""
    assert {name: int(kind) for kind, name, _ in TABLES["Farewell | Name | Meaning"]} == {
        farewell.name: farewell.value for farewell in Farewell
    }
    assert f"UTF-8 of at most {MAX_REASON} bytes" in section("GOODBYE")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("Flow kind | Name | Meaning", mail.FlowKind),
        ("Mode | Name | Meaning", mail.Mode),
        ("Refusal | Name | Meaning", mail.Refusal),
        ("Fault | Name | Meaning", mail.FaultCode),
    ],
    ids=["flow-kinds", "modes", "refusals", "faults"],
)
def test_every_number_in_messages_and_calls_has_its_name(head: str, kind: Any) -> None:
    """Each list of numbers is the enumeration."""
    assert {name: int(value) for value, name, _ in TABLES[head]} == {item.name: item.value for item in kind}


def test_every_frame_of_the_capabilities_is_behind_its_bit() -> None:
    """The ranges that the table of capabilities names are exactly the frames between GOODBYE and PING."""
    ranges = {
        name: [int(tag, 16) for tag in re.findall(r"0x[0-9A-F]{2}", meaning)]
        for _, name, meaning in TABLES["Bit | Name | Meaning"]
    }
    assert ranges == {
        "GOODBYE": [FrameTag.GOODBYE],
        "MESSAGES": [FrameTag.OPEN, FrameTag.PART],
        "GROUPS": [FrameTag.JOIN, FrameTag.BROADCAST],
    }
    assert [tag.value for tag in FrameTag if 0x40 <= tag < 0xF0] == [*range(0x40, 0x4F)]


def test_the_fields_of_credit_and_call_are_the_codes() -> None:
    """What is explained field by field are fields of the values that are decoded."""
    explained = [field for field, _ in TABLES["Field | Meaning"]]
    assert explained == [field for field in mail.Credit._fields if field != "flow"]
    assert {field for field, _ in TABLES["Field of CALL | Meaning"]} < set(mail.Call._fields)


def test_the_bounds_on_messages_are_the_codes() -> None:
    """The figures in the text about messages, calls, fragments and lists are those of the code."""
    config = Config()
    for title, sentence in (
        ("Messages", f"1 to {mail.MAX_NAME} bytes of UTF-8 without control characters"),
        ("Messages", f"small messages (up to {lanes.SMALL // 1024} KiB"),
        ("Calls", f"The type is UTF-8 of at most {mail.MAX_FAULT_KIND} bytes"),
        ("Calls", f"the text UTF-8 of at most {mail.MAX_FAULT_TEXT:,} bytes"),
        ("Fragments", f"A frame above {lanes.FRAGMENT // 1024} KiB"),
        ("Fragments", f"at most {lanes.STREAMS} streams unfinished"),
        ("Groups", f"at most {mail.MAX_TOPICS:,} topics and are at most {mail.MAX_LIST_BYTES:,} bytes"),
        ("Peer lists", f"at most {mail.MAX_LISTED}, chosen at random"),
        ("Peer lists", f"A frame above {mail.MAX_LIST_BYTES:,} bytes"),
        ("Peer lists", f"more than {mail.MAX_LISTED} names, a name above {mail.MAX_NAME} bytes"),
        ("Peer lists", f"at most {config.limits.dials} at once (`Limits.dials`)"),
        ("Peer lists", f"at most {config.limits.known_peers:,} (`Limits.known_peers`)"),
        ("Registered sends", f"1 to {mail.MAX_NAME} bytes of UTF-8"),
    ):
        assert sentence in " ".join(section(title).split()), sentence
    assert mail.MAX_NAME == names.MAX_NAME_BYTES
    inner = sorted(FrameTag(tag).name for tag in fragments._INNER)
    assert inner == ["BROADCAST", "CALL", "MESSAGE", "RESULT"]
    assert "It must be a MESSAGE, CALL, RESULT or BROADCAST" in FLAT


@pytest.mark.parametrize("kind", [Limits, Config])
def test_every_setting_is_listed_with_its_default_and_range(kind: Any) -> None:
    """The table of settings has all of them, with the values and bounds that the code has, and no other."""
    listed = {
        name.removeprefix(f"{kind.__name__}."): (default, allowed)
        for name, default, allowed, _ in TABLES["Setting | Default | Allowed | Meaning"]
        if name.startswith(f"{kind.__name__}.")
    }
    fields = {item.name: item for item in dataclasses.fields(kind) if item.name != "limits"}
    assert set(listed) == set(fields)
    for name, (default, allowed) in listed.items():
        assert number(default) == getattr(kind(), name), name
        if "low" in (bounds := fields[name].metadata):
            low, high = re.findall(r"[\d.,]+", allowed)[:2]
            assert (number(low), number(high)) == (bounds["low"], bounds["high"]), name
            assert ("None" in allowed) == (fields[name].default is None), name


def test_the_trusted_profile_is_listed() -> None:
    """The document has what the profile changes, and nothing that it does not."""
    listed = {name: number(value) for name, value in TABLES["In Limits.trusted() | Value"]}
    standard, trusted = dataclasses.asdict(Limits()), dataclasses.asdict(Limits.trusted())
    assert listed == {name: value for name, value in trusted.items() if value != standard[name]}


def test_the_fixed_sizes_are_the_codes() -> None:
    """What no operator can change, in figures."""
    rows = {name: number(value.split()[0]) for name, value in TABLES["Fixed by the protocol | Value"]}
    assert rows == {
        "Handshake message": wire.MAX_HANDSHAKE,
        "Bound NAME or CHALLENGE": wire.MAX_BOUND_HELLO,
        "Node name": names.MAX_NAME_BYTES,
        "REJECT detail": messages.MAX_DETAIL,
        "Challenge, proof, MAC": messages.CHALLENGE_BYTES,
        "Frame": wire.MAX_FRAME,
    }
    assert messages.PROOF_BYTES == messages.CHALLENGE_BYTES


def test_the_figures_in_sentences_are_the_codes() -> None:
    """Settings and constants that the text mentions in passing have their present values there."""
    config, limits = Config(), Limits()
    for sentence in (
        f"After {config.heartbeat_interval:g} s of silence (`heartbeat_interval`)",
        f"another {config.heartbeat_timeout:g} s (`heartbeat_timeout`)",
        f"no progress for {limits.frame_timeout:g} s (`frame_timeout`)",
        f"more than {heart.STALL:g} s late",
        f"with {config.probe_timeout:g} s (`probe_timeout`) for its answer",
        f"`own` is COMMITTED for less than {config.commit_timeout:g} s",
        f"The {config.commit_timeout:g} s (`commit_timeout`) bound the harm",
        f"about {config.duplicate_wait:g} s (`duplicate_wait`",
        f"remembers {limits.remembered_peers:,} such peers",
        f"at most {wire.MAX_FRAME // 2**20} MiB (`max_frame`",
        f"for at most {converse._LINGER_SECONDS:g} s and {converse._LINGER_BYTES // 1024} KiB",
        f"from 1 to {table.MAX_NODE_ID:,}",
        f"{names.DEFAULT_PORT} where it is absent",
        f"at most {names.MAX_NAME_BYTES} bytes of ASCII",
        f"one above {cookie.MAX_LENGTH:,} bytes are refused",
        f"One below {cookie.MIN_LENGTH} bytes is refused",
        f"are {2 * cookie._RANDOM_BYTES} hex digits that carry {8 * cookie._RANDOM_BYTES} random bits",
        f"forgiven after {admission.FORGIVEN_AFTER:g} s",
        f"one every {1 / admission.SLOWEST:g} s",
        f"At most {admission.MAX_SOURCES:,} sources",
        f"the /{admission._IPV6_SITE} of an IPv6",
    ):
        assert sentence in FLAT, sentence
    assert config.commit_timeout == pairing.COMMIT_TIMEOUT


def test_the_constants_of_tls_are_the_codes() -> None:
    """SNI and ALPN are written as they are sent, and TLS 1.3 is the least."""
    assert f"SNI is the constant `{tls.SNI}`" in FLAT
    assert f"ALPN is `{tls.ALPN}`" in FLAT
    assert "TLS 1.3 or later" in FLAT
    assert tls.client_context().minimum_version.name == "TLSv1_3"


def test_the_marks_of_the_two_forms_are_the_codes() -> None:
    """EXT's magic, its version, and the mark against a removed offer."""
    assert f'EXT = "{messages._MAGIC.decode()}" ‖ u16 length of body ‖ body' in FLAT
    assert f"last {len(messages.DOWNGRADE_MARK)} bytes of its challenge" in FLAT
    assert f"`{messages.DOWNGRADE_MARK.decode()}`" in section("The classic form")
    assert f"0 | 1 | version, {messages.VERSION}" in FLAT
    assert (messages.BINDING_CERTIFICATE, messages.BINDING_EXPORTER) == (1, 2)
    assert "binding used: 1 certificate, 2 exporter" in FLAT


def test_the_rule_for_a_nodes_name_is_the_codes() -> None:
    """The pattern of the part before the @ is the one that is compiled."""
    assert f"`{names._NAME.pattern.removesuffix(chr(92) + 'Z')}`" in section("2. Names and incarnations")


def test_scrypt_and_the_labels_are_the_codes() -> None:
    """The parameters of scrypt, and every label that goes into a key or a MAC, are those of the code."""
    assert f"N = {keys.SCRYPT_N}, r = {keys.SCRYPT_R}, p = {keys.SCRYPT_P}, 32 bytes" in FLAT
    in_code = set(re.findall(r'b"(snowgreen/1 [^"]*)"', inspect.getsource(keys)))
    assert set(re.findall(r'"(snowgreen/1 [^"]*)"', section("Keys and proofs"))) == in_code
    assert len(in_code) == 9


@pytest.mark.parametrize(
    ("title", "body", "formula"),
    [("NAME", "22 bytes", messages._NAME_BODY), ("CHALLENGE", "14 bytes", messages._CHALLENGE_BODY)],
)
def test_the_byte_tables_add_up(title: str, body: str, formula: Any) -> None:
    """In each EXT body every field begins where the last one ended, and the sum is the code's."""
    text = section(title)
    assert f"body of its EXT, {body}" in text
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", text.partition("EXT, ")[2], re.MULTILINE)
    at = 0
    for offset, size in rows:
        assert int(offset) == at
        at += int(size)
    assert at == formula.size == int(body.split()[0])


def test_the_sizes_of_reply_and_ack_are_the_codes() -> None:
    """The two messages without a variable part are as long as the document says."""
    reply = messages.encode_reply(messages.Reply(bytes(32), bytes(32)))
    ack = messages.encode_ack(messages.Ack(bytes(32)))
    sizes = {name: size for _, name, _, size in TABLES["Tag | Message | From | At most"]}
    assert sizes["REPLY"] == f"exactly {len(reply)} bytes"
    assert sizes["ACK"] == f"exactly {len(ack)} bytes"


# Bytes.


def quoted(message: str) -> bytes:
    """The bytes of a message, put together from the table that takes it apart."""
    return bytes.fromhex("".join(row[0] for row in TABLES[f"Bytes of {message} | Field"]))


@pytest.mark.parametrize("message", ["NAME", "CHALLENGE"])
def test_the_worked_example_is_the_first_vector(message: str) -> None:
    """The fields, one behind the other, are the message as it crosses the wire."""
    assert quoted(message) == wire.pack(bytes.fromhex(VECTOR["bound"][message]))


def test_the_fields_of_the_worked_example_mean_what_they_say() -> None:
    """Decoding the quoted bytes gives the values that the text names."""
    name = messages.decode_name(quoted("NAME")[4:])
    challenge = messages.decode_challenge(quoted("CHALLENGE")[4:])
    assert name.ext is not None
    assert challenge.ext is not None
    assert f"`{name.name}` dials `{challenge.name}`" in FLAT
    assert f"`0x{name.ext.incarnation:016x}`" in FLAT
    assert f"`0x{challenge.ext.incarnation:016x}`" in FLAT
    assert (name.creation, name.ext.capabilities, name.ext.epoch, name.ext.attempt) == (1, 0, 1, 1)


def test_the_quoted_keys_and_proofs_are_what_the_code_computes() -> None:
    """From the cookie in the text to the last MAC, every value in the table comes out again."""
    text = re.search(r"The cookie is the text `([^`]*)`", FLAT)
    assert text
    secret = text[1].encode()
    derived = LinkKeys.derive(secret)
    transcript = keys.transcript_hash(
        quoted("NAME")[4:],
        quoted("CHALLENGE")[4:],
        bytes.fromhex(VECTOR["initiator"]["challenge"]),
        messages.BINDING_CERTIFICATE,
        bytes.fromhex(VECTOR["acceptor"]["certificate_hash"]),
        b"",
    )
    reply = derived.initiator_proof(transcript)
    computed = {
        "ikm": keys.prehash(secret),
        "K": derived.master,
        "Ki": derived.initiator,
        "Ka": derived.acceptor,
        "Kr": derived.reject,
        "TH": transcript,
        "REPLY proof": reply,
        "ACK proof": derived.acceptor_proof(transcript, reply),
        "REJECT MAC": derived.reject_mac(transcript, RejectCode.DUPLICATE, b""),
    }
    assert dict(TABLES["Value | Bytes"]) == {name: value.hex() for name, value in computed.items()}


def test_the_quoted_classic_proofs_are_the_first_vectors() -> None:
    """The proofs of the classic form are what its REPLY and ACK carry."""
    assert dict(TABLES["Classic value | Bytes"]) == {
        "REPLY proof": VECTOR["classic"]["REPLY"][2:66],
        "ACK proof": VECTOR["classic"]["ACK"][2:66],
    }


def test_the_quoted_reject_is_the_first_vectors() -> None:
    """The head of the REJECT and the MAC are the whole of it."""
    head = re.search(r"the whole REJECT is `([0-9a-f]+)` and the MAC", FLAT)
    assert head
    assert head[1] + dict(TABLES["Value | Bytes"])["REJECT MAC"] == VECTOR["bound"]["REJECT_DUPLICATE"]


# What refers to what.


def test_every_link_leads_somewhere() -> None:
    """Links inside the document meet a heading, and links to files a file."""
    links = re.findall(r"\]\(([^)]+)\)", DOCUMENT)
    assert len(links) > 20
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors(), link
        else:
            assert (ROOT / "docs" / link).exists(), link


def test_every_file_that_is_named_exists() -> None:
    """Paths in backquotes are paths of this repository."""
    paths = re.findall(r"`((?:snowgreen|tools|tests)/[\w./]+\.\w+)`", DOCUMENT)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_sections_that_the_code_cites_exist() -> None:
    """Where a module cites a section of the specification by number, there is one."""
    numbered = set(re.findall(r"^## (\d+)\. ", DOCUMENT, re.MULTILINE))
    cited = set()
    for path in PACKAGE.rglob("*.py"):
        cited |= set(re.findall(r"[Ss]pecification[^.\"]{0,20}section (\d+)", path.read_text("utf-8")))
    assert {"2", "3", "4", "5"} <= cited <= numbered


def test_the_explored_bounds_are_those_of_the_tests() -> None:
    """The table of bounds is what the test suite explores."""
    (mark,) = test_explore.test_production_keeps_every_invariant.pytestmark  # type: ignore[attr-defined]
    explored = [
        [bounds.get(name, 0) for name in ("dials", "restarts", "cuts", "expiries", "clock_back")]
        for bounds in mark.args[1]
    ]
    rows = TABLES["Dials | Restarts | Cuts | Outlasted 3 s | Clock may go back"]
    assert [[*map(int, row[:4]), row[4] == "yes"] for row in rows] == explored


def test_the_parts_of_the_rank_are_in_the_codes_order() -> None:
    """The rank is compared by the parts that the document lists, in its order."""
    parts = [part for part, _ in TABLES["Part | Why"]]
    assert parts == ["incarnation", "epoch", "smaller name", "attempt"]
    ranks = [
        pairing.Candidate(0, incarnation, epoch, smaller, attempt).rank
        for incarnation, epoch, smaller, attempt in (
            (1, 1, False, 9),
            (1, 1, True, 1),
            (1, 1, True, 2),
            (1, 2, False, 1),
            (2, 1, False, 1),
        )
    ]
    assert ranks == sorted(ranks)


def test_the_invariants_are_listed() -> None:
    """I1 to I5, which the explorer's docstring and its verdicts name, are all stated."""
    listed = re.findall(r"^\| (I\d) \|", section("The invariants"), re.MULTILINE)
    named = re.findall(r"^(I\d)  ", test_explore.explorer.__doc__ or "", re.MULTILINE)
    assert listed == named == ["I1", "I2", "I3", "I4", "I5"]
