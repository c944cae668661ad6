"""The two machines: known answers, every order of messages, every policy, and those who interfere."""

import functools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snowgreen.protocol import keys, messages
from snowgreen.protocol.handshake import (
    TRANSITIONS,
    Acceptor,
    Cause,
    Challenged,
    Continue,
    Established,
    Form,
    Identity,
    Initiator,
    Move,
    OutOfTurn,
    Proved,
    Refused,
    State,
)
from snowgreen.protocol.keys import LinkKeys
from snowgreen.protocol.messages import DOWNGRADE_MARK, Challenge, ChallengeExt, Reject, RejectCode, Tag
from tests.simulated_pair import (
    ACCEPTOR_CHALLENGE,
    ALICE,
    BOB,
    CERTIFICATE,
    CLASSIC_COOKIE,
    INITIATOR_CHALLENGE,
    KEYS,
    OTHER_KEYS,
    byte_by_byte,
    framed,
    in_pieces,
    make_acceptor,
    make_initiator,
    run_pair,
    unframed,
    whole,
)

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())["vectors"]
unhex = bytes.fromhex

every_vector = pytest.mark.parametrize("vector", VECTORS, ids=["alice-bob", "edge-values"])
every_cut = pytest.mark.parametrize(
    "chunks",
    [whole, byte_by_byte, in_pieces([7]), in_pieces([3, 0, 70, 1])],
    ids=["whole", "bytes", "7", "mixed"],
)
both_forms = pytest.mark.parametrize("form", list(Form))


def pair_for(form, *, initiator=None, acceptor=None):
    """An initiator and an acceptor that can do one form only, with further arguments for each."""
    policy = {"bound": (), "classic": CLASSIC_COOKIE} if form is Form.CLASSIC else {}
    return make_initiator(**{**policy, **(initiator or {})}), make_acceptor(**{**policy, **(acceptor or {})})


def rejection(code):
    """The stream of a REJECT without a proof, written out."""
    return framed(bytes([5, code, 0, 0]))


# Known answers


def machines_of(vector, form):
    """Both machines of a vector, classic-only ones for its classic form."""
    one, other = vector["initiator"], vector["acceptor"]
    bound = (LinkKeys(unhex(vector["bound"]["key"])),) if form is Form.BOUND else ()
    cookie = unhex(vector["cookie"]) if form is Form.CLASSIC else None
    identities = [
        Identity(side["name"], int(side["incarnation"], 16), side["creation"], side["capabilities"])
        for side in (one, other)
    ]
    initiator = make_initiator(
        identities[0],
        bound=bound,
        classic=cookie,
        expected=other["name"],
        challenge=unhex(one["challenge"]),
        acceptor_binding=unhex(other["certificate_hash"]),
        binding=unhex(one["certificate_hash"]),
        epoch=one["epoch"],
        attempt=one["attempt"],
    )
    acceptor = make_acceptor(
        identities[1],
        bound=bound,
        classic=cookie,
        challenge=unhex(other["challenge"]),
        binding=unhex(other["certificate_hash"]),
        initiator_binding=unhex(one["certificate_hash"]),
    )
    return initiator, acceptor


@every_vector
@both_forms
@every_cut
def test_the_machines_say_the_known_answers(vector, form, chunks):
    """Through whole handshakes both sides send exactly the vector's bytes and agree on who is who."""
    outcome = run_pair(*machines_of(vector, form), chunks=chunks)
    known = {kind: unhex(payload) for kind, payload in vector[form].items() if kind.isupper()}
    assert outcome.initiator.sent == [known["NAME"], known["REPLY"]]
    assert outcome.acceptor.sent == [known["CHALLENGE"], known["ACK"]]
    outcome.check_agreement(form)


@every_vector
def test_a_declining_acceptor_says_the_known_reject(vector):
    """REJECT(DUPLICATE) goes out byte for byte, and the initiator believes it."""
    outcome = run_pair(
        *machines_of(vector, Form.BOUND),
        on_proved=lambda machine: machine.reject(RejectCode.DUPLICATE, "have one"),
    )
    assert outcome.acceptor.sent[-1] == unhex(vector["bound"]["REJECT_DUPLICATE"])
    assert outcome.initiator.refused().cause is Cause.DECLINED


# However the stream is cut


@both_forms
@given(pieces=st.lists(st.integers(0, 90), min_size=1, max_size=6).filter(any))
@settings(max_examples=40, deadline=None)
def test_any_cut_ends_in_a_link(form, pieces):
    """How the network cuts the stream changes nothing about what both sides see."""
    run_pair(*pair_for(form), chunks=in_pieces(pieces)).check_agreement(form)


@both_forms
@every_cut
@pytest.mark.parametrize("behind", [Tag.ACK, Tag.REPLY])
def test_early_data_is_kept(form, chunks, behind):
    """Frames right behind the last message come out of Established.decoder, whole, cut and large ones."""
    frames = [b"\xf0" + b"ping 123", b"", b"x" * 6000, b"last"]
    outcome = run_pair(*pair_for(form), chunks=chunks, trailing={behind: b"".join(map(framed, frames))})
    outcome.check_agreement(form)
    late, early = outcome.initiator, outcome.acceptor
    if behind is Tag.ACK:
        late, early = early, late
    assert early.early == frames
    assert late.early == []


@every_cut
def test_half_a_frame_behind_the_ack_is_continued(chunks):
    """A frame whose beginning came with the ACK is completed by what the session reads."""
    frame = framed(b"in two halves")
    outcome = run_pair(*pair_for(Form.BOUND), chunks=chunks, trailing={Tag.ACK: frame[:6]})
    assert outcome.initiator.early == []
    assert outcome.initiator.result.decoder.mid_message
    assert outcome.initiator.result.decoder.feed(frame[6:]) == [b"in two halves"]


@both_forms
@every_cut
def test_a_message_too_many_behind_the_challenge_is_refused(form, chunks):
    """An ACK that comes before the REPLY can have been read proves nothing and ends the handshake."""
    outcome = run_pair(*pair_for(form), chunks=chunks, trailing={Tag.CHALLENGE: framed(b"\x04" + b"p" * 32)})
    assert outcome.initiator.refused().cause in (Cause.AUTHENTICATION, Cause.MALFORMED)


def test_what_was_due_is_sent_before_a_refusal():
    """Where a good message and a bad one arrive together, the answer to the first goes out, then the REJECT."""
    acceptor = make_acceptor()
    step = acceptor.feed(make_initiator().start().send + framed(b"bad"))
    assert [payload[0] for payload in unframed(step.send)] == [Tag.CHALLENGE, Tag.REJECT]
    initiator = make_initiator()
    initiator.start()
    stop = initiator.feed(framed(genuine()[Tag.CHALLENGE]) + framed(b"bad"))
    assert isinstance(stop, Challenged)
    step = initiator.prove()
    assert isinstance(step, Refused)
    assert [payload[0] for payload in unframed(step.send)] == [Tag.REPLY, Tag.REJECT]


