"""Commands of `svt-zoo`, run in this process."""

from collections.abc import Callable

from svt_zoo.cli import main


def command(name: str) -> Callable[[list[str]], int]:
    """`svt-zoo NAME` as a function of its arguments; it returns the exit status."""
    return lambda arguments: main([name, *arguments])
