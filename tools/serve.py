"""`svt-zoo serve` as a script."""

import sys

from svt_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
