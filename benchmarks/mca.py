"""Work out from the compiled code alone how fast the kernels' inner loops are on processors that may not be here.

`make mca` compiles the specialised tiles of csrc for AVX-512, lets llvm-mca simulate each inner loop, and writes a file
per processor into benchmarks/results. The simulation finds all data in the first-level cache and predicts every jump,
so it shows what the loop itself allows, not what memory does to it.
"""

import argparse
import csv
import json
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# LLVM models Sapphire Rapids, and with it Emerald Rapids, with one unit for multiply-adds of 512 bits, as the core has
# in a client; servers have two, and so has the model of their predecessor, with as many ports for loads
PROCESSORS = "znver4", "sapphirerapids", "skylake-avx512"
# the first whose models of both processors are their own
OLDEST_LLVM = 17
FLAGS = ["-std=c++17", "-O3", "-g0", "-Wno-psabi", "-ffp-contract=fast", "-fno-math-errno"]
PEAK = "multiply-adds alone"
FMA = re.compile(r"\s+(vfn?madd|vdpbf16ps|vpdpbusd)")


class Loop(NamedTuple):
    """An inner loop: what it does, the function that has it, and the multiply-adds of one turn."""

    kernel: str
    tile: str
    function: str
    multiply_adds: int


def tile(kernel: str, order: str, taps: int, targets: int, low: int, high: int, stride: int = 1) -> Loop:
    """Return the loop over the rows of a tile, `low` and `high` columns being outside the image at its ends."""
    columns = range(low, (targets - 1) * stride + taps - high)
    inside = sum(t * stride + tap in columns for t in range(targets) for tap in range(taps))
    border = f", {low}+{high} columns outside" if low + high else ""
    name = f"{taps} taps, stride {stride}, {targets} targets{border}"
    return Loop(kernel, name, f"tile<float, {taps}, {stride}, {targets}, {low}, {high}, Order::{order}>", inside)


def loops() -> Iterator[Loop]:
    """Yield the loops of RedNet's layers; 7 targets are what stage 4 has."""
    for targets, low, high in (14, 0, 0), (14, 3, 0), (14, 3, 3), (7, 0, 0), (7, 3, 3):
        yield tile("forward, taps innermost", "taps", 7, targets, low, high)
    yield tile("forward, taps innermost", "taps", 3, 14, 0, 0)
    for targets, low, high in (14, 0, 0), (14, 3, 2), (7, 3, 2):
        yield tile("forward, taps innermost", "taps", 7, targets, low, high, stride=2)
    for targets, low, high in (14, 0, 0), (7, 3, 3):
        yield tile("forward, taps outermost", "targets", 7, targets, low, high)
    for taps, targets, low, high in (7, 14, 0, 0), (7, 14, 3, 3), (7, 7, 3, 3), (3, 14, 0, 0):
        yield tile("gradient of the input, taps innermost", "column", taps, targets, low, high)
    for taps in 4, 3:
        yield tile("gradient of the input of stride 2, taps innermost", "column2", taps, 14, 0, 0)
    yield Loop("generation", "14 pixels, 2 vectors of taps", "generate_panels<float, 2, float>", 28)


