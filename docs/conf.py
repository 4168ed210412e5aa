"""Settings of the documentation site, for Sphinx; `make docs` builds it."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import commands
import data_formats
import export_formats
from pygments.lexers.special import TextLexer

from involution import __version__

project = "involution"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]

# the formats come from those that are registered
myst_enable_extensions = ["substitution"]
myst_heading_anchors = 3
myst_substitutions = {
    "data_formats": data_formats.table(),
    "export_formats": export_formats.formats_table(),
    "export_tasks": export_formats.tasks_table(),
}

# `name` in a docstring is a link where there is such a thing, and code where there is none
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
copybutton_prompt_text = ">>> "

html_theme = "furo"
html_title = "involution"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#6cb6ff", "color-brand-content": "#6cb6ff"},
}


def setup(app: Any) -> None:
    """Let the page of the command line end with every command's --help; leave shell commands plain."""

    def add_commands(app: Any, name: str, source: list[str]) -> None:
        if name == "reference/command-line":
            source[0] += commands.commands()

    app.connect("source-read", add_commands)
    # its text says nothing of a change in the commands
    app.connect("env-get-outdated", lambda *_: ["reference/command-line"])
    # a shell's lexer would colour the words test and eval
    app.add_lexer("sh", TextLexer)
