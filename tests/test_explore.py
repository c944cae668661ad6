"""The pairing rule under every interleaving of two nodes, and the proof that the explorer can say no."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from snowgreen.protocol import pairing
from snowgreen.protocol.pairing import Candidate, Decline, Pair

TOOLS = Path(__file__).parent.parent / "tools"


def load(name: str) -> ModuleType:
    """A module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# In this order: the explorer imports the other two by their plain names.
faulty_rules = load("faulty_rules")
load("model")
explorer = load("explore")


def explore(rule: Any, *, clock_back: bool = False, ends_own: bool = False, **bounds: int) -> Any:
    """The result of exploring `rule` within `bounds`."""
    world = explorer.World(rule, explorer.Left(**bounds), clock_back=clock_back, ends_own=ends_own)
    return explorer.explore(world)


@pytest.mark.parametrize(
    "bounds",
    [
        {"dials": 5},
        {"dials": 5, "restarts": 1},
        {"dials": 5, "cuts": 2},
        {"dials": 3, "expiries": 2},
        {"dials": 4, "restarts": 1, "cuts": 1, "expiries": 1},
        {"dials": 3, "cuts": 1, "restarts": 1, "clock_back": True},
    ],
    ids=lambda bounds: " ".join(f"{name}={value}" for name, value in bounds.items()),
)
def test_production_keeps_every_invariant(bounds: dict[str, int]) -> None:
    """No state within these bounds breaks any of I1 to I5, and none was left out."""
    result = explore(pairing, **bounds)
    assert result.violation is None, "\n".join(result.violation.trace)
    assert result.complete


@pytest.mark.parametrize(
    "bounds",
    [
        {"dials": 3, "addresses": 2},
        {"dials": 2, "addresses": 1, "cuts": 1},
        {"dials": 2, "addresses": 1, "restarts": 1},
        {"dials": 2, "addresses": 1, "expiries": 1},
    ],
    ids=lambda bounds: " ".join(f"{name}={value}" for name, value in bounds.items()),
)
def test_dials_by_address_leave_one_link_too(bounds: dict[str, int]) -> None:
    """Beside the rule's own dials they break nothing; a link of theirs may make way for a better one."""
    result = explore(pairing, **bounds)
    assert result.violation is None, "\n".join(result.violation.trace)
    assert result.complete


def test_a_dial_by_address_must_not_end_the_rules_own() -> None:
    """Ended once its REPLY is out, the peer may have preferred it already, and then both links go."""
    result = explore(pairing, ends_own=True, dials=1, addresses=1)
    assert result.violation is not None
    assert result.violation.invariant == "I3"


class WithoutProbe:
    """The production rule, but an older incarnation is refused and nothing more."""

    dial = staticmethod(pairing.dial)
    challenged = staticmethod(pairing.challenged)
    acknowledged = staticmethod(pairing.acknowledged)
    ended = staticmethod(pairing.ended)

    @staticmethod
    def proved(pair: Pair, candidate: Candidate, now: float) -> Any:
        pair, decision = pairing.proved(pair, candidate, now)
        if isinstance(decision, Decline):
            decision = decision._replace(probe=False)
        return pair, decision


@pytest.mark.parametrize(
    ("rule", "bounds", "invariant"),
    [
        ("first-wins", {"dials": 2}, "I1"),
        ("newest-wins", {"dials": 2}, "I3"),
        ("smaller-name", {"dials": 3, "restarts": 1}, "I2"),
        ("smaller-name", {"dials": 3, "cuts": 1}, "I4"),
        ("snow", {"dials": 2}, "I3"),
        ("snow", {"dials": 3, "cuts": 1}, "I1"),
        ("no-epoch", {"dials": 3, "cuts": 1}, "I4"),
        (WithoutProbe(), {"dials": 2, "restarts": 1, "clock_back": True}, "I5"),
    ],
)
def test_faulty_rules_are_found_out(rule: Any, bounds: dict[str, int], invariant: str) -> None:
    """Each simpler rule breaks an invariant that the explorer names; so every invariant is seen to fail."""
    result = explore(faulty_rules.RULES.get(rule, rule), **bounds)
    assert result.violation is not None
    assert result.violation.invariant == invariant
    assert result.violation.trace


def test_a_trace_is_shortest_and_readable() -> None:
    """First-wins needs two dials that cross, and the trace tells each step and what both hold after it."""
    trace = explore(faulty_rules.RULES["first-wins"], dials=2).violation.trace
    assert len(trace) == 10
    told, both = trace[0].split("|", 1)
    assert told.strip() == "1. A dials A1: Dial(epoch=1, attempt=1)"
    assert both.strip() == "A own A1 | B -"
    assert sum("REPLY" in step and "DUPLICATE" in step for step in trace) == 2
    assert trace[-1].endswith("| A - | B -")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--dials", "2"], 0, "no violation"),
        (["--dials", "2", "--rule", "first-wins"], 1, "VIOLATION of I1"),
        (["--dials", "2", "--cuts", "1", "--max-states", "10"], 2, "STOPPED EARLY"),
    ],
)
def test_exit_status_tells_the_verdict(arguments: list[str], status: int, said: str) -> None:
    """0 for all states seen and sound, 1 for a violation, 2 for a search that did not finish."""
    outcome = CliRunner().invoke(explorer.main, arguments)
    assert outcome.exit_code == status
    assert said in outcome.output
