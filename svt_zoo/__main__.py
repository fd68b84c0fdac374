"""`python -m svt_zoo COMMAND` is `svt-zoo COMMAND`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