# The order of messages


def genuine(form=Form.BOUND):
    """One genuine payload of each kind, from a handshake that came about."""
    outcome = run_pair(*pair_for(form))
    payloads = {Tag(payload[0]): payload for payload in outcome.initiator.sent + outcome.acceptor.sent}
    return {**payloads, Tag.REJECT: bytes([5, RejectCode.BUSY, 0, 0])}


def machine_in(state, role, form=Form.BOUND):
    """A machine of the given role that has come to `state`, with genuine messages throughout."""
    initiator, acceptor = pair_for(form)
    known = genuine(form)
    if role == "initiator":
        steps = {
            State.AWAIT_CHALLENGE: initiator.start,
            State.CHALLENGED: lambda: initiator.feed(framed(known[Tag.CHALLENGE])),
            State.AWAIT_ACK: initiator.prove,
            State.ESTABLISHED: lambda: initiator.feed(framed(known[Tag.ACK])),
            State.REFUSED: None,
        }
        machine = initiator
    else:
        steps = {
            State.AWAIT_REPLY: lambda: acceptor.feed(framed(known[Tag.NAME])),
            State.PROVED: lambda: acceptor.feed(framed(known[Tag.REPLY])),
            State.ESTABLISHED: acceptor.accept,
            State.REFUSED: None,
        }
        machine = acceptor
    if state is State.REFUSED:
        machine.end_of_stream()
    else:
        for _, step in zip(range(len(steps)), steps.items(), strict=False):
            if machine.state is state:
                break
            step[1]()
    assert machine.state is state
    return machine


#: What may arrive where, written down apart from the table under test.
ALLOWED = {
    ("initiator", State.START): {},
    ("initiator", State.AWAIT_CHALLENGE): {Tag.CHALLENGE: State.CHALLENGED, Tag.REJECT: State.REFUSED},
    ("initiator", State.CHALLENGED): {},
    ("initiator", State.AWAIT_ACK): {Tag.ACK: State.ESTABLISHED, Tag.REJECT: State.REFUSED},
    ("acceptor", State.AWAIT_NAME): {Tag.NAME: State.AWAIT_REPLY},
    ("acceptor", State.AWAIT_REPLY): {Tag.REPLY: State.PROVED, Tag.REJECT: State.REFUSED},
    ("acceptor", State.PROVED): {},
}
#: What its owner may do where.
MOVES = {
    ("initiator", State.START): {"start": State.AWAIT_CHALLENGE},
    ("initiator", State.CHALLENGED): {"prove": State.AWAIT_ACK, "withdraw": State.REFUSED},
    ("acceptor", State.PROVED): {"accept": State.ESTABLISHED, "reject": State.REFUSED},
}
CALLS = {
    "start": lambda machine: machine.start(),
    "prove": lambda machine: machine.prove(),
    "withdraw": lambda machine: machine.withdraw("why"),
    "accept": lambda machine: machine.accept(),
    "reject": lambda machine: machine.reject(RejectCode.DUPLICATE, "why"),
}
FINAL = {State.ESTABLISHED, State.REFUSED}
every_place = pytest.mark.parametrize(
    ("role", "state"), ALLOWED, ids=lambda value: getattr(value, "name", value)
)


@both_forms
@every_place
@pytest.mark.parametrize("tag", list(Tag))
def test_every_message_in_every_state(role, state, tag, form):
    """A genuine message where it belongs moves the machine on; anywhere else it is refused as malformed."""
    machine = machine_in(state, role, form)
    step = machine.feed(framed(genuine(form)[tag]))
    if tag in ALLOWED[role, state]:
        assert machine.state is ALLOWED[role, state][tag]
        assert RejectCode.MALFORMED not in [p[1] for p in unframed(step.send) if p[0] == Tag.REJECT]
    else:
        assert step == Refused(
            Cause.MALFORMED,
            f"{tag.name} is out of order while {state.value}",
            rejection(RejectCode.MALFORMED),
            RejectCode.MALFORMED,
        )
        assert machine.state is State.REFUSED


@every_place
@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x06", b"\xf0PINGPING"])
def test_what_is_no_message_is_refused_in_every_state(role, state, payload):
    """An empty message, an unknown kind and a frame are malformed before the link is there."""
    machine = machine_in(state, role)
    step = machine.feed(framed(payload))
    assert isinstance(step, Refused)
    assert (step.cause, step.send) == (Cause.MALFORMED, rejection(RejectCode.MALFORMED))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("role", "state"),
    [*ALLOWED, *((role, state) for role in TRANSITIONS for state in FINAL)],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_call_in_every_state(role, state, call):
    """An owner's call goes where its state allows it, and elsewhere raises OutOfTurn and changes nothing."""
    machine = machine_in(state, role)
    if not hasattr(machine, call):
        assert call in ({"accept", "reject"} if role == "initiator" else {"start", "prove", "withdraw"})
        return
    allowed = MOVES.get((role, state), {})
    if call in allowed:
        CALLS[call](machine)
        assert machine.state is allowed[call]
    else:
        with pytest.raises(OutOfTurn, match=state.value):
            CALLS[call](machine)
        assert machine.state is state


@pytest.mark.parametrize("role", list(TRANSITIONS))
@pytest.mark.parametrize("state", sorted(FINAL, key=str))
def test_a_finished_machine_takes_no_more_data(role, state):
    """After the end data belongs to the session or to nobody, and feeding it here is a bug."""
    machine = machine_in(state, role)
    assert machine.finished
    for data in (b"", framed(genuine()[Tag.REJECT])):
        with pytest.raises(OutOfTurn, match="takes no more data"):
            machine.feed(data)
    assert machine.state is state


@both_forms
@every_place
def test_the_end_of_the_stream_ends_every_state(role, state, form):
    """Whoever is left alone refuses, sends nothing, and says where it was."""
    machine = machine_in(state, role, form)
    refused = machine.end_of_stream()
    assert (refused.cause, refused.send, refused.code) == (Cause.CLOSED, b"", None)
    assert f"while {state.value}" in refused.problem
    assert machine.state is State.REFUSED


@every_place
def test_a_stream_that_ends_inside_a_message_says_so(role, state):
    """A cut message is told from a peer that left between messages."""
    machine = machine_in(state, role)
    assert machine.feed(b"\x20\x00\x00\x00half") == Continue(b"")
    assert "in the middle of a message" in machine.end_of_stream().problem


