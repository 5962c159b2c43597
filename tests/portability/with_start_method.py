"""A ditkit command line in a process whose worker processes start in another way: `with_start_method.py spawn list`."""

import multiprocessing
import sys

if __name__ == "__main__":
    from ditkit.cli.app import main

    multiprocessing.set_start_method(sys.argv[1], force=True)
    sys.exit(main(sys.argv[2:]))
