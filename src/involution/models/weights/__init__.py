"""Published weights by name: what there is, where it comes from, and its file on this machine.

Example:
    >>> from involution.models import weights
    >>> weights.find("rednet50").figures["authors"]
    (78.35, 94.13)
    >>> file = weights.get("rednet50")  # doctest: +SKIP
"""

from involution.models.weights.cache import cache_folder, get, given_source, locate, named, present
from involution.models.weights.cards import card, save
from involution.models.weights.table import PUBLISHED, PublishedWeights, find, published

__all__ = [
    "PUBLISHED",
    "PublishedWeights",
    "cache_folder",
    "card",
    "find",
    "get",
    "given_source",
    "locate",
    "named",
    "present",
    "published",
    "save",
]