def test_a_machine_says_its_state_and_no_secret():
    """The repr serves a log line."""
    assert repr(machine_in(State.AWAIT_ACK, "initiator")) == "<Initiator awaiting ACK>"
    assert repr(machine_in(State.AWAIT_REPLY, "acceptor", Form.CLASSIC)) == "<Acceptor awaiting REPLY>"
    assert not machine_in(State.PROVED, "acceptor").finished


# The table


def test_the_table_is_what_is_allowed():
    """TRANSITIONS and the expectation above agree, edge by edge, messages and moves."""
    moves = {
        "start": Move.SEND_NAME,
        "prove": Move.SEND_REPLY,
        "withdraw": Move.WITHDRAW,
        "accept": Move.SEND_ACK,
        "reject": Move.SEND_REJECT,
    }
    expected = {role: {} for role in TRANSITIONS}
    for (role, state), edges in ALLOWED.items():
        expected[role] |= {(state, tag): target for tag, target in edges.items()}
    for (role, state), edges in MOVES.items():
        expected[role] |= {(state, moves[call]): target for call, target in edges.items()}
    assert expected == TRANSITIONS


@pytest.mark.parametrize(("role", "first"), [("initiator", State.START), ("acceptor", State.AWAIT_NAME)])
def test_the_table_is_total(role, first):
    """Every state of a role is reachable, every other than the two last has a way to both of them."""
    edges = {}
    for (state, _), target in TRANSITIONS[role].items():
        edges.setdefault(state, set()).add(target)

    def reachable(state):
        seen, todo = set(), [state]
        while todo:
            for target in edges.get(todo.pop(), set()) - seen:
                seen.add(target)
                todo.append(target)
        return seen

    states = {state for key_role, state in ALLOWED if key_role == role}
    assert reachable(first) | {first} == states | FINAL
    for state in states:
        assert reachable(state) >= FINAL, f"{state} cannot come to an end"
    assert not FINAL & set(edges), "a finished machine stays finished"


def test_the_table_uses_every_state_message_and_move():
    """Nothing is declared that never happens."""
    used = [event for table in TRANSITIONS.values() for _, event in table]
    assert set(used) == {*Tag, *Move}
    assert {state for table in TRANSITIONS.values() for state, _ in table} | FINAL == set(State)


# Who may link with whom


@both_forms
def test_a_wrong_cookie_is_told_on_both_sides(form):
    """The acceptor sees the wrong proof and says so; the initiator learns why it was left."""
    wrong = {"bound": (OTHER_KEYS,)} if form is Form.BOUND else {"classic": b"another classic cookie"}
    outcome = run_pair(*pair_for(form, initiator=wrong))
    assert outcome.acceptor.refused().cause is Cause.AUTHENTICATION
    assert outcome.acceptor.refused().send == rejection(RejectCode.AUTH_FAILED)
    assert outcome.initiator.refused().cause is Cause.AUTHENTICATION
    assert [Tag(payload[0]) for payload in outcome.acceptor.sent] == [Tag.CHALLENGE, Tag.REJECT]


@both_forms
@pytest.mark.parametrize("proof", [bytes(32), b"\xff" * 32])
def test_an_acceptor_without_the_cookie_is_found_out(form, proof):
    """Who accepts any REPLY still cannot answer with an ACK that the initiator believes."""
    initiator = machine_in(State.AWAIT_ACK, "initiator", form)
    refused = initiator.feed(framed(b"\x04" + proof))
    assert (refused.cause, refused.send) == (Cause.AUTHENTICATION, b"")


@both_forms
def test_another_name_than_the_dialed_one_is_refused_before_any_proof(form):
    """The initiator leaves without a word; the acceptor cannot tell and gets no proof."""
    outcome = run_pair(*pair_for(form, initiator={"expected": "carol@127.0.0.1:9003"}))
    assert outcome.initiator.refused().cause is Cause.MISMATCH
    assert BOB.name in outcome.initiator.refused().problem
    assert outcome.initiator.refused().send == b""
    assert outcome.acceptor.refused().cause is Cause.CLOSED
    assert len(outcome.initiator.sent) == 1


@both_forms
@pytest.mark.parametrize("expected", [BOB.name.upper(), BOB.name + "0", "bob@127.0.0.1", ""])
def test_names_are_compared_as_bytes(form, expected):
    """Neither case nor a missing port nor a prefix makes two names one."""
    outcome = run_pair(*pair_for(form, initiator={"expected": expected}))
    assert outcome.initiator.refused().cause is Cause.MISMATCH


@both_forms
def test_whoever_dialed_an_address_takes_any_name(form):
    """Without an expected name the acceptor's own is taken, once it is proved."""
    run_pair(*pair_for(form, initiator={"expected": None})).check_agreement(form)


@both_forms
@pytest.mark.parametrize("expected", [None, ALICE.name])
def test_oneself_is_refused_before_any_proof(form, expected):
    """A node that dialed itself, by address or by name, is told so."""
    outcome = run_pair(*pair_for(form, initiator={"expected": expected}, acceptor={"identity": ALICE}))
    assert outcome.initiator.refused().cause is Cause.SELF
    assert len(outcome.initiator.sent) == 1


def test_a_withdrawn_dial_proves_nothing():
    """An owner that does not want the link sends nothing more; the acceptor sees the connection close."""
    outcome = run_pair(*pair_for(Form.BOUND), on_challenged=lambda machine: machine.withdraw("have a link"))
    assert outcome.initiator.refused() == Refused(Cause.WITHDRAWN, "have a link")
    assert outcome.acceptor.refused().cause is Cause.CLOSED
    assert len(outcome.initiator.sent) == 1


@both_forms
def test_the_stops_carry_what_was_claimed(form):
    """At its stop each owner sees the peer as Established will give it, before it has to decide."""
    outcome = run_pair(*pair_for(form))
    challenged = next(step for step in outcome.initiator.steps if isinstance(step, Challenged))
    proved = next(step for step in outcome.acceptor.steps if isinstance(step, Proved))
    assert challenged.peer == outcome.initiator.result.peer
    assert proved.peer == outcome.acceptor.result.peer
    assert (challenged.send, proved.send) == (b"", b"")


# Policies

