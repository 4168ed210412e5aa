"""Show what this installation can do: versions, devices, which kernels serve the operator, which extras are there."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Take no arguments."""


def run(args: Namespace) -> int:
    """Print the report; returns 0."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from involution.extras import EXTRAS, is_installed
    from involution.ops.info import served

    console = Console()
    console.print(*_versions(), sep="\n", markup=False, highlight=False)
    table = Table(
        "operator", "device", "kernel", "why not a faster one", title="which kernel runs", title_justify="left"
    )
    for row in served():
        table.add_row(*map(Text, (row.operator, row.device, row.kernel, row.why_not)))
    console.print(table)
    extras = Table("extra", "for", "", title="optional parts", title_justify="left")
    for name, extra in EXTRAS.items():
        missing = [package for package in extra.packages if not is_installed(package)]
        state = f'{", ".join(missing)} missing: pip install "involution[{name}]"' if missing else "installed"
        extras.add_row(*map(Text, (name, extra.purpose, state)))
    console.print(extras)
    return 0


def _versions() -> list[str]:
    import torch

    from involution import __version__

    lines = [f"involution {__version__}, torch {torch.__version__}, Python {platform.python_version()}"]
    lines.append(f"CPU: {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(f"GPU: {', '.join(gpus)}" if gpus else "GPU: none that torch can use")
    return lines
