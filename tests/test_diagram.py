"""The picture of the handshake: it is current, it shows the whole table, and a change does not go unseen."""

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from snowgreen.protocol.handshake import TRANSITIONS, Move, State
from snowgreen.protocol.messages import Tag

from .test_explore import load

SVG = "{http://www.w3.org/2000/svg}"

every_role = pytest.mark.parametrize("role", list(TRANSITIONS))
#: A change of the table: the acceptor may withdraw as well.
CHANGED = {
    **TRANSITIONS,
    "acceptor": {**TRANSITIONS["acceptor"], (State.PROVED, Move.WITHDRAW): State.AWAIT_NAME},
}


@pytest.fixture(scope="module")
def diagram() -> ModuleType:
    """The tool."""
    return load("diagram")


@pytest.fixture
def copy(tmp_path: Path, diagram: ModuleType) -> Path:
    """A folder with the two drawings as they are in the repository."""
    shutil.copytree(diagram.ROOT / "docs", tmp_path / "docs")
    return tmp_path


def run(diagram: ModuleType, *arguments: str) -> Result:
    """The tool from its command line."""
    return CliRunner().invoke(diagram.main, arguments)


def role_of(picture: str, role: str) -> ElementTree.Element:
    """The group of one role in the SVG."""
    found = ElementTree.fromstring(picture).find(f"{SVG}g[@id='{role}']")
    assert found is not None
    return found


def titles(group: ElementTree.Element, kind: str) -> list[str]:
    """The titles of a role's groups of one class."""
    return [
        title.text or ""
        for inner in group.iter(f"{SVG}g")
        if kind in inner.get("class", "").split() and (title := inner.find(f"{SVG}title")) is not None
    ]


def test_the_drawings_are_current(diagram: ModuleType) -> None:
    """What stands in docs/ is what the table gives; if not, run tools/diagram.py --write."""
    assert diagram.stale(diagram.ROOT, TRANSITIONS) == []
    assert run(diagram, "--check").exit_code == 0


@every_role
def test_the_picture_shows_every_state_and_transition(diagram: ModuleType, role: str) -> None:
    """Per role: each state once, each transition once and in the manner of its kind, and nothing besides."""
    group, table = role_of(diagram.svg(TRANSITIONS), role), TRANSITIONS[role]
    assert sorted(titles(group, "state")) == sorted(
        {state.value for state in table.values()} | {state.value for state, _ in table}
    )
    for kind, of_kind in (("message", Tag), ("move", Move)):
        assert titles(group, kind) == [
            f"{source.value} → {event.name if isinstance(event, Tag) else event.value} → {target.value}"
            for (source, event), target in table.items()
            if isinstance(event, of_kind)
        ]


@every_role
def test_whatever_else_comes_is_shown_as_refused(diagram: ModuleType, role: str) -> None:
    """Every state that waits for a message has the way out of all that is in no table."""
    waiting = {source.value for source, event in TRANSITIONS[role] if isinstance(event, Tag)}
    shown = titles(role_of(diagram.svg(TRANSITIONS), role), "else")
    assert sorted(shown) == sorted(f"{state} → anything else → refused" for state in waiting)
    assert "Anything else" in diagram.mermaid({role: TRANSITIONS[role]})


@every_role
def test_the_text_names_every_state_and_transition(diagram: ModuleType, role: str) -> None:
    """The Mermaid text has a line for each, and marks messages and moves apart."""
    lines = [line.strip() for line in diagram.mermaid(TRANSITIONS).splitlines()]
    for (source, event), target in TRANSITIONS[role].items():
        label = f"◀ {event.name}" if isinstance(event, Tag) else f"▶ {event.value}"
        assert lines.count(f"{role}_{source.name} --> {role}_{target.name} : {label}") == 1
        for state in (source, target):
            assert lines.count(f'state "{state.value}" as {role}_{state.name}') == 1
    arrows = [line for line in lines if line.startswith(f"{role}_") and " : " in line]
    assert len(arrows) == len(TRANSITIONS[role])


def test_the_tool_prints_the_text(diagram: ModuleType) -> None:
    """Without an option it prints Mermaid, and the document holds exactly that."""
    printed = run(diagram)
    assert printed.exit_code == 0
    assert printed.output == diagram.mermaid(TRANSITIONS)
    assert f"```mermaid\n{printed.output}```" in (diagram.ROOT / "docs/protocol.md").read_text("utf-8")


