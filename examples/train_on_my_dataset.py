"""Train on a dataset defined in a file of your own (my_stripes.py beside this one).

python examples/train_on_my_dataset.py [STEPS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import ditkit
from ditkit.registry import DATASETS


def main(steps: int = 300) -> Path:
    DATASETS.add_file(Path(__file__).with_name("my_stripes.py"))
    config = ditkit.load_recipe(
        "mnist", {"data": {"name": "my-stripes"}, "train": {"steps": steps, "validate_every": steps}}
    )
    return ditkit.train(config, "runs/my-stripes")


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:2])))
