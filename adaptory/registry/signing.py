"""Signatures: who made a record, proved by a key (ECDSA on P-256, as OpenSSF model-signing uses it).

ADAPTORY_SIGNING_KEY    a private key (PEM): records and releases made here are signed
ADAPTORY_TRUSTED_KEY    a public key (PEM): records without its signature are refused

openssl ecparam -name prime256v1 -genkey -noout -out private.pem
openssl ec -in private.pem -pubout -out public.pem
"""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptory.errors import IntegrityError, UserError

SIGNING, TRUSTED = "ADAPTORY_SIGNING_KEY", "ADAPTORY_TRUSTED_KEY"


def sign(data: bytes) -> str | None:
    """The signature of these bytes; None without a key to sign with."""
    if SIGNING not in os.environ:
        return None
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key: Any = _loaded(SIGNING, lambda pem: load_pem_private_key(pem, password=None))
    return base64.b64encode(key.sign(data, ECDSA(hashes.SHA256()))).decode()


def check(data: bytes, signature: str | None, where: str) -> None:
    """Returns if no key is trusted here, or if it made this signature of these bytes. Raises IntegrityError."""
    if TRUSTED not in os.environ:
        return
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if signature is None:
        raise IntegrityError(f"{where} is not signed, and {TRUSTED} asks for a signature; refused")
    key: Any = _loaded(TRUSTED, load_pem_public_key)
    try:
        key.verify(base64.b64decode(signature), data, ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        raise IntegrityError(f"{where} is not signed by the key that {TRUSTED} names; refused") from None


def _loaded(variable: str, load: Callable[[bytes], Any]) -> Any:
    """The key that the variable names. Raises UserError for a file that holds none of this kind."""
    path, kind = Path(os.environ[variable]), "private" if variable == SIGNING else "public"
    try:
        return load(path.read_bytes())
    except OSError as fault:
        raise UserError(f"{variable}={path}: {fault.strerror}; name a PEM file with a key on P-256") from None
    except (TypeError, ValueError) as fault:
        raise UserError(f"{variable}={path} holds no {kind} key without a password ({fault}); name a PEM file with one") from None
