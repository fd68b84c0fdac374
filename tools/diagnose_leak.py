"""Moved to examples/diagnose_leak.py; this path works until the next release."""

import runpy
import warnings
from pathlib import Path

if __name__ == "__main__":
    warnings.warn("tools/diagnose_leak.py has moved to examples/diagnose_leak.py", DeprecationWarning, stacklevel=1)
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "diagnose_leak.py"), run_name="__main__")
