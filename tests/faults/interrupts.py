"""EVERY WORDS: `ditkit WORDS`, with Ctrl-C at every so manieth import, in a fork. Prints what did not end at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

SWALLOWED = ("gmpy2", "gmpy")  # Ctrl-C in these imports, by mpmath


class Interrupting:
    """A finder of modules that finds none, but forks a process in which Ctrl-C comes at this moment."""

    def __init__(self, every: int) -> None:
        self.every, self.process, self.imports, self.wrong = every, os.getpid(), 0, []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if os.getpid() != self.process:
            return
        self.imports += 1
        if self.imports % self.every and name not in SWALLOWED:
            return
        sys.stderr.flush()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(writing, 2)
            signal.alarm(60)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)  # the signal ends this
            return
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as output:
            said = output.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if (code, said) != (130, "interrupted\n"):
            self.wrong.append(f"{name}: exit {code}, {said[-2000:]!r}")


if __name__ == "__main__":
    from ditkit.__main__ import main

    finder = Interrupting(int(sys.argv.pop(1)))
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    code = main()
    if os.getpid() == finder.process:
        print("\n".join([f"{finder.imports} imports, exit {code}", *finder.wrong]), flush=True)
    sys.stderr.flush()
    os._exit(code)
