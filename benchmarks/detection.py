"""The published detectors against torchvision's with a ResNet-50: a training step, a prediction, memory; see --help."""

import sys

# a module of the standard library may bear the name of one in this folder, which Python would look into first
sys.path.pop(0)

import argparse
import re
from pathlib import Path

from involution.studies.environment import start_for_measuring

RESULTS = Path(__file__).parent / "results"
FAMILIES = ("retinanet", "faster_rcnn", "mask_rcnn", "neck")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--family", nargs="+", choices=FAMILIES, default=FAMILIES, help="which; each has a CSV file of its own"
    )
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), help="height and width (default: 800 1344)")
    parser.add_argument("--batch", type=int, default=1, help="images (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="least rounds of each measurement (default: 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="least time for each measurement (default: 1)")
    parser.add_argument("--no-unfold", action="store_true", help="leave unfold out, which needs 11 GB of memory")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the CSV files (default: results/)")
    options = parser.parse_args()
    start_for_measuring()

    import torch

    from involution.ops import native
    from involution.studies.detection_benchmark import run
    from involution.studies.timing import device_name, write_csv

    cuda = torch.cuda.is_available()
    kernels = "triton" if cuda else native.instruction_set() or "plain"
    device = re.sub(r"\W+", "-", device_name().lower()).strip("-") if cuda else f"cpu-{kernels}"
    print(f"{device_name()}, torch {torch.__version__}, kernels: {kernels}")
    print(f"{'family':<12} {'measure':<17} {'candidate':<34} {'ms':>10}  ratio (p20, p80)      peak MB")
    for family in options.family:
        rows = []
        path = options.output / f"detection_{family}_{device}_torch{torch.__version__.split('+')[0]}.csv"
        for row in run(
            (family,),
            size=tuple(options.size),
            batch=options.batch,
            device="cuda" if cuda else "cpu",
            seconds=options.seconds,
            rounds=options.rounds,
            unfold=not options.no_unfold,
        ):
            rows.append({**row, "kernels": kernels})
            # what was measured is kept, should the rest be cut off
            write_csv(path, rows)
            per_output = f"  {row['peak_per_output']:.2f} × output" if "peak_per_output" in row else ""
            print(
                f"{family:<12} {row['measure']:<17} {row['candidate']:<34} {row['p50_ms']:>10.1f}",
                f" {row['p50_ratio']:.2f} ({row['p20_ratio']:.2f}, {row['p80_ratio']:.2f})",
                f" {row['peak_bytes'] / 1e6:>10.0f}{per_output}",
                flush=True,
            )
        print(f"written to {path}", flush=True)


if __name__ == "__main__":
    main()
