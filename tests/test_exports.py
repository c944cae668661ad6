"""The package's face: complete, documented, quick to import, and free of side effects."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import snowgreen
from snowgreen import errors, events


def test_everything_public_is_exported() -> None:
    """Every error, every event and every name in __all__ is there, and __all__ is sorted."""
    assert list(snowgreen.__all__) == sorted(snowgreen.__all__)
    for module in (errors, events):
        for name, item in vars(module).items():
            if inspect.isclass(item) and item.__module__ == module.__name__:
                assert name in snowgreen.__all__, name
    for name in snowgreen.__all__:
        assert hasattr(snowgreen, name), name


@pytest.mark.parametrize("name", [n for n in snowgreen.__all__ if inspect.isclass(getattr(snowgreen, n))])
def test_everything_public_is_documented(name: str) -> None:
    """Every public class, and every public method and property of it, has a docstring of its own."""
    cls = getattr(snowgreen, name)
    assert inspect.getdoc(cls)
    for attribute, item in vars(cls).items():
        if not attribute.startswith("_") and (callable(item) or isinstance(item, property)):
            assert inspect.getdoc(item), f"{name}.{attribute}"


def run(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_patches_nothing() -> None:
    """The import leaves the standard library as it was."""
    code = "import snowgreen, gevent.monkey as m; print(m.saved, m.is_module_patched('socket'))"
    assert run(code) == "{} False"


def test_importing_loads_nothing_it_may_not_need() -> None:
    """The command line's, the certificate's and the config directory's libraries are loaded when used."""
    code = (
        "import sys, snowgreen; print(sorted({m.split('.')[0] for m in sys.modules}"
        " & {'click', 'rich', 'cryptography', 'platformdirs', 'msgspec', 'asyncio'}))"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all(); ", None])
def test_it_works_patched_unpatched_and_patched_late(patch: str | None) -> None:
    """Two nodes link in a program that patched first, that never did, and that did after the import."""
    late = "import snowgreen; from gevent import monkey; monkey.patch_all(); "
    code = (
        (late if patch is None else patch) + "import snowgreen\n"
        "c = 'correct horse battery staple'\n"
        "with snowgreen.Node('a@127.0.0.1:0', cookie=c) as a, snowgreen.Node('b@127.0.0.1:0', cookie=c) as b:\n"
        "    print(a.connect(b.name).ping() > 0)\n"
    )
    assert run(code) == "True"
