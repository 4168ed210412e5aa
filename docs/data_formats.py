"""The table of data formats, from what is registered."""

from involution.data.registry import formats


def table() -> str:
    """Return the formats in Markdown: for which task, how a spec is spelled, what is read."""
    lines = [f"| {found.task} | `{found.syntax}` | {found.description} |" for found in formats()]
    return "\n".join(["| task | spec | what it reads |", "|---|---|---|", *lines])
