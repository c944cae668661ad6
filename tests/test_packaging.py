"""The package as it is installed: what it declares, and what importing it costs."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = configparser.ConfigParser(interpolation=None)
SETTINGS.read(ROOT / "setup.cfg", encoding="utf-8")

#: Of the standard library, what is slow to import, or pulls in much that is.
SLOW = {
    "argparse", "asyncio", "concurrent", "ctypes", "curses", "decimal", "email", "html", "http",
    "importlib.metadata", "importlib.resources", "json", "multiprocessing", "pydoc", "sqlite3", "statistics",
    "subprocess", "unittest", "urllib.request", "uuid", "xml", "zipfile",
}  # fmt: skip


def modules(code: str) -> set[str]:
    """What a fresh interpreter has loaded after `code`."""
    listing = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, timeout=60, check=True
    )
    return set(run.stdout.split())


def requirements(text: str) -> set[str]:
    """The names of the packages in a list of requirements."""
    return {
        found[0].lower() for line in text.splitlines() if (found := re.match(r"[A-Za-z][\w-]*", line.strip()))
    }


def test_importing_costs_little_more_than_gevent() -> None:
    """No library but gevent's own comes with the import, and nothing slow of the standard library."""
    used = ("event", "lock", "pool", "queue", "server", "socket", "ssl", "threadpool")
    gevent = modules("import " + ", ".join(f"gevent.{name}" for name in used))
    more = {name for name in modules("import snowgreen") - gevent if name.split(".")[0] != "snowgreen"}
    assert {name for name in more if name.split(".")[0] not in sys.stdlib_module_names} == set()
    assert {name for name in more if name in SLOW or name.split(".")[0] in SLOW} == set()


def test_the_edges_are_not_imported() -> None:
    """Who imports the package gets neither its command line nor what it serves and measures."""
    edges = ("cli", "control", "doctor", "gunicorn", "metrics", "status", "testing", "web")
    loaded = sorted(modules("import snowgreen"))
    assert [name for name in loaded if name.startswith("snowgreen.") and name.split(".")[1] in edges] == []


def test_the_package_says_that_it_is_typed() -> None:
    """The marker that type checkers look for is there, and goes into the wheel."""
    assert (ROOT / "snowgreen" / "py.typed").is_file()
    assert SETTINGS["options.package_data"]["snowgreen"].split() == ["py.typed"]


def test_every_requirement_has_its_reason() -> None:
    """Each package that is installed, in whatever extra, is named in docs/dependencies.md."""
    text = (ROOT / "docs" / "dependencies.md").read_text("utf-8").lower()
    wanted = requirements(SETTINGS["options"]["install_requires"])
    for listed in SETTINGS["options.extras_require"].values():
        wanted |= requirements(listed)
    assert "gevent" in wanted
    assert {name for name in wanted if not re.search(rf"\b{re.escape(name)}\b", text)} == set()


def test_the_pythons_that_are_declared() -> None:
    """They begin with the oldest that is required, and have no gap."""
    declared = [
        int(found)
        for found in re.findall(
            r"^Programming Language :: Python :: 3\.(\d+)$", SETTINGS["metadata"]["classifiers"], re.M
        )
    ]
    assert SETTINGS["options"]["python_requires"] == f">=3.{declared[0]}"
    assert declared == list(range(declared[0], declared[-1] + 1))
