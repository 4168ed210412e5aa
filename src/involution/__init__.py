"""Involution (CVPR 2021, arXiv 2103.06255): the operator, the modules and the RedNet models built on it."""

__version__ = "0.1.0"
