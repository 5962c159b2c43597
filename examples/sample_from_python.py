"""Load the newest run (or the one named) and draw one image of each label.

python examples/sample_from_python.py [RUN]
"""

from __future__ import annotations

import sys
from pathlib import Path

import ditkit


def main(run: str | None = None) -> Path:
    trained = ditkit.load(run)
    samples = ditkit.sample(trained, list(trained.info.labels) or 8, seed=1, steps=10)
    path = Path("samples-from-python.png")
    ditkit.save_grid(samples, path, columns=5)
    return path


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))