POLICIES = {
    "bound": {"bound": (KEYS,), "classic": None},
    "both": {"bound": (KEYS,), "classic": CLASSIC_COOKIE},
    "classic": {"bound": (), "classic": CLASSIC_COOKIE},
}
#: (initiator, acceptor) → the form that comes about, None where the two cannot agree.
AGREED = {
    ("bound", "bound"): Form.BOUND,
    ("bound", "both"): Form.BOUND,
    ("bound", "classic"): None,
    ("both", "bound"): Form.BOUND,
    ("both", "both"): Form.BOUND,
    ("both", "classic"): Form.CLASSIC,
    ("classic", "bound"): None,
    ("classic", "both"): Form.CLASSIC,
    ("classic", "classic"): Form.CLASSIC,
}


def stripped(tag, payload):
    """Somebody between the two who takes the extension off NAME."""
    if tag is Tag.NAME:
        return messages.encode_name(messages.decode_name(payload)._replace(ext=None))
    return payload


def proofs_sent(side):
    """The REPLYs that a side let out."""
    return [payload for payload in side.sent if payload[0] == Tag.REPLY]


@pytest.mark.parametrize(("one", "other"), AGREED)
@every_cut
def test_policies_meet(one, other, chunks):
    """The best form both allow comes about; where there is none both name the policy, before any proof."""
    outcome = run_pair(make_initiator(**POLICIES[one]), make_acceptor(**POLICIES[other]), chunks=chunks)
    form = AGREED[one, other]
    if form is not None:
        outcome.check_agreement(form)
        assert (
            outcome.acceptor.result.key_index
            == outcome.initiator.result.key_index
            == (0 if form is Form.BOUND else None)
        )
    else:
        assert outcome.initiator.refused().cause is outcome.acceptor.refused().cause is Cause.POLICY
        assert {outcome.initiator.result.code, outcome.acceptor.result.code} == {RejectCode.BOUND_REQUIRED}
        assert proofs_sent(outcome.initiator) == []


@pytest.mark.parametrize("one", ["bound", "both"])
@pytest.mark.parametrize("other", ["bound", "both"])
def test_a_stripped_extension_never_downgrades_who_can_do_better(one, other):
    """Between two nodes that both can do the bound form, taking the offer away gives no link and no proof."""
    outcome = run_pair(make_initiator(**POLICIES[one]), make_acceptor(**POLICIES[other]), tamper=stripped)
    assert outcome.initiator.refused().cause is Cause.POLICY
    assert outcome.acceptor.refused().cause is Cause.POLICY
    assert proofs_sent(outcome.initiator) == []


def test_the_mark_is_what_gives_the_stripping_away():
    """An acceptor that could have done better says so in its last 8 challenge bytes, and only then."""
    for policy, initiator, marked in (
        ("both", "classic", True),
        ("classic", "both", False),
        ("both", "both", False),
    ):
        outcome = run_pair(make_initiator(**POLICIES[initiator]), make_acceptor(**POLICIES[policy]))
        challenge = messages.decode_challenge(outcome.acceptor.sent[0]).challenge
        assert challenge[:24] == ACCEPTOR_CHALLENGE[:24]
        assert challenge[24:] == (DOWNGRADE_MARK if marked else ACCEPTOR_CHALLENGE[24:])
    outcome = run_pair(make_initiator(**POLICIES["both"]), make_acceptor(**POLICIES["both"]), tamper=stripped)
    assert messages.decode_challenge(outcome.acceptor.sent[0]).challenge.endswith(DOWNGRADE_MARK)
    assert "something between us removed it" in outcome.initiator.refused().problem


def test_the_mark_cannot_be_removed_unnoticed():
    """Who strips the offer and then the mark breaks the proof, which covers the whole challenge."""

    def remove_both(tag, payload):
        if tag is Tag.CHALLENGE:
            message = messages.decode_challenge(payload)
            return messages.encode_challenge(message._replace(challenge=message.challenge[:24] + b"unmarked"))
        return stripped(tag, payload)

    outcome = run_pair(
        make_initiator(**POLICIES["both"]), make_acceptor(**POLICIES["both"]), tamper=remove_both
    )
    assert outcome.acceptor.refused().cause is Cause.AUTHENTICATION
    assert not outcome.initiator.established


@pytest.mark.parametrize("initiator", ["bound", "both"])
def test_an_extension_stripped_from_the_challenge_gives_no_link(initiator):
    """An acceptor in the bound form does not take the classic proof that a stripped CHALLENGE would bring."""

    def strip_challenge(tag, payload):
        if tag is Tag.CHALLENGE:
            return messages.encode_challenge(messages.decode_challenge(payload)._replace(ext=None))
        return payload

    outcome = run_pair(
        make_initiator(**POLICIES[initiator]), make_acceptor(**POLICIES["both"]), tamper=strip_challenge
    )
    assert not outcome.initiator.established
    assert not outcome.acceptor.established


def test_an_extension_put_into_a_classic_challenge_is_malformed():
    """Who did not offer the bound form does not go along with it."""
    initiator = make_initiator(**POLICIES["classic"])
    initiator.start()
    payload = messages.encode_challenge(Challenge(BOB.name, 1, b"c" * 32, ChallengeExt(1, 0, 1)))
    assert initiator.feed(framed(payload)).cause is Cause.MALFORMED


def test_the_classic_cookie_is_asked_for_by_claimed_name_and_only_in_that_form():
    """The lookup sees the claimed name once, and in the bound form it is not made at all."""
    for policy, expected in (("classic", [ALICE.name]), ("both", [])):
        asked = []

        def classic(name, asked=asked):
            asked.append(name)
            return CLASSIC_COOKIE

        acceptor = Acceptor(BOB, (KEYS,), classic=classic, challenge=ACCEPTOR_CHALLENGE, binding=CERTIFICATE)
        assert run_pair(make_initiator(**POLICIES[policy]), acceptor).linked
        assert asked == expected


def test_who_claims_what_changes_nothing_before_the_proof():
    """Every claimed name, the acceptor's own included, gets the same CHALLENGE."""
    answers = set()
    for name in (ALICE.name, "mallory@evil:1", BOB.name):
        acceptor = make_acceptor()
        step = acceptor.feed(make_initiator(Identity(name, 5)).start().send)
        answers.add(step.send)
        assert acceptor.claimed == name
        assert acceptor.state is State.AWAIT_REPLY
    assert len(answers) == 1


# Versions, bindings and sizes


def bound_name(**changes):
    """A bound NAME payload with fields of its extension changed."""
    message = messages.decode_name(unframed(make_initiator().start().send)[0])
    return messages.encode_name(message._replace(ext=message.ext._replace(**changes)))


