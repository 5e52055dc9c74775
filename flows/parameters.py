"""What flows may be asked: flat values with bounds. Their help is in the docstring of each flow, which the form shows.

`make deploy` narrows `recipe` to the names in params.yaml. The server checks values before a run exists, and the flow
checks them again.
"""

from typing import Annotated

from pydantic import Field

RecipeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Hours = Annotated[float, Field(gt=0, le=720)]
Version = Annotated[int, Field(ge=0, le=1_000_000)]
Reason = Annotated[str, Field(max_length=500)]
Person = Annotated[str, Field(min_length=1, max_length=100)]
