"""The floors of the package: who may import whom, and what stays out of which floor.

A module imports only from its own floor and those below, and on no floor in a circle. The rules are
functions of a source tree, so that each is also shown to find what it forbids.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gevent.monkey
import pytest

import snowgreen

PACKAGE = Path(snowgreen.__file__).parent
VALUES = {"errors", "names", "cookie", "certificates", "config", "events", "_version"}

IMPURE = {
    "_socket", "_ssl", "_thread", "asyncio", "concurrent", "datetime", "gevent", "greenlet", "importlib",
    "logging", "multiprocessing", "os", "posix", "random", "secrets", "select", "selectors", "signal",
    "socket", "ssl", "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip
NETWORK = {"_socket", "_ssl", "asyncio", "gevent", "greenlet", "select", "selectors", "socket", "ssl"}
READERS_THAT_RUN_CODE = {
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "jsonpickle",
    "marshal",
    "pickle",
    "shelve",
}
PATCHERS = {name for name in dir(gevent.monkey) if name.startswith("patch_")}


def floor(module: str) -> int:
    """The floor that a module stands on, 0 the lowest; whatever is not named here is an edge."""
    room = module.split(".")[1:2]
    if not room:
        return 5  # the public names: above what they collect, below the edges that use them
    if room[0] in VALUES:
        return 0
    return {
        "protocol": 1,
        "link": 2,
        "messaging": 3,
        "mesh": 3,
        "rotation": 4,
        "allowing": 4,
        "arguments": 4,
        "forks": 4,
        "patching": 4,
        "node": 4,
        "__main__": 7,
    }.get(room[0], 6)


class Import(NamedTuple):
    """One imported module, and where."""

    target: str
    line: int
    #: Whether it runs when the module is imported, rather than in a function or for a type checker only.
    at_import: bool


class Tree:
    """The parsed modules under a package's folder."""

    def __init__(self, root: Path) -> None:
        self.sources: dict[str, ast.Module] = {}
        self.packages: set[str] = set()
        for path in sorted(root.rglob("*.py")):
            parts = [root.name, *path.relative_to(root).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
                self.packages.add(".".join(parts))
            self.sources[".".join(parts)] = ast.parse(path.read_bytes(), str(path))
        assert root.name in self.sources, "there is nothing to look at"

    def imports(self, module: str) -> Iterator[Import]:
        """Everything that `module` imports, anywhere in it."""
        late = set()
        for node in ast.walk(self.sources[module]):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                late |= (
                    {id(inner) for part in node.body for inner in ast.walk(part)}
                    if typing_only
                    else {id(inner) for inner in ast.walk(node)}
                )
        for node in ast.walk(self.sources[module]):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, node.lineno, id(node) not in late)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                for alias in node.names:
                    deeper = f"{base}.{alias.name}"
                    yield Import(
                        deeper if deeper in self.sources else base, node.lineno, id(node) not in late
                    )

    def _base(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        drop = node.level - (module in self.packages)
        return ".".join(parts[: len(parts) - drop] + ([node.module] if node.module else []))

    def below(self, module: str) -> set[str]:
        """`module` and all modules of this tree that it imports, directly or not."""
        seen, todo = {module}, [module]
        while todo:
            for target in {item.target for item in self.imports(todo.pop())} & set(self.sources) - seen:
                seen.add(target)
                todo.append(target)
        return seen


def upward(tree: Tree) -> list[str]:
    """Imports from a higher floor."""
    return [
        f"{module}:{item.line} imports {item.target}"
        for module in tree.sources
        for item in tree.imports(module)
        if item.target in tree.sources and floor(item.target) > floor(module)
    ]


def circles(tree: Tree) -> list[str]:
    """A circle among what modules import when they are imported, if there is one."""
    graph = {
        module: {item.target for item in tree.imports(module) if item.at_import}
        & set(tree.sources) - {module}
        for module in tree.sources
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def foreign(tree: Tree, height: int, forbidden: set[str]) -> list[str]:
    """What of `forbidden` is imported on floor `height`, or by what that floor imports."""
    reached = {below for module in tree.sources if floor(module) == height for below in tree.below(module)}
    return [
        f"{module}:{item.line} imports {item.target}"
        for module in sorted(reached)
        for item in tree.imports(module)
        if item.target.split(".")[0] in forbidden
    ]


def patching(tree: Tree) -> list[str]:
    """Uses of gevent's monkey.patch_* outside the program's entry."""
    return [
        f"{module}:{node.lineno} uses {name}"
        for module, source in tree.sources.items()
        if module != "snowgreen.__main__"
        for node in ast.walk(source)
        for name in names_in(node)
        if name in PATCHERS
    ]


def names_in(node: ast.AST) -> list[str]:
    """The names that a node of the syntax tree reads or imports."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    return []


def unpickling(tree: Tree) -> list[str]:
    """Imports of what runs code while it reads data."""
    return [
        f"{module}:{item.line} imports {item.target}"
        for module in tree.sources
        for item in tree.imports(module)
        if item.target.split(".")[0] in READERS_THAT_RUN_CODE
    ]


def catching_all(tree: Tree) -> list[str]:
    """Handlers without a type, which swallow a greenlet's end and Ctrl-C along with the rest."""
    return [
        f"{module}:{node.lineno}"
        for module, source in tree.sources.items()
        for node in ast.walk(source)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def star_imports(tree: Tree) -> list[str]:
    """Imports of whatever another module happens to hold."""
    return [
        f"{module}:{node.lineno}"
        for module, source in tree.sources.items()
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]


@pytest.fixture(scope="module")
def tree():
    """The package as it stands."""
    return Tree(PACKAGE)


def test_the_whole_package_is_looked_at(tree):
    """Every floor that the tests speak of has modules in it, and every value module is there."""
    assert {floor(module) for module in tree.sources} >= {0, 1, 2, 4, 5}
    assert {f"snowgreen.{name}" for name in VALUES} <= set(tree.sources)
    assert any(item.target == "snowgreen.errors" for item in tree.imports("snowgreen.names"))
    assert "snowgreen.names" in tree.below("snowgreen.protocol.handshake")


def test_modules_import_from_their_own_floor_and_below(tree):
    """Nothing knows of what stands above it, not even for its types."""
    assert upward(tree) == []


def test_modules_do_not_import_each_other_in_a_circle(tree):
    """Importing any module first works."""
    assert circles(tree) == []


def test_the_protocol_is_pure(tree):
    """The protocol floor, with all it imports of the package, knows no network, clock, entropy or system."""
    assert foreign(tree, 1, IMPURE) == []


def test_the_values_know_no_network(tree):
    """Names, cookies, settings, events and errors work without gevent."""
    assert foreign(tree, 0, NETWORK) == []


def test_only_the_program_patches(tree):
    """A library that patched the process it is imported into would change what is not its own."""
    assert patching(tree) == []


def test_nothing_unpickles(tree):
    """No data from anywhere can become code."""
    assert unpickling(tree) == []


def test_no_bare_except(tree):
    """What is caught is named."""
    assert catching_all(tree) == []


def test_no_star_import(tree):
    """Where a name comes from can be read off the import."""
    assert star_imports(tree) == []


PLANTED = {
    "errors.py": "from . import node",
    "names.py": "def f():\n    from .protocol.wire import pack",
    "cookie.py": "import gevent.ssl",
    "config.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import Node",
    "protocol/__init__.py": "",
    "protocol/wire.py": "from ..events import x\nfrom ..link import tls",
    "events.py": "import os.path as o",
    "link/__init__.py": "",
    "link/tls.py": "from ..web import page\nfrom . import table",
    "link/table.py": "from .tls import x",
    "node.py": "import snowgreen\nfrom gevent import monkey\nmonkey.patch_all()\ntry: pass\nexcept: pass",
    "web.py": "from gevent.monkey import patch_socket as p\nfrom snowgreen.__main__ import main",
    "metrics.py": "from . import node\nimport pickle as p\nfrom dill import loads\nfrom .names import *",
    "__main__.py": "from gevent import monkey\nmonkey.patch_all()\nfrom . import web, metrics",
}


@pytest.fixture
def planted(tmp_path):
    """A package that breaks every rule somewhere."""
    root = tmp_path / "snowgreen"
    for name, source in {"__init__.py": "from .node import Node", **PLANTED}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    return Tree(root)


def test_the_rules_find_what_they_forbid(planted):
    """Each rule, on a package that breaks it, names exactly the places."""
    assert sorted(upward(planted)) == [
        "snowgreen.config:3 imports snowgreen",
        "snowgreen.errors:1 imports snowgreen.node",
        "snowgreen.link.tls:1 imports snowgreen.web",
        "snowgreen.names:2 imports snowgreen.protocol.wire",
        "snowgreen.node:1 imports snowgreen",
        "snowgreen.protocol.wire:2 imports snowgreen.link.tls",
        "snowgreen.web:2 imports snowgreen.__main__",
    ]
    assert "snowgreen.events:1 imports os.path" in foreign(planted, 1, IMPURE)
    assert "snowgreen.cookie:1 imports gevent.ssl" in foreign(planted, 0, NETWORK)
    assert sorted(patching(planted)) == [
        "snowgreen.node:3 uses patch_all",
        "snowgreen.web:1 uses patch_socket",
    ]
    assert unpickling(planted) == ["snowgreen.metrics:2 imports pickle", "snowgreen.metrics:3 imports dill"]
    assert catching_all(planted) == ["snowgreen.node:5"]
    assert star_imports(planted) == ["snowgreen.metrics:4"]


def test_circles_are_found_and_late_imports_are_none(tmp_path):
    """Two modules that need each other to be imported are found; a late or type-only import is no circle."""
    late = "import typing\nif typing.TYPE_CHECKING:\n    from . import one\ndef f():\n    from . import one"
    for name, other, found in (("a", "from . import one", True), ("b", late, False)):
        root = tmp_path / name / "snowgreen"
        root.mkdir(parents=True)
        (root / "__init__.py").write_text("")
        (root / "one.py").write_text("from . import two")
        (root / "two.py").write_text(other)
        assert bool(circles(Tree(root))) is found
