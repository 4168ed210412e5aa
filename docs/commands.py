"""What the site shows of the commands: their --help."""

import contextlib
import io
import os

from involution import cli


def commands() -> str:
    """Return a section for each command with what its --help prints."""
    sections = []
    for words in cli.commands():
        out = io.StringIO()
        before = os.environ.get("COLUMNS")
        os.environ["COLUMNS"] = "88"
        try:
            with contextlib.redirect_stdout(out):
                code = cli.main([*words, "--help"])
        finally:
            os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
        if code != 0:
            raise RuntimeError(f"involution {' '.join(words)} --help ended with {code}")
        usage, rest = out.getvalue().strip().split("\n\n", 1)
        # dozens of settings are told once, below; jsonargparse puts a backspace before [=flags]
        usage = usage if usage.count("\n") < 9 else f"usage: involution {' '.join(words)} [options]"
        text = f"{usage}\n\n{rest}".replace(" \b", "")
        sections.append(f"## {' '.join(words)}\n\n```text\n{text}\n```\n")
    return "\n" + "\n".join(sections)
