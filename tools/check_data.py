"""`svt-zoo check` as a script."""

import sys

from svt_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
