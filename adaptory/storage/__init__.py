"""Bytes at rest: one ObjectStore protocol, and references to places outside.

Guarantees: an object is visible whole or not at all; `create` has exactly one winner, also between
machines; a file taken from an archive never leaves its folder and never outgrows its limit.
"""

from adaptory.storage.archives import extract, matching
from adaptory.storage.objects import ObjectStore, open_store
from adaptory.storage.pypi import download
from adaptory.storage.references import S3, Champion, Hub, Local, PyPI, Reference, parse

__all__ = [
    "S3",
    "Champion",
    "Hub",
    "Local",
    "ObjectStore",
    "PyPI",
    "Reference",
    "download",
    "extract",
    "matching",
    "open_store",
    "parse",
]
