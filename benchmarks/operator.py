"""Time and peak memory of involution2d against eager unfold on the layers of RedNet-50; see --help."""

import sys

# this file bears the name of a standard module, and Python looks for modules in a script's folder first
sys.path.pop(0)

import argparse
import os
from pathlib import Path

# both are read when torch is imported: the profiler behind the memory figures logs each start and stop, and threads
# that wait by spinning make every figure a matter of what else runs
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from involution.studies.operator_benchmark import kernel_in_use, medians, run
from involution.studies.timing import device_name, write_csv

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    parser.add_argument("--contiguous", action="store_true", help="NCHW tensors instead of channels_last")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each measurement (default: 1)")
    parser.add_argument("--output", type=Path, help="CSV file (default: a name with device and version in results/)")
    options = parser.parse_args()
    print(f"{device_name()}, torch {torch.__version__}, kernel: {kernel_in_use()}")
    print(f"{'layer':<18} {'batch':>5} {'mode':<17} {'involution ms':>13} {'unfold ms':>10} {'×':>6}  peak MB")
    rows = []
    for row in run(tuple(options.batch), channels_last=not options.contiguous, seconds=options.seconds):
        rows.append(row)
        print(
            f"{row['layer']:<18} {row['batch']:>5} {row['mode']:<17} {row['involution_p50_ms']:>13.2f}"
            f" {row['unfold_p50_ms']:>10.2f} {row['speedup']:>6.1f}"
            f"  {row['involution_peak_mb']:.1f} against {row['unfold_peak_mb']:.1f}",
            flush=True,
        )
    for (batch, mode), (speed, memory) in medians(rows).items():
        print(f"median over layers, batch {batch}, {mode}: {speed:.1f}× faster, {memory:.1f}× leaner")
    layout = "contiguous" if options.contiguous else "channels_last"
    default = RESULTS / f"operator_{kernel_in_use()}_{layout}_torch{torch.__version__.split('+')[0]}.csv"
    write_csv(options.output or default, rows)
    print(f"written to {options.output or default}")


if __name__ == "__main__":
    main()
