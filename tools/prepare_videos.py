"""`svt-zoo prepare` as a script."""

import sys

from svt_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
