"""The C++ kernels on the layers of RedNet-50 against PyTorch's other ways, and whole networks; see --help."""

import sys

# a module of the standard library may bear the name of one in this folder, which Python would look into first
sys.path.pop(0)

import argparse
from pathlib import Path

from involution.studies.environment import start_for_measuring

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 16], help="batch sizes (default: 1 8 16)")
    parser.add_argument("--threads", type=int, help="threads (default: PyTorch's)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each measurement (default: 1)")
    parser.add_argument("--no-networks", action="store_true", help="only the operator's layers")
    parser.add_argument(
        "--compile", action="store_true", help="also torch.compile's code; compiling takes many minutes"
    )
    parser.add_argument("--output", type=Path, help="CSV file (default: a name with versions in results/)")
    options = parser.parse_args()
    start_for_measuring()

    import torch

    from involution.ops import native
    from involution.studies.cpu_benchmark import run, summary
    from involution.studies.timing import device_name, write_csv

    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{device_name()}, torch {torch.__version__}, kernels: {native.instruction_set()}")
    print(f"{'measure':<17} {'layer':<18} {'batch':>5} {'candidate':<27} {'ms':>9}  ratio (p20, p80)")
    rows = []
    for row in run(
        tuple(options.batch), seconds=options.seconds, networks=not options.no_networks, compiled=options.compile
    ):
        rows.append({**row, "kernels": native.instruction_set()})
        print(
            f"{row['measure']:<17} {row['layer']:<18} {row['batch']:>5} {row['candidate']:<27} {row['p50_ms']:>9.3f}"
            f"  {row['p50_ratio']:.2f} ({row['p20_ratio']:.2f}, {row['p80_ratio']:.2f})",
            flush=True,
        )
    print(f"{'target (median over layers)':<72} {'wanted':>7} {'measured':>9}")
    for target in summary(rows):
        print(f"{target.name:<72} {target.wanted:>7} {target.measured:>9.3g}{'' if target.met else '  missed'}")
    default = RESULTS / f"cpu_{native.instruction_set()}_torch{torch.__version__.split('+')[0]}.csv"
    write_csv(options.output or default, rows)
    print(f"written to {options.output or default}")


if __name__ == "__main__":
    main()
