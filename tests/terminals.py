"""Commands in a terminal of their own, as a person starts them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


def start_in(terminal: int, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Run `command` with the pseudo-terminal of this descriptor as its controlling one.

    A session without one gets it by opening one, which the shell in front does. Done in the child of a fork, it
    would need a fork without threads.
    """
    return subprocess.Popen(
        ["sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', os.ttyname(terminal), *command],
        env=dict(environ),
        start_new_session=True,
    )
