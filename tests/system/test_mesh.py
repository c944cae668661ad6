"""A mesh of real processes: it grows from one seed, notices a death everywhere, and takes the dead back in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import Child
from tests.waiting import until

CHILD = str(Path(__file__).with_name("node_child.py"))
#: A link must not be given up only because eight interpreters share two cores; a death is seen without it.
ENV = {"SNOWGREEN_COOKIE": "correct horse battery staple", "MESH": "yes", "HEARTBEAT_TIMEOUT": "30"}
COUNT = 8
#: Seconds within which the mesh must stand, or have noticed.
SOON = 60.0

Spawn = Callable[..., Child]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts a node of the mesh; each is ended after the test."""
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Child:
            return stack.enter_context(Child(CHILD, name, env=ENV))

        yield start


def links(child: Child) -> dict[str, Any]:
    child.tell(do="sessions")
    return child.expect("sessions", timeout=SOON)["links"]


def stands(children: dict[str, Child]) -> bool:
    """Whether each has exactly one link with each, and both ends of it are the same connection."""
    found = {name: links(child) for name, child in children.items()}
    return all(set(found[name]) == set(children) - {name} for name in found) and all(
        sorted(link["ends"]) == sorted(found[other][name]["ends"])
        for name in found
        for other, link in found[name].items()
    )


def grown(spawn: Spawn) -> tuple[str, dict[str, Child]]:
    """The seed's name, and a mesh of eight that knew nothing but the seed."""
    started = [spawn(f"n{number}@127.0.0.1:0") for number in range(COUNT)]
    children = {child.expect("started", timeout=SOON)["name"]: child for child in started}
    seed = next(iter(children))
    for name, child in children.items():
        if name != seed:
            child.tell(do="connect", peer=seed)
    until(lambda: stands(children), "the mesh stands", timeout=SOON)
    return seed, children


@pytest.mark.parametrize("victim", ["seed", "member"])
def test_eight_processes_mesh_and_survive_a_death(spawn: Spawn, victim: str) -> None:
    """All see a SIGKILL, nobody loses anybody else, and the next life of the dead is linked with all again."""
    seed, children = grown(spawn)
    dead = seed if victim == "seed" else list(children)[3]
    killed = children.pop(dead)
    killed.kill()
    for child in children.values():
        assert child.expect("NodeDown", timeout=SOON, peer=dead)["reason"]
    assert stands(children)
    again = spawn(dead)
    incarnation = again.expect("started", timeout=SOON)["incarnation"]
    if victim == "member":
        again.tell(do="connect", peer=seed)
    for child in children.values():
        assert child.expect("NodeUp", timeout=SOON, peer=dead)["incarnation"] == incarnation
        assert [e["peer"] for e in child.seen if e["event"] == "NodeDown"] == [dead]
    until(lambda: stands({**children, dead: again}), "the mesh stands again", timeout=SOON)


def test_the_seed_is_needed_once(spawn: Spawn) -> None:
    """Without its seed a mesh lives on, and another member serves as well to get in."""
    seed, children = grown(spawn)
    gone = children.pop(seed)
    gone._process.stdin.close()  # it says goodbye
    for child in children.values():
        assert "goodbye" in child.expect("NodeDown", timeout=SOON, peer=seed)["reason"]
    late = spawn("late@127.0.0.1:0")
    name = late.expect("started", timeout=SOON)["name"]
    late.tell(do="connect", peer=list(children)[4])
    until(lambda: stands({**children, name: late}), "the newcomer is linked with all", timeout=SOON)
