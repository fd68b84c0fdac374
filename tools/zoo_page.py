"""`svt-zoo page` as a script."""

import sys

from svt_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["page", *sys.argv[1:]]))
