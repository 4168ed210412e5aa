"""Run a suite of benchmarks and write its rows into benchmarks/results; with nothing installed but what it measures.

`involution bench` measures the same, draws tables and a plot, and writes where the user wants. From a bare checkout:
PYTHONPATH=src python benchmarks/run.py gpu
"""

import argparse
import sys
from pathlib import Path

from involution.studies import harness, origin, suites
from involution.studies.errors import StudyError

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run what the command line asks for; returns 0, or 1 if some of it failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    suites.add_arguments(parser)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the CSV file (default: results/)")
    args = parser.parse_args()
    try:
        options = suites.options(args)
        name = args.suite or suites.default()
        suite = suites.load(name)
        plan = suite.measurements(options)
    except (StudyError, ModuleNotFoundError) as error:
        parser.error(str(error))
    origin.start_for_measuring(dry_run=options.dry_run, on_cpu=suite.on_cpu)
    path = args.output / f"{suites.results_name(name, options)}.csv"
    print(f"{name}: {origin.machine()}")
    rows = []
    for row in harness.run(plan, suite.limit(options)):
        rows.append(row)
        if not options.dry_run:
            # each time, so that a run that is cut off leaves what it has
            origin.write_csv(path, rows, replace=True)
        print(harness.line(row), flush=True)
    if options.dry_run:
        print("nothing is written: the times of a dry run mean nothing")
    else:
        for target in suite.targets(rows):
            print(f"{target.name}: {target.measured:g}, wanted {target.wanted}{'' if target.met else ', missed'}")
        print(f"written to {path}")
    return int(harness.failed(rows))


if __name__ == "__main__":
    sys.exit(main())