def with_version(payload, version):
    """A bound hello that says another version."""
    at = payload.rindex(b"SGX1") + 6
    return payload[:at] + bytes([version]) + payload[at + 1 :]


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_answered_as_such(version):
    """Both sides tell a peer of another version which of the two problems it has."""
    step = make_acceptor().feed(framed(with_version(bound_name(), version)))
    assert (step.send, step.code) == (rejection(RejectCode.VERSION), RejectCode.VERSION)
    initiator = make_initiator()
    initiator.start()
    step = initiator.feed(framed(with_version(genuine()[Tag.CHALLENGE], version)))
    assert (step.send, step.code) == (rejection(RejectCode.VERSION), RejectCode.VERSION)


@pytest.mark.parametrize(
    ("bindings", "works"), [(0, False), (1, True), (2, False), (3, True), (0xFE, False), (0xFF, True)]
)
def test_only_the_certificate_binds(bindings, works):
    """An offer without the one binding this side has is refused; others offered beside it do no harm."""
    step = make_acceptor().feed(framed(bound_name(bindings=bindings)))
    if works:
        assert messages.decode_challenge(unframed(step.send)[0]).ext.binding == 1
    else:
        assert (step.cause, step.send) == (Cause.MALFORMED, rejection(RejectCode.VERSION))


@pytest.mark.parametrize("binding", [0, 2, 3, 255])
def test_a_binding_that_was_not_offered_is_malformed(binding):
    """The initiator proves nothing over a binding it did not offer."""
    initiator = make_initiator()
    initiator.start()
    message = messages.decode_challenge(genuine()[Tag.CHALLENGE])
    step = initiator.feed(
        framed(messages.encode_challenge(message._replace(ext=message.ext._replace(binding=binding))))
    )
    assert (step.cause, step.send) == (Cause.MALFORMED, rejection(RejectCode.MALFORMED))


def test_an_unknown_tail_is_ignored_and_authenticated():
    """A later version's longer hello links with this one, and what its tail says is under the proof."""

    def append(payload):
        at = payload.rindex(b"SGX1") + 4
        body = payload[at + 2 :] + b"from a later version"
        return payload[:at] + len(body).to_bytes(2, "little") + body

    class Later(Initiator):
        def start(self):
            super().start()
            self._name_payload = append(self._name_payload)
            return Continue(framed(self._name_payload))

    def later():
        machine = make_initiator()
        machine.__class__ = Later
        return machine

    run_pair(later(), make_acceptor()).check_agreement()

    def spoil(tag, payload):
        return payload.replace(b"later version", b"LATER version")

    assert run_pair(later(), make_acceptor(), tamper=spoil).acceptor.refused().cause is Cause.AUTHENTICATION


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (make_acceptor, 512),
        (lambda: make_acceptor(classic=CLASSIC_COOKIE), 4096),
        (lambda: machine_in(State.AWAIT_CHALLENGE, "initiator"), 4096),
    ],
    ids=["bound acceptor", "classic acceptor", "initiator"],
)
def test_a_message_too_long_is_refused_at_its_length(make, limit):
    """The four bytes of a length are enough; one byte less is waited for."""
    assert make().feed(limit.to_bytes(4, "little")) == Continue(b"")
    for announced in (limit + 1, 2**32 - 1):
        refused = make().feed(announced.to_bytes(4, "little"))
        assert (refused.cause, refused.send) == (Cause.MALFORMED, rejection(RejectCode.MALFORMED))
        assert "too long" in refused.problem


# Those who interfere


def changes_of(tag, at, mask):
    """A tamper hook that flips bits of one byte of one message."""

    def tamper(found, payload):
        if found is not tag:
            return payload
        return payload[:at] + bytes([payload[at] ^ mask]) + payload[at + 1 :]

    return tamper


def check_tampered(tag, at, mask, **policy):
    """One changed byte never leaves both sides with a link, and before the ACK leaves neither with one."""
    outcome = run_pair(make_initiator(**policy), make_acceptor(**policy), tamper=changes_of(tag, at, mask))
    assert not outcome.initiator.established
    if tag is not Tag.ACK:
        assert not outcome.acceptor.established


@pytest.mark.parametrize("tag", [Tag.NAME, Tag.CHALLENGE, Tag.REPLY, Tag.ACK])
def test_every_single_changed_byte_breaks_the_handshake(tag):
    """At every position of every message of the bound form, three ways of changing a byte give no link."""
    for at in range(len(genuine()[tag])):
        for mask in (0x01, 0x80, 0xFF):
            check_tampered(tag, at, mask)


@given(
    data=st.data(),
    tag=st.sampled_from([Tag.NAME, Tag.CHALLENGE, Tag.REPLY, Tag.ACK]),
    mask=st.integers(1, 255),
)
@settings(max_examples=150, deadline=None)
def test_any_changed_byte_breaks_it_where_both_forms_are_allowed(data, tag, mask):
    """For any change of any byte: no link either where falling back to the classic form is allowed."""
    at = data.draw(st.integers(0, len(genuine()[tag]) - 1))
    check_tampered(tag, at, mask, bound=(KEYS,), classic=CLASSIC_COOKIE)


@pytest.mark.parametrize("tag", [Tag.NAME, Tag.CHALLENGE, Tag.REPLY, Tag.ACK])
@both_forms
def test_a_lost_message_leaves_no_link_behind(tag, form):
    """Where a message is taken out and the connection then ends, the side that waited refuses."""
    outcome = run_pair(*pair_for(form), tamper=lambda found, payload: None if found is tag else payload)
    assert not outcome.linked
    assert not outcome.initiator.established


def test_a_man_in_the_middle_with_his_own_certificate_gets_no_link():
    """Relaying every message between two TLS connections fails, for each side saw another certificate."""
    outcome = run_pair(make_initiator(acceptor_binding=b"M" * 32), make_acceptor())
    assert outcome.acceptor.refused().cause is Cause.AUTHENTICATION
    assert outcome.initiator.refused().cause is Cause.AUTHENTICATION
    assert "something between them ends the TLS connection" in outcome.initiator.refused().problem


def test_a_man_in_the_middle_of_mutual_tls_gets_no_link_either():
    """With client certificates the initiator's one is bound too, in either direction of the difference."""
    run_pair(make_initiator(binding=b"I" * 32), make_acceptor(initiator_binding=b"I" * 32)).check_agreement()
    for saw in (b"M" * 32, b""):
        outcome = run_pair(make_initiator(binding=b"I" * 32), make_acceptor(initiator_binding=saw))
        assert outcome.acceptor.refused().cause is Cause.AUTHENTICATION


def test_in_the_classic_form_a_man_in_the_middle_succeeds():
    """Why the classic form is off by default: the certificate that each side saw plays no part in it."""
    pair = pair_for(Form.CLASSIC, initiator={"acceptor_binding": b"M" * 32})
    run_pair(*pair).check_agreement(Form.CLASSIC)


