"""One rule for texts that UTF-8 cannot express: an escape such as ``udcff`` with a backslash stands for what it cannot.

Such texts contain lone surrogates. They come from names of files, from the environment and in messages of exceptions.
"""

from typing import Any, TypeVar

import msgspec

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def encode_json(facts: object) -> bytes:
    """Return facts as JSON."""
    try:
        return msgspec.json.encode(facts)
    except UnicodeEncodeError:
        return msgspec.json.encode(_in_utf8(msgspec.to_builtins(facts)))


def text_in_utf8(text: str) -> str:
    """Return a text that UTF-8 can express: the same one, unless it has other characters."""
    return text.encode(errors="backslashreplace").decode()


def in_utf8(facts: _Struct) -> _Struct:
    """Return facts whose texts UTF-8 can express: the same ones, unless they have others."""
    try:
        msgspec.json.encode(facts)
    except UnicodeEncodeError:
        return msgspec.convert(_in_utf8(msgspec.to_builtins(facts)), type(facts))
    return facts


def _in_utf8(value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
    if isinstance(value, str):
        return text_in_utf8(value)
    if isinstance(value, dict):
        return {_in_utf8(key): _in_utf8(item) for key, item in value.items()}
    return [_in_utf8(item) for item in value] if isinstance(value, list) else value