def test_the_picture_needs_nothing_from_outside(diagram: ModuleType) -> None:
    """No script, no link, no font to load; light and dark pages both have their colours."""
    picture = diagram.svg(TRANSITIONS)
    assert picture.count("http") == 1  # the namespace
    for foreign in ("<script", "<image", "href", "url(", "@import", "@font-face"):
        assert foreign not in picture
    assert "prefers-color-scheme: dark" in picture


def test_nothing_is_drawn_outside_the_picture(diagram: ModuleType) -> None:
    """Every box and label lies within the page, and no two states of a role overlap."""
    root = ElementTree.fromstring(diagram.svg(CHANGED))
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for role in CHANGED:
        group = root.find(f"{SVG}g[@id='{role}']")
        assert group is not None
        shift = float(group.get("transform", "").removeprefix("translate(").split()[0])
        boxes = []
        for rect in group.iter(f"{SVG}rect"):
            x, y, w, h = (float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
            assert 0 <= x + shift <= x + shift + w <= width
            assert 0 <= y <= y + h <= height
            boxes.append((x, y, w, h))
        assert len(set(boxes)) == len(boxes)
    states = [rect for inner in root.iter(f"{SVG}g") if "state" in inner.get("class", "") for rect in inner]
    assert states


@pytest.mark.parametrize("gone", ["docs/protocol.md", "docs/handshake.svg"])
def test_each_drawing_is_checked(diagram: ModuleType, copy: Path, gone: str) -> None:
    """A hand that edits either drawing is noticed, and --write puts it right."""
    path = copy / gone
    path.write_text(path.read_text("utf-8").replace("awaiting ACK", "awaiting SYN"), encoding="utf-8")
    checked = run(diagram, "--check", "--root", str(copy))
    assert checked.exit_code == 1
    assert f"{path.name} is out of date" in checked.output
    assert run(diagram, "--write", "--root", str(copy)).exit_code == 0
    assert run(diagram, "--check", "--root", str(copy)).exit_code == 0
    assert path.read_text("utf-8") == (diagram.ROOT / gone).read_text("utf-8")


def test_a_missing_picture_is_noticed(diagram: ModuleType, copy: Path) -> None:
    """A drawing that is not there is out of date."""
    (copy / "docs" / "handshake.svg").unlink()
    assert run(diagram, "--check", "--root", str(copy)).exit_code == 1


def test_a_changed_table_is_noticed(diagram: ModuleType, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transition added to the code makes both drawings out of date, until they are written anew."""
    assert run(diagram, "--check", "--root", str(copy)).exit_code == 0
    monkeypatch.setattr(diagram, "TRANSITIONS", CHANGED)
    checked = run(diagram, "--check", "--root", str(copy))
    assert checked.exit_code == 1
    assert checked.output.count("out of date") == 2
    assert run(diagram, "--write", "--root", str(copy)).exit_code == 0
    assert run(diagram, "--check", "--root", str(copy)).exit_code == 0
    written = (copy / "docs" / "protocol.md").read_text("utf-8")
    assert "acceptor_PROVED --> acceptor_AWAIT_NAME : ▶ withdraw" in written
    assert "proved → withdraw → awaiting NAME" in (copy / "docs" / "handshake.svg").read_text("utf-8")


@pytest.mark.parametrize("where", ["BEGIN", "END"])
def test_a_document_without_its_place_is_an_error(diagram: ModuleType, copy: Path, where: str) -> None:
    """Where a marker is missing or doubled, nothing is written and the tool says what it needs."""
    document, marker = copy / "docs" / "protocol.md", getattr(diagram, where)
    whole = document.read_text("utf-8")
    for broken in (whole.replace(marker, ""), whole + marker):
        document.write_text(broken, encoding="utf-8")
        result = run(diagram, "--write", "--root", str(copy))
        assert result.exit_code == 1
        assert diagram.BEGIN in result.output
        assert document.read_text("utf-8") == broken


def test_writing_and_checking_exclude_each_other(diagram: ModuleType) -> None:
    """Both at once is a mistake of usage."""
    assert run(diagram, "--write", "--check").exit_code == 2
