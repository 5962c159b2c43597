"""`ditkit`, and `python -m ditkit`, the same."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; Ctrl-C ends it in one line also while it is still being imported."""
    try:
        from .runtime import clock

        clock.start()
        from .cli.app import main as run

        return run()
    except KeyboardInterrupt:
        os.write(2, b"interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