def relay_to(form, *, claim):
    """Mallory, without the cookie, lets the dialing victim answer the challenge of an acceptor.

    The victim dials Mallory by address. Returns the step of the acceptor at Mallory's REPLY.
    """
    victim, acceptor = pair_for(form, initiator={"expected": None, "acceptor_binding": b"M" * 32})
    victims_name = unframed(victim.start().send)[0]
    message = messages.decode_name(victims_name)
    name = messages.encode_name(message._replace(name=claim)) if claim else victims_name
    challenge = unframed(acceptor.feed(framed(name)).send)[0]
    assert isinstance(victim.feed(framed(challenge)), Challenged)
    (reply,) = unframed(victim.prove().send)
    return acceptor.feed(framed(reply))


@pytest.mark.parametrize("claim", [None, "mallory@evil:1"])
def test_an_initiator_is_no_oracle_in_the_bound_form(claim):
    """A REPLY is worth nothing on another connection, under the victim's name or any other."""
    step = relay_to(Form.BOUND, claim=claim)
    assert isinstance(step, Refused)
    assert step.cause is Cause.AUTHENTICATION


@pytest.mark.parametrize("claim", [None, "mallory@evil:1"])
def test_an_initiator_is_an_oracle_in_the_classic_form(claim):
    """Why it has to be allowed per peer: whoever is dialed can have any challenge answered."""
    step = relay_to(Form.CLASSIC, claim=claim)
    assert isinstance(step, Proved)
    assert step.peer.name == (claim or ALICE.name)


def reflect_to(form):
    """Mallory, dialed twice, gives the first dial's challenge to the second, and its answer as the ACK."""
    challenges = [b"1" * 32, b"2" * 32]
    first, second = (pair_for(form, initiator={"expected": None, "challenge": own})[0] for own in challenges)
    theirs = genuine(form)[Tag.CHALLENGE]
    message = messages.decode_challenge(theirs)
    first.start()
    second.start()
    first.feed(framed(theirs))
    reply = messages.decode_reply(unframed(first.prove().send)[0])
    second.feed(framed(messages.encode_challenge(message._replace(challenge=reply.challenge))))
    answer = messages.decode_reply(unframed(second.prove().send)[0])
    return first.feed(framed(b"\x04" + answer.proof))


def test_a_reflected_challenge_proves_nothing_in_the_bound_form():
    """What a node says of its own challenge in one session is no ACK in another."""
    step = reflect_to(Form.BOUND)
    assert isinstance(step, Refused)
    assert step.cause is Cause.AUTHENTICATION


def test_a_reflected_challenge_is_an_ack_in_the_classic_form():
    """There a node that dials somebody twice can be made to prove the cookie to itself."""
    assert isinstance(reflect_to(Form.CLASSIC), Established)


@both_forms
def test_an_echoed_reply_is_no_ack(form):
    """Sending an initiator's proof back to it proves nothing, in either form."""
    initiator = machine_in(State.AWAIT_ACK, "initiator", form)
    proof = messages.decode_reply(genuine(form)[Tag.REPLY]).proof
    assert initiator.feed(framed(b"\x04" + proof)).cause is Cause.AUTHENTICATION


def test_equal_challenges_do_not_make_proofs_equal():
    """An acceptor that is sent its own challenge back answers with a proof unlike the initiator's."""
    outcome = run_pair(*pair_for(Form.BOUND, initiator={"challenge": ACCEPTOR_CHALLENGE}))
    outcome.check_agreement()
    assert outcome.initiator.sent[1][1:33] != outcome.acceptor.sent[1][1:33]


def test_a_replayed_session_proves_nothing():
    """Old messages against a fresh challenge are refused on both sides."""
    old = genuine()
    acceptor = make_acceptor(challenge=b"fresh" + bytes(27))
    acceptor.feed(framed(old[Tag.NAME]))
    assert acceptor.feed(framed(old[Tag.REPLY])).cause is Cause.AUTHENTICATION
    initiator = make_initiator(challenge=b"fresh" + bytes(27))
    initiator.start()
    initiator.feed(framed(old[Tag.CHALLENGE]))
    initiator.prove()
    assert initiator.feed(framed(old[Tag.ACK])).cause is Cause.AUTHENTICATION


# REJECT

HINTED = {
    RejectCode.MALFORMED: Cause.MALFORMED,
    RejectCode.VERSION: Cause.MALFORMED,
    RejectCode.BOUND_REQUIRED: Cause.POLICY,
    RejectCode.BUSY: Cause.BUSY,
    RejectCode.AUTH_FAILED: Cause.AUTHENTICATION,
}
PROVED_CODES = [code for code in RejectCode if code >= 16]
TAKES_REJECT = [
    ("initiator", State.AWAIT_CHALLENGE),
    ("initiator", State.AWAIT_ACK),
    ("acceptor", State.AWAIT_REPLY),
]
where_reject = pytest.mark.parametrize(
    ("role", "state"), TAKES_REJECT, ids=lambda value: getattr(value, "name", value)
)


@where_reject
@both_forms
@pytest.mark.parametrize("code", HINTED)
@pytest.mark.parametrize("mac", [None, b"m" * 32])
def test_a_hint_is_taken_as_a_hint(role, state, form, code, mac):
    """Both ways, codes below 16 end the handshake with their cause, MAC or not, and are not answered."""
    machine = machine_in(state, role, form)
    step = machine.feed(framed(messages.encode_reject(Reject(code, b"detail\n\x1b", mac))))
    assert (step.cause, step.code, step.send) == (HINTED[code], code, b"")
    assert "detail" not in step.problem
    assert machine.state is State.REFUSED


@where_reject
@both_forms
@pytest.mark.parametrize("code", [*PROVED_CODES, 0, 6, 15, 99, 255])
@pytest.mark.parametrize("mac", [None, bytes(32), b"m" * 32])
def test_a_claim_without_proof_is_not_believed(role, state, form, code, mac):
    """Codes that would have an effect have none unless proved: never DECLINED, whatever the MAC's bytes."""
    machine = machine_in(state, role, form)
    step = machine.feed(framed(messages.encode_reject(Reject(code, b"", mac))))
    assert (step.cause, step.send) == (Cause.MALFORMED, b"")
    assert machine.state is State.REFUSED


@pytest.mark.parametrize("code", PROVED_CODES)
@every_cut
def test_a_proved_reject_is_believed(code, chunks):
    """After the REPLY was verified, the acceptor's word reaches the initiator with its code."""
    outcome = run_pair(
        *pair_for(Form.BOUND), chunks=chunks, on_proved=lambda machine: machine.reject(code, "our reason")
    )
    refused = outcome.initiator.refused()
    assert (refused.cause, refused.code, refused.send) == (Cause.DECLINED, code, b"")
    assert code.name in refused.problem
    assert outcome.acceptor.refused()[:2] == (Cause.WITHDRAWN, "our reason")
    assert outcome.acceptor.refused().code is code


