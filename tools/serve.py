"""Show a page in the browser: drop a video, see its classes or neighbours and what the model looks at."""

import argparse
import sys
import threading
from dataclasses import replace

from svt_zoo import WeightsError
from svt_zoo.inference.serve import DEFAULT_MODEL, UPLOAD_LIMITS, serve


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", help=f"weights, a path or an address; by default those of --features, without it {DEFAULT_MODEL}"
    )
    parser.add_argument("--features", help="a table by tools/extract_features.py with this model: shows neighbours")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-megabytes", type=int, default=100, help="of an upload")
    parser.add_argument("--max-seconds", type=float, default=UPLOAD_LIMITS.max_duration, help="of a video")
    parser.add_argument("--max-pixels", type=int, default=UPLOAD_LIMITS.max_pixels, help="of a frame")
    args = parser.parse_args(argv)
    limits = replace(UPLOAD_LIMITS, max_duration=args.max_seconds, max_pixels=args.max_pixels)
    options = {"features": args.features, "host": args.host, "port": args.port, "limits": limits}
    try:
        with serve(args.model, max_bytes=args.max_megabytes * 1_000_000, **options) as address:
            print(f"the page is at {address}; Ctrl-C ends it", flush=True)
            threading.Event().wait()
    except (WeightsError, ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