def compiled(compiler: str, folder: Path, every: list[Loop]) -> str:
    """Return the assembly of the functions, compiled as setup.py compiles them."""
    features = runpy.run_path(str(ROOT / "csrc/sets/listed.py"))["listed"]("x86_64")["avx512"]
    source = folder / "tiles.cpp"
    pointers = "".join(f"  (void*)&{loop.function},\n" for loop in every)
    source.write_text(
        '#include "kernels/gather.h"\nnamespace involution {\nextern void* const tiles[];\n'
        f"void* const tiles[] = {{\n{pointers}}};\n}}\n"
    )
    command = [compiler, *FLAGS, *features, "-I", str(ROOT / "csrc"), "-S", "-o", "-", str(source)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def functions(assembly: str, every: list[Loop]) -> dict[Loop, list[str]]:
    """Return the lines of each loop's function; `tiles` holds their names in order."""
    names = re.findall(r"^\t\.quad\t(\S+)$", assembly[assembly.index("5tilesE:") :], re.MULTILINE)
    lines = assembly.splitlines()
    found = {}
    for loop, name in zip(every, names, strict=False):
        start = lines.index(f"{name}:")
        end = next(i for i in range(start, len(lines)) if lines[i].startswith(f"\t.size\t{name},"))
        found[loop] = lines[start + 1 : end]
    return found


def inner_loop(lines: list[str], multiply_adds: int) -> list[str]:
    """Return the shortest part from a label to a jump back to it that has all multiply-adds."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:$", line)}
    best: list[str] = []
    for i, line in enumerate(lines):
        jump = re.match(r"\tj\w+\t(\.L\w+)$", line)
        if jump is None or labels.get(jump[1], i) >= i:
            continue
        body = lines[labels[jump[1]] + 1 : i + 1]
        if sum(bool(FMA.match(one)) for one in body) >= multiply_adds and (not best or len(body) < len(best)):
            best = body
    # a simulator runs straight through; labels and the compiler's directives mean nothing to it
    return [line for line in best if line.startswith("\t") and not line.startswith("\t.")]


def simulated(mca: str, processor: str, body: list[str]) -> dict[str, Any]:
    """Return what llvm-mca says of 200 turns of a loop."""
    command = [mca, "-mtriple=x86_64", f"-mcpu={processor}", "-iterations=200", "--json", "-"]
    run = subprocess.run(command, input="\n".join(body) + "\n", capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def row(report: dict[str, Any], processor: str, loop: Loop, peak: float) -> dict[str, Any]:
    """Return a row of results; `peak` is the processor's multiply-adds a cycle, or 0 for the row that finds it."""
    region = report["CodeRegions"][0]
    summary, infos = region["SummaryView"], region["InstructionInfoView"]["InstructionList"]
    cycles = summary["TotalCycles"] / summary["Iterations"]
    loads = sum(bool(info["mayLoad"]) for info in infos)
    pressure: dict[str, float] = defaultdict(float)
    for use in region["ResourcePressureView"]["ResourcePressureInfo"]:
        if use["InstructionIndex"] == len(infos):
            pressure[report["TargetInfo"]["Resources"][use["ResourceIndex"]]] += use["ResourceUsage"]
    # those that are busy for more than half of the time, the busiest first
    busy = sorted((item for item in pressure.items() if item[1] > cycles / 2), key=lambda item: -item[1])
    rate = loop.multiply_adds / cycles
    return {
        "processor": processor,
        "kernel": loop.kernel,
        "tile": loop.tile,
        "multiply_adds": loop.multiply_adds,
        "instructions": len(infos),
        "loads_per_multiply_add": round(loads / loop.multiply_adds, 3),
        "cycles": round(cycles, 1),
        "multiply_adds_per_cycle": round(rate, 3),
        "share_of_peak": round(rate / (peak or rate), 3),
        "busy_ports": ", ".join(f"{name} {used / cycles:.0%}" for name, used in busy),
    }


def llvm_mca() -> str:
    """Return the newest llvm-mca here that knows both processors; exits with one line where there is none."""
    names = ["llvm-mca", *(f"llvm-mca-{version}" for version in range(OLDEST_LLVM, 40))]
    for name in reversed(names):
        path = shutil.which(name)
        if path is None:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"version (\d+)", said)
        if version is not None and int(version[1]) >= OLDEST_LLVM:
            return path
    raise SystemExit(f"make mca needs llvm-mca {OLDEST_LLVM} or newer: apt-get install llvm-19")


def main() -> None:
    """Simulate every loop on every processor, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("processors", nargs="*", default=PROCESSORS, help=f"as LLVM names them (default: {PROCESSORS})")
    parser.add_argument("--compiler", default="g++", help="as the package is built with (default: g++)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the CSV files")
    args = parser.parse_args()
    mca = llvm_mca()
    every = list(loops())
    with tempfile.TemporaryDirectory() as folder:
        bodies = functions(compiled(args.compiler, Path(folder), every), every)
    alone = [f"\tvfmadd231ps\t%zmm30, %zmm31, %zmm{i}" for i in range(16)]
    for processor in args.processors:
        rows = [row(simulated(mca, processor, alone), processor, Loop(PEAK, "", "", len(alone)), 0)]
        peak = rows[0]["multiply_adds_per_cycle"]
        for loop, lines in bodies.items():
            body = inner_loop(lines, loop.multiply_adds)
            if not body:
                raise SystemExit(f"make mca: no loop of {loop.multiply_adds} multiply-adds found in {loop.function}")
            rows.append(row(simulated(mca, processor, body), processor, loop, peak))
        for one in rows:
            print(
                f"{processor}: {one['kernel']}, {one['tile']}: {one['multiply_adds_per_cycle']:.2f} multiply-adds "
                f"a cycle ({one['share_of_peak']:.0%}), {one['loads_per_multiply_add']:.2f} loads each; "
                f"{one['busy_ports']}"
            )
        path = args.output / f"mca_{processor}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
