"""One rule for texts that UTF-8 cannot express: an escape such as ``udcff`` with a backslash stands for what it cannot.

Such texts contain lone surrogates. They come from names of files, from the environment and in messages of exceptions.
"""

from typing import TypeVar

import msgspec

from ml_energy_callbacks.safe_text import in_texts

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def encode_json(facts: object) -> bytes:
    """Return facts as JSON."""
    try:
        return msgspec.json.encode(facts)
    except UnicodeEncodeError:
        return msgspec.json.encode(in_texts(msgspec.to_builtins(facts), text_in_utf8))


def text_in_utf8(text: str) -> str:
    """Return a text that UTF-8 can express: the same one, unless it has other characters."""
    return text.encode(errors="backslashreplace").decode()


def in_utf8(facts: _Struct) -> _Struct:
    """Return facts whose texts UTF-8 can express: the same ones, unless they have others."""
    try:
        msgspec.json.encode(facts)
    except UnicodeEncodeError:
        return in_texts(facts, text_in_utf8)
    return facts
