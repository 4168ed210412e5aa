"""The GPU kernels on the layers of RedNet-50 against PyTorch's other ways, and whole networks; see --help.

Needs nothing but torch and Triton, and timm and torchvision for the networks: PYTHONPATH=src python benchmarks/gpu.py
"""

import sys

# a module of the standard library may bear the name of one in this folder, which Python would look into first
sys.path.pop(0)

import argparse
import os
import re
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="how often each candidate is timed (default: 15)")
    parser.add_argument("--minutes", type=float, default=8.5, help="begin nothing after so long (default: 8.5)")
    parser.add_argument("--no-networks", action="store_true", help="only the operator's layers")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tiny layers and networks on the CPU by Triton's interpreter: shows that all of it works",
    )
    parser.add_argument("--output", type=Path, help="CSV file (default: a name with device and versions in results/)")
    options = parser.parse_args()
    if options.dry_run:
        # read when triton is imported
        os.environ["TRITON_INTERPRET"] = "1"

    import torch
    import triton

    from involution.studies import gpu_benchmark
    from involution.studies.timing import device_name, write_csv

    arguments = {"minutes": options.minutes, "compiled": not options.no_compile}
    networks = gpu_benchmark.TINY_NETWORKS if options.dry_run else gpu_benchmark.NETWORKS
    if options.dry_run:
        arguments |= {"problems": gpu_benchmark.TINY, "device": "cpu", "rounds": 2}
    elif torch.cuda.is_available():
        arguments |= {"rounds": options.rounds}
    else:
        parser.error("there is no GPU that torch can use; --dry-run works without one")
    device = re.sub(r"\W+", "-", device_name().lower()).strip("-")
    name = f"gpu_{device}_torch{torch.__version__.split('+')[0]}_triton{triton.__version__}.csv"
    # an interpreter's times say nothing
    output = options.output or (None if options.dry_run else RESULTS / name)
    print(f"{device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    rows = []
    for row in gpu_benchmark.run(networks=None if options.no_networks else networks, **arguments):
        rows.append({**row, "triton": triton.__version__})
        if output:
            # each time, so that a run that is cut off leaves what it has
            write_csv(output, rows)
        shown = [row["measure"], row["layer"], str(row.get("batch", "")), row.get("dtype", ""), row["candidate"]]
        numbers = {k: v for k, v in row.items() if isinstance(v, float) and not k.startswith(("p20", "p80"))}
        print(
            "  ".join(filter(None, shown)), *(f"{k} {v:g}" for k, v in numbers.items()), row.get("note", ""), flush=True
        )
    print(f"{'target':<80} {'wanted':>7} {'measured':>9}")
    for target in gpu_benchmark.summary(rows, networks):
        print(f"{target.name:<80} {target.wanted:>7} {target.measured:>9.3g}{'' if target.met else '  missed'}")
    print(f"written to {output}" if output else "nothing is written: an interpreter's times say nothing")


if __name__ == "__main__":
    main()
