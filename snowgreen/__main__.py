"""The door of the command line: ``python -m snowgreen`` and the console script both come in here."""

# Before anything else is imported, so that all of it waits through gevent.
from gevent import monkey

monkey.patch_all()

import signal  # noqa: E402

from .cli import run  # noqa: E402


def main() -> None:
    """Run the command line and exit."""
    # Where no command has taken Ctrl-C over, it ends the process at once: there is nothing to undo,
    # and a KeyboardInterrupt would leave a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run()


if __name__ == "__main__":
    main()
