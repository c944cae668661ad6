"""A monkey-patch that came too late, or left things out, is named; a whole one, or none, is not spoken of.

That there is no false alarm in gunicorn, preloaded or not, the tests of the examples see.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Never

import gevent.monkey
import pytest

from snowgreen import patching

LINK = """
import gevent, snowgreen
with gevent.Timeout(20):
    a = snowgreen.Node("a@127.0.0.1:0", cookie="x" * 16).start()
    b = snowgreen.Node("b@127.0.0.1:0", cookie="x" * 16).start()
    inbox = b.mailbox("jobs")
    a.send(b.name, "jobs", {"id": 7})
    assert inbox.get(timeout=5).body == {"id": 7}
    a.stop(); b.stop()
print("linked")
"""
PATCH = "from gevent import monkey; monkey.patch_all({})\n"


def run(code: str, *options: str, folder: Path | None = None) -> tuple[str, list[str]]:
    """What a program writes, and the warnings of snowgreen's that it gets."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]


@pytest.mark.parametrize(
    "before",
    [
        "",
        PATCH.format(""),
        "import ssl, threading, socket, time, _pytest.timing, snowgreen\n" + PATCH.format(""),
    ],
    ids=["unpatched", "patched", "patched after the import"],
)
def test_no_false_alarm(before: str) -> None:
    """Unpatched, patched, and patched after snowgreen and what holds no such name: no warning, and nodes link."""
    assert run(before + LINK) == ("linked\n", [])


def test_who_asks_for_what_was_before_is_no_alarm(tmp_path: Path) -> None:
    """Sentry's profiler runs in a thread of its own, and asks gevent for the sleep that is made for one."""
    (tmp_path / "sentry_sdk.py").write_text(
        "from gevent.monkey import get_original\nthread_sleep = get_original('time', 'sleep')\n"
    )
    assert run(PATCH.format("") + "import sentry_sdk\n" + LINK, folder=tmp_path) == ("linked\n", [])


def test_no_false_alarm_from_gevents_own_program(tmp_path: Path) -> None:
    """Run by python -m gevent.monkey it is patched before the program, with whatever that imports."""
    (tmp_path / "program.py").write_text("from time import sleep\nfrom ssl import SSLContext\n" + LINK)
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "gevent.monkey", "program.py"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "linked\n"), done.stderr


def test_what_was_left_out_is_named() -> None:
    """A patch in part is told of once, where snowgreen is imported, with what that does; nodes link all the same."""
    output, (warning,) = run(PATCH.format("ssl=False, thread=False") + LINK)
    assert output == "linked\n"
    assert "patched in part, as by patch_all(ssl=False, thread=False)" in warning
    assert "TLS connections of the application's own, locks, events and queues of the threading" in warning
    assert "Patch all, or nothing" in warning
    assert warning.startswith("<string>:3: ")


class Monkey:
    """As much of gevent.monkey as is asked, with these names patched."""

    def __init__(self, *patched: str) -> None:
        self.patched = patched

    def is_object_patched(self, module: str, attribute: str) -> bool:
        return f"{module}.{attribute}" in self.patched


WAITING = [f"{module}.{attribute}" for module, attribute, *_ in patching._WAITING]


@pytest.mark.parametrize(
    ("names", "argument"),
    [
        (["socket.socket", "socket.getaddrinfo"], "socket=False"),
        (["socket.getaddrinfo"], "dns=False"),
        (["ssl.SSLContext"], "ssl=False"),
        (["_thread.allocate_lock"], "thread=False"),
        (["time.sleep", "select.select"], "time=False, select=False"),
    ],
)
def test_each_part_is_named_by_its_argument(names: list[str], argument: str) -> None:
    """Whatever was left out is named as the argument of patch_all that leaves it out."""
    problem = patching._left_out(Monkey(*set(WAITING) - set(names)))
    assert problem is not None
    assert f"as by patch_all({argument}). What" in problem


def test_all_or_nothing_is_no_problem() -> None:
    """Patched wholly, or not at all, or only in what does not wait, a process is as its author wants it."""
    for patched in (WAITING, [], ["subprocess.Popen", "signal.signal"]):
        assert patching._left_out(Monkey(*patched)) is None


def test_a_patch_in_part_after_the_import_is_found_at_the_start() -> None:
    """What came after the import is told of where a node is started, in the name of the one who starts it."""
    starting = "def serve():\n    return snowgreen.Node(cookie='x' * 16).start()\nserve().stop()\n"
    _, (warning,) = run("import snowgreen\n" + PATCH.format("ssl=False") + starting)
    assert warning.startswith("<string>:4: ")
    assert "ssl=False" in warning


def test_who_holds_what_was_there_before_is_named(tmp_path: Path) -> None:
    """A module that was imported before the patch, and has what waits by name, is named with what comes of it."""
    (tmp_path / "early.py").write_text("from ssl import SSLContext\nfrom time import sleep, time\n")
    output, (warning,) = run("import early\n" + PATCH.format("") + LINK, folder=tmp_path)
    assert output == "linked\n"
    assert "came too late" in warning
    assert "early has ssl.SSLContext (it fails with a RecursionError when it is configured)" in warning
    assert "early has time.sleep (it blocks the loop)" in warning
    assert "time.time" not in warning
    # That is true:
    broken = "\ntry:\n    early.SSLContext(2).minimum_version = 772\nexcept RecursionError:\n    print('as told')\n"
    output, _ = run("import early\n" + PATCH.format("") + broken, folder=tmp_path)
    assert output == "as told\n"


def test_of_many_a_few_are_named(tmp_path: Path) -> None:
    """However many hold something, the program among them, the warning stays a sentence."""
    for number in range(9):
        (tmp_path / f"early{number}.py").write_text("from time import sleep\n")
    early = ", ".join(f"early{number}" for number in range(9))
    code = f"import {early}\nfrom time import sleep\n" + PATCH.format("") + "import snowgreen"
    _, (warning,) = run(code, folder=tmp_path)
    assert "before it: __main__ has time.sleep" in warning
    assert "early1 has time.sleep" in warning
    assert ", and 7 more." in warning
    assert "early2" not in warning


def test_a_lazy_module_stays_unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at what modules hold loads none of those that wait to be used first."""
    (tmp_path / "lazy_one.py").write_text("raise AssertionError('it was loaded')")
    spec = importlib.util.spec_from_file_location("lazy_one", tmp_path / "lazy_one.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lazy_one", module)
    spec.loader.exec_module(module)
    assert list(patching._holders({})) == []


def test_it_costs_nothing_where_nothing_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a patch no module is looked at."""
    assert not gevent.monkey.is_module_patched("socket"), "these tests run unpatched"

    def never(_: object) -> Never:
        raise AssertionError("it looked")

    monkeypatch.setattr(patching, "_holders", never)
    patching.check()
