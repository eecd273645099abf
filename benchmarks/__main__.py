"""Run all benchmarks, each in a process of its own, and write results.md.

python -m benchmarks --data URI [--quick] [--only NAME ...]
"""

import argparse
import subprocess
import sys

NAMES = (
    "throughput",
    "time_to_accuracy",
    "workers",
    "safeties",
    "checkpoints",
    "startup",
    "recovery",
    "limits",
    "distance",
    "streaming",
    "scaling",
)


def main() -> int:
    """Run them one after the other and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", required=True, help="URI of MNIST's four files")
    parser.add_argument("--quick", action="store_true", help="see that all work; no figures")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    chosen = parser.parse_args()
    failed = []
    for name in chosen.only:
        flags = ["--quick"] if chosen.quick else ["--write"]
        command = [sys.executable, "-m", f"benchmarks.{name}", "--data", chosen.data, *flags]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
