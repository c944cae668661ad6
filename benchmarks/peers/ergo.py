"""Ergo: actors in Go, and its own distribution over TLS between nodes of that.

The peer itself is the program in the folder ``ergo``. It is built once, into the user's cache, and then takes
the place of this process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import platformdirs

from .common import missing

SOURCE: Final = Path(__file__).with_name("ergo")
#: Where Go's own installer puts it, which is on nobody's PATH by itself.
USUAL: Final = "/usr/local/go/bin/go"


def build(go: str) -> Path:
    """The program, which is built unless the cache has it.

    :raises subprocess.CalledProcessError: if it cannot be.
    """
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, check=True, text=True).stdout
    digest = hashlib.sha256(version.encode())
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((SOURCE / name).read_bytes())
    folder = platformdirs.user_cache_path("snowgreen") / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"ergo-{digest.hexdigest()[:16]}"
    with (folder / "ergo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the server and the client start together
        if not program.exists():
            unfinished = program.with_suffix(".unfinished")
            command = [go, "build", "-buildvcs=false", "-o", str(unfinished), "."]
            environment = {**os.environ, "GOTOOLCHAIN": "local"}  # fetch no other Go
            subprocess.run(command, cwd=SOURCE, env=environment, capture_output=True, check=True, text=True)
            unfinished.rename(program)
    return program


def main() -> None:
    """Become the program."""
    go = shutil.which("go") or shutil.which(USUAL)
    if go is None:
        missing("install Go, 1.22 or later: https://go.dev/dl")
    try:
        program = build(go)
    except subprocess.CalledProcessError as error:
        missing(f"{' '.join(error.cmd)}: {error.stderr.strip()}")
    os.execv(program, [str(program), *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
