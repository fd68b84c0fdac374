"""`svt-zoo search` as a script."""

import sys

from svt_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
