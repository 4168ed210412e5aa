"""Published weights by name: `list` what there is, `get` files, say `where` they are, print a `card`, `save` a folder.

`get` downloads each file once, converts it and prints its path; commands that take a name do so by themselves. `card`
prints a model card: origin, licence, figures, limits. `save` writes weights, settings and card to a folder, as the
Hugging Face Hub has them. INVOLUTION_WEIGHTS=FOLDER uses files that are in that folder, INVOLUTION_WEIGHTS=ADDRESS
downloads from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ACTIONS = ("list", "get", "where", "card", "save")

examples = (
    "involution weights get rednet50",
    "involution weights card rednet50",
)


def add_arguments(parser: Any) -> None:
    """Add what to do and with which weights."""
    parser.add_argument("action", nargs="?", default="list", choices=_ACTIONS, help="what to do")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as rednet50; `get` and `where` take several")
    parser.add_argument("--again", action="store_true", help="get: download anew, even if the file is there")
    parser.add_argument("--output", metavar="FOLDER", help="save: a new or empty folder")


def run(args: Any) -> int:
    """List, get, locate or describe published weights."""
    from involution.extras import require

    require("timm", "safetensors")
    from involution.models.errors import WeightsError
    from involution.models.weights import PUBLISHED, find

    names = args.names or ([entry.name for entry in PUBLISHED] if args.action in ("list", "where") else [])
    entries = [find(name) for name in names]
    if not entries or (args.action in ("card", "save") and len(entries) > 1):
        raise WeightsError(f"which weights? involution weights {args.action} {PUBLISHED[0].model}")
    if args.again and args.action != "get":
        raise WeightsError(f"--again is for get, not for {args.action}")
    if bool(args.output) != (args.action == "save"):
        raise WeightsError(
            f"where to? involution weights save {entries[0].model} --output FOLDER"
            if args.action == "save"
            else f"--output is for save, not for {args.action}"
        )
    {"list": _list, "get": _get, "where": _where, "card": _card, "save": _save}[args.action](entries, args)
    return 0


def _list(entries: list[Any], args: Any) -> None:
    from rich.console import Console

    from involution.cli.measuring import show
    from involution.models.weights import present
    from involution.studies.tables import Table

    rows = []
    for entry in entries:
        top1, top5 = entry.figures["authors"]
        rows.append(
            [
                entry.model,
                entry.name,
                f"{entry.parameters / 1e6:.1f}",
                f"{top1:.2f}",
                f"{top5:.2f}",
                entry.license,
                "yes" if present(entry) else "no",
            ]
        )
    header = ["network", "name with tag", "parameters (M)", "top-1 (%)", "top-5 (%)", "licence", "here"]
    show(
        Console(), Table("Published weights, ImageNet-1k; accuracy as the authors published it", header, rows, labels=2)
    )


def _get(entries: list[Any], args: Any) -> None:
    from involution.models.weights import get

    for entry in entries:
        print(get(entry.name, again=args.again))


def _where(entries: list[Any], args: Any) -> None:
    from involution.models.weights import cache_folder, given_source, present

    print(f"downloads   {cache_folder()} (TORCH_HOME moves it)")
    print(f"source      {given_source() or 'the addresses below'} (INVOLUTION_WEIGHTS names a folder or an address)")
    for entry in entries:
        print(f"\n{entry.name}\n  here      {present(entry) or 'no'}\n  address   {entry.address}")


def _card(entries: list[Any], args: Any) -> None:
    from involution.models.weights import card

    print(card(entries[0].name))


def _save(entries: list[Any], args: Any) -> None:
    from involution.models.weights import save

    folder = save(entries[0].name, args.output)
    size = sum(file.stat().st_size for file in Path(folder).iterdir())
    print(f"written   {folder}: model.safetensors, config.json, README.md ({size / 1e6:.1f} MB)")
    print(f'load it   import timm, involution.models; timm.create_model("local-dir:{folder}", pretrained=True)')
