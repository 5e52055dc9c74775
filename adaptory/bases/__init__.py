"""Base models: found by reference, kept by digest.

Guarantees: a base is loaded only if its files have the digest that was pinned for it, whatever the
reference says today; only weights in safetensors, configuration and tokenizer files are ever taken.
"""

from adaptory.bases.resolve import cached, digest_of, fetch, place

__all__ = ["cached", "digest_of", "fetch", "place"]