def test_a_hint_needs_no_proof_from_the_acceptor_either():
    """Declining with a code below 16 sends it without a MAC."""
    outcome = run_pair(
        *pair_for(Form.BOUND), on_proved=lambda machine: machine.reject(RejectCode.BUSY, "too much")
    )
    assert outcome.acceptor.sent[-1] == bytes([5, RejectCode.BUSY, 0, 0])
    assert outcome.initiator.refused().cause is Cause.BUSY


def test_a_classic_peer_is_declined_by_closing():
    """It knows no REJECT, and none is sent to it."""
    outcome = run_pair(
        *pair_for(Form.CLASSIC), on_proved=lambda machine: machine.reject(RejectCode.DUPLICATE, "have one")
    )
    assert outcome.acceptor.refused() == Refused(Cause.WITHDRAWN, "have one", b"", RejectCode.DUPLICATE)
    assert outcome.initiator.refused().cause is Cause.CLOSED


def transcript():
    """TH of the handshake that `make_initiator()` and `make_acceptor()` have."""
    known = genuine()
    return keys.transcript_hash(
        known[Tag.NAME], known[Tag.CHALLENGE], INITIATOR_CHALLENGE, 1, CERTIFICATE, b""
    )


def proved_reject(code=16, detail=b"", link_keys=KEYS, th=None):
    """A REJECT with the MAC it must have."""
    return Reject(code, detail, link_keys.reject_mac(transcript() if th is None else th, code, detail))


def test_every_changed_byte_of_a_proved_reject_is_noticed():
    """Code, detail and MAC are all covered: no change leaves a REJECT that is believed."""
    payload = messages.encode_reject(proved_reject(detail=b"why"))
    genuine_one = machine_in(State.AWAIT_ACK, "initiator").feed(framed(payload))
    assert genuine_one.cause is Cause.DECLINED
    assert "why" not in genuine_one.problem
    for at in range(len(payload)):
        changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        assert machine_in(State.AWAIT_ACK, "initiator").feed(framed(changed)).cause is not Cause.DECLINED


@pytest.mark.parametrize(
    "reject",
    [
        pytest.param(lambda: proved_reject(link_keys=OTHER_KEYS), id="another cookie"),
        pytest.param(lambda: proved_reject(th=b"t" * 32), id="another session"),
        pytest.param(lambda: proved_reject(17)._replace(code=16), id="another code"),
        pytest.param(lambda: proved_reject(detail=b"x")._replace(detail=b"y"), id="another detail"),
        pytest.param(lambda: Reject(16, b"", KEYS.acceptor_proof(transcript(), b"")), id="another key"),
    ],
)
def test_a_reject_proved_for_something_else_is_not_believed(reject):
    """A genuine MAC counts for its cookie, session, code, detail and purpose only."""
    assert (
        machine_in(State.AWAIT_ACK, "initiator").feed(framed(messages.encode_reject(reject()))).cause
        is Cause.MALFORMED
    )


@pytest.mark.parametrize("code", HINTED)
def test_a_hint_with_a_genuine_mac_stays_a_hint(code):
    """Only codes from 16 on decline; a proved BUSY or AUTH_FAILED means no more than a bare one."""
    reject = messages.encode_reject(proved_reject(code))
    assert machine_in(State.AWAIT_ACK, "initiator").feed(framed(reject)).cause is HINTED[code]


def test_an_unknown_code_that_is_proved_is_believed():
    """A later version's reason declines the link, with its number."""
    step = machine_in(State.AWAIT_ACK, "initiator").feed(framed(messages.encode_reject(proved_reject(200))))
    assert (step.cause, step.code) == (Cause.DECLINED, 200)
    assert "code 200" in step.problem


@pytest.mark.parametrize("th", [b"", bytes(32)])
def test_nothing_is_believed_before_there_is_a_transcript(th):
    """Even the right keys cannot prove a REJECT to an initiator that has proved nothing itself."""
    reject = messages.encode_reject(proved_reject(th=th))
    assert machine_in(State.AWAIT_CHALLENGE, "initiator").feed(framed(reject)).cause is Cause.MALFORMED


def test_an_acceptor_believes_no_proof_of_a_reject():
    """Codes from 16 on are the acceptor's to send; from an initiator they are not believed, proved or not."""
    machine = machine_in(State.AWAIT_REPLY, "acceptor")
    assert machine.feed(framed(messages.encode_reject(proved_reject()))).cause is Cause.MALFORMED


def test_in_the_classic_form_no_reject_is_proved():
    """An initiator that has keys but met a classic peer does not take a MAC for a proof."""
    initiator = make_initiator(**POLICIES["both"])
    initiator.start()
    initiator.feed(framed(genuine(Form.CLASSIC)[Tag.CHALLENGE]))
    initiator.prove()
    for th in (b"", transcript()):
        assert initiator.state is State.AWAIT_ACK
        reject = messages.encode_reject(proved_reject(th=th))
        refused = initiator.feed(framed(reject))
        assert refused.cause is Cause.MALFORMED
        initiator.state = State.AWAIT_ACK


# Several cookies


class CountingKeys(LinkKeys):
    """Keys that count how often a proof was computed with them."""

    __slots__ = ("asked",)

    def __init__(self, master):
        super().__init__(master)
        self.asked = 0

    def initiator_proof(self, transcript):
        self.asked += 1
        return super().initiator_proof(transcript)


@pytest.mark.parametrize("index", [0, 1, 2, None])
def test_every_accepted_key_is_tried_and_the_matching_one_answers(index):
    """Whichever key matches, or none, all are computed; the ACK comes from the one that matched."""
    ring = tuple(CountingKeys(bytes([number]) * 32) for number in range(3))
    dialed_with = LinkKeys(bytes([9 if index is None else index]) * 32)
    outcome = run_pair(make_initiator(bound=(dialed_with,)), make_acceptor(bound=ring))
    assert [link_keys.asked for link_keys in ring] == [1, 1, 1]
    if index is None:
        assert outcome.acceptor.refused().cause is Cause.AUTHENTICATION
    else:
        outcome.check_agreement()
        assert outcome.acceptor.result.key_index == index
        assert outcome.initiator.result.key_index == 0


def test_a_reject_is_proved_with_the_matching_key_too():
    """A peer that still dials with the old cookie can verify why it was declined."""
    outcome = run_pair(
        make_initiator(bound=(OTHER_KEYS,)),
        make_acceptor(bound=(KEYS, OTHER_KEYS)),
        on_proved=lambda machine: machine.reject(RejectCode.SHUTTING_DOWN, "bye"),
    )
    assert outcome.initiator.refused().cause is Cause.DECLINED


