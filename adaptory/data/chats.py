"""A chat: messages that end with the answer to learn. One written form, so that equal chats are equal texts."""

import json
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[str, StringConstraints(min_length=1)]


@cache
def _chat() -> TypeAdapter[list[Message]]:
    return TypeAdapter(list[Message])


def of_pair(prompt: str | None, response: str | None) -> tuple[str | None, str | None]:
    """The chat of a prompt and its response; nothing if one is missing (which is told elsewhere)."""
    if not prompt or not response:
        return None, None
    return _written([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]), None


def checked(cell: str | None) -> tuple[str | None, str | None]:
    """The chat in its written form, or None and what is wrong with it."""
    if cell is None:
        return None, None
    try:
        chat = _chat().validate_json(cell)
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return None, f"messages{f'.{place}' if place else ''}: {first['msg'][:200]}"
    if not any(message.role == "user" for message in chat):
        return None, "messages: nobody asks (no role 'user')"
    if chat[-1].role != "assistant":
        return None, f"messages: the last is of {chat[-1].role!r}; the answer to learn must be the last"
    return _written([message.model_dump() for message in chat]), None


def prompt(written: str) -> str:
    """All that is said before the answer."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in json.loads(written)[:-1])


def said(written: str) -> str:
    """The same without what a system is told."""
    turns = [message for message in json.loads(written)[:-1] if message["role"] != "system"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def last_asked(written: str) -> str:
    """The message that is answered."""
    return str(json.loads(written)[-2]["content"])


def _written(chat: list[dict[str, Any]]) -> str:
    return json.dumps(chat, ensure_ascii=False)
