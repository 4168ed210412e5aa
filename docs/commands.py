"""What the site shows of the commands: their --help-all."""

import contextlib
import io
import os

from involution import cli


def commands() -> str:
    """Return a section for each command with what its --help-all prints."""
    sections = []
    for words in cli.commands():
        out = io.StringIO()
        before = os.environ.get("COLUMNS")
        os.environ["COLUMNS"] = "88"
        try:
            with contextlib.redirect_stdout(out):
                code = cli.main([*words, "--help-all"])
        finally:
            os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
        if code != 0:
            raise RuntimeError(f"involution {' '.join(words)} --help-all ended with {code}")
        sections.append(f"## {' '.join(words)}\n\n```text\n{out.getvalue().strip()}\n```\n")
    return "\n" + "\n".join(sections)
