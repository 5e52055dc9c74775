"""What recipes, records and every other kept object are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# These patterns are Rust's: $ is the very end. (Python's $ would let a newline pass.)
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, lt=1)]


class Frozen(BaseModel):
    """A small immutable object: unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
