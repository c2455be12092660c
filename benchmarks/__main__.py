"""All measurements: `python -m benchmarks [NAME] [options]`, NAME of BENCHMARKS."""

import importlib
import sys

BENCHMARKS = "accuracy", "elastic", "errors", "field", "sharing", "single_atoms"
BENCHMARKS += "spectra", "speed", "scale", "trust"


def main(arguments):
    """Run the benchmark that is named first, or all of them."""
    if arguments and arguments[0] not in BENCHMARKS:
        sys.exit(
            f"usage: python -m benchmarks [{' | '.join(BENCHMARKS)}] [options]\n"
            "--help after a name lists its options; without a name, all are run"
        )
    for name in arguments[:1] or BENCHMARKS:
        importlib.import_module(f".{name}", __package__).main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