def test_an_initiator_proves_and_believes_its_primary_key_only():
    """The further keys of its ring are for those who dial in: no retry with another."""
    outcome = run_pair(make_initiator(bound=(KEYS, OTHER_KEYS)), make_acceptor(bound=(OTHER_KEYS,)))
    assert outcome.acceptor.refused().cause is Cause.AUTHENTICATION
    assert len(proofs_sent(outcome.initiator)) == 1
    other = LinkKeys(OTHER_KEYS.master)
    initiator = make_initiator(bound=(KEYS, other))
    initiator.start()
    initiator.feed(framed(genuine()[Tag.CHALLENGE]))
    reply = messages.decode_reply(unframed(initiator.prove().send)[0])
    ack = b"\x04" + other.acceptor_proof(transcript(), reply.proof)
    assert initiator.feed(framed(ack)).cause is Cause.AUTHENTICATION


def test_a_key_listed_twice_counts_as_the_first():
    """The index is that of the first key that matches."""
    outcome = run_pair(make_initiator(), make_acceptor(bound=(KEYS, KEYS)))
    assert outcome.acceptor.result.key_index == 0


def test_proofs_are_compared_in_constant_time(monkeypatch):
    """REPLY, ACK and REJECT go through keys.same, and a link comes about only if it says so."""
    for kind, on_proved in (
        ("accept", Acceptor.accept),
        ("reject", lambda machine: machine.reject(RejectCode.DUPLICATE, "have one")),
    ):
        compared = []

        def same(one, other, compared=compared):
            compared.append(one == other)
            return one == other

        monkeypatch.setattr(keys, "same", same)
        run_pair(*pair_for(Form.BOUND), on_proved=on_proved)
        assert compared == [True, True], kind
    monkeypatch.setattr(keys, "same", lambda one, other: False)
    assert run_pair(*pair_for(Form.BOUND)).acceptor.refused().cause is Cause.AUTHENTICATION


# Garbage


@functools.cache
def stranger_payloads():
    """Well-formed messages from somebody who knows the protocol and no cookie."""
    strange = {"bound": (OTHER_KEYS,), "classic": b"a stranger's classic cookie"}
    found = []
    for bound in ((OTHER_KEYS,), ()):
        outcome = run_pair(
            make_initiator(**{**strange, "bound": bound}), make_acceptor(**{**strange, "bound": bound})
        )
        found += outcome.initiator.sent + outcome.acceptor.sent
    return [*found, bytes([5, 4, 0, 0]), bytes([5, 16, 0, 0]) + b"m" * 32]


@st.composite
def garbage(draw):
    """A stream of noise, of noise in frames, and of real messages, damaged or not, cut anywhere."""
    stream = b""
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["noise", "framed", "tagged", "real", "damaged"]))
        if kind == "noise":
            stream += draw(st.binary(max_size=40))
        elif kind == "framed":
            stream += framed(draw(st.binary(max_size=80)))
        elif kind == "tagged":
            stream += framed(bytes([draw(st.sampled_from(list(Tag)))]) + draw(st.binary(max_size=80)))
        else:
            payload = bytearray(draw(st.sampled_from(stranger_payloads())))
            if kind == "damaged":
                payload[draw(st.integers(0, len(payload) - 1))] ^= draw(st.integers(1, 255))
            stream += framed(bytes(payload))
    return draw(st.sampled_from([whole, byte_by_byte, in_pieces([5, 0, 31])]))(stream)


@given(
    chunks=garbage(),
    role=st.sampled_from(["initiator", "acceptor"]),
    policy=st.sampled_from(sorted(POLICIES)),
    started=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_stranger_gets_nothing_whatever_he_sends(chunks, role, policy, started):
    """Any bytes give a Continue, the initiator's stop or a refusal; no error, no proof accepted, no link."""
    machine = (
        make_initiator(**POLICIES[policy], expected=None)
        if role == "initiator"
        else make_acceptor(**POLICIES[policy])
    )
    if role == "initiator" and started:
        machine.start()
    for chunk in chunks:
        step = machine.feed(chunk)
        if isinstance(step, Challenged):
            step = machine.prove()
        assert isinstance(step, Continue | Refused)
        for payload in unframed(step.send):
            assert payload[0] in (
                {Tag.REPLY, Tag.REJECT} if role == "initiator" else {Tag.CHALLENGE, Tag.REJECT}
            )
        if isinstance(step, Refused):
            assert step.problem.isprintable()
            assert machine.finished
            break
    else:
        assert isinstance(machine.end_of_stream(), Refused)


# Under an operator's CA


def test_a_pair_whose_certificates_are_for_their_names():
    """What the CA vouches for is what each side claims: the handshake goes its way."""
    initiator, acceptor = make_initiator(certified=BOB.name), make_acceptor(certified=ALICE.name)
    run_pair(initiator, acceptor).check_agreement()


@pytest.mark.parametrize("form", list(Form))
def test_an_acceptor_ends_at_a_name_that_is_not_the_certificates(form):
    """At NAME, with a code and no CHALLENGE: the peer gets to see nothing of this node."""
    initiator, acceptor = pair_for(form, acceptor={"certified": "mallory@h:1"})
    step = acceptor.feed(initiator.start().send)
    assert isinstance(step, Refused)
    assert step.cause is Cause.CERTIFICATE
    assert step.problem == f"the peer claims to be {ALICE.name}, with the certificate of mallory@h:1"
    assert step.send == rejection(RejectCode.AUTH_FAILED)
    assert acceptor.claimed == ALICE.name


@pytest.mark.parametrize("expected", [BOB.name, None])
def test_an_initiator_ends_at_a_name_that_is_not_the_certificates(expected):
    """At CHALLENGE, without a word: no proof leaves it, whether it dialed a name or an address."""
    initiator, acceptor = make_initiator(expected=expected, certified="mallory@h:1"), make_acceptor()
    step = initiator.feed(acceptor.feed(initiator.start().send).send)
    assert isinstance(step, Refused)
    assert step.cause is Cause.CERTIFICATE
    assert step.send == b""


def test_an_honest_other_node_is_a_mismatch_and_no_thief():
    """It answers in its own name, which is its certificate's: just not the one that was dialed."""
    initiator, acceptor = make_initiator(expected="carol@h:1", certified=BOB.name), make_acceptor()
    step = initiator.feed(acceptor.feed(initiator.start().send).send)
    assert step.cause is Cause.MISMATCH
