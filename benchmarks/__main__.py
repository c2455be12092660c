"""All measurements: `python -m benchmarks [accuracy | speed] [options]`."""

import sys

from . import accuracy, speed

BENCHMARKS = {"accuracy": accuracy, "speed": speed}


def main(arguments):
    """Run the benchmark that is named first, or all of them."""
    if arguments and arguments[0] in BENCHMARKS:
        BENCHMARKS[arguments[0]].main(arguments[1:])
    elif not arguments:
        for benchmark in BENCHMARKS.values():
            benchmark.main([])
    else:
        sys.exit(
            f"usage: python -m benchmarks [{' | '.join(BENCHMARKS)}] [options]\n"
            "--help after a name lists its options; without a name, all are run"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
