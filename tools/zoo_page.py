"""Write MODEL_ZOO.md anew, from the table of weights and the result files."""

import argparse
from dataclasses import asdict
from pathlib import Path

from svt_zoo.evaluation.results import read_result
from svt_zoo.hub.page import zoo_page

ROOT = Path(__file__).resolve().parents[1]


def current_page(results: Path = ROOT / "results") -> str:
    return zoo_page([asdict(read_result(path)) for path in sorted(results.glob("*.json"))])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of result files")
    parser.add_argument("--output", type=Path, default=ROOT / "MODEL_ZOO.md")
    args = parser.parse_args(argv)
    args.output.write_text(current_page(args.results), encoding="utf-8")
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
