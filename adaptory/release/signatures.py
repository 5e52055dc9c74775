"""A release's signature as OpenSSF model signing makes it: one file that anyone can check with its own tools.

model_signing verify key DIR --signature DIR/model.sig --ignore-paths DIR/model.sig --public_key public.pem
"""

import os
from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.errors import IntegrityError, UserError
from adaptory.registry.signing import SIGNING, TRUSTED
from adaptory.release.manifest import SIGNATURE


def sign(folder: Path) -> None:
    """Signs everything in the folder with the key of ADAPTORY_SIGNING_KEY; nothing without one."""
    if SIGNING in os.environ:
        made = _library().signing.Config().use_elliptic_key_signer(private_key=Path(os.environ[SIGNING]))
        (folder / SIGNATURE).unlink(missing_ok=True)
        made.set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)


def wanted() -> str | None:
    """The digest of the key of ADAPTORY_TRUSTED_KEY; None if none is trusted here."""
    return fingerprint.of_file(Path(os.environ[TRUSTED])) if TRUSTED in os.environ else None


def verify(folder: Path) -> None:
    """Returns only if the key of ADAPTORY_TRUSTED_KEY signed exactly what lies in the folder; or if none is trusted here."""
    if TRUSTED not in os.environ:
        return
    if not (folder / SIGNATURE).is_file():
        raise IntegrityError(f"{folder} has no {SIGNATURE}, and {TRUSTED} asks for a signature; refused")
    from cryptography.exceptions import InvalidSignature

    asked = _library().verifying.Config().use_elliptic_key_verifier(public_key=Path(os.environ[TRUSTED]))
    try:
        asked.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except (InvalidSignature, ValueError) as fault:
        raise IntegrityError(f"{folder}: its signature does not hold: {fault}") from None


def _hashing(folder: Path) -> Any:
    return _library().hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)


def _library() -> Any:
    try:
        import model_signing
    except ImportError:
        raise UserError("signing releases needs OpenSSF model-signing; run: pip install 'adaptory[sign]'") from None
    return model_signing
