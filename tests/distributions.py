"""Folders with some of the installed distributions, and nothing else."""

import re
from importlib.metadata import PackageNotFoundError, distribution


def closure(name, known):
    """Add a distribution and all that it requires without extras."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        # for another platform
        return known
    if found.name not in known:
        known[found.name] = found
        for line in found.requires or []:
            if "extra ==" not in line:
                closure(re.match(r"[\w.-]+", line)[0], known)
    return known


def link_distributions(folder, names):
    """Fill a folder with links to distributions and all that they require without extras."""
    known = {}
    for name in names:
        closure(name, known)
    for found in known.values():
        for name in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (folder / name).exists():
                (folder / name).symlink_to(found.locate_file(name))
