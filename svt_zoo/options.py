"""Bounds of options: each dataclass of options states them in its `__post_init__`."""

import math
from typing import Any


def bounds(options: Any, *names: str, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> None:
    """Raise a ValueError unless low <= value <= high and value > above, for each value of the options `names`.

    A tuple is checked item by item; null is allowed; NaN never is.
    """
    limits = [f"{sign} {limit:g}" for sign, limit in ((">=", low), (">", above), ("<=", high)) if math.isfinite(limit)]
    for name in names:
        value = getattr(options, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int | float) and not (low <= item <= high and item > above):
                raise ValueError(f"{name} must be {' and '.join(limits) or 'a finite number'}, got {value}")
