"""Text on its way out: to a terminal or a log, to a CSV file, and to JSON, YAML and XML; pure.

Names of models, devices, hosts, tags and places, and the messages of others' errors, may hold anything: sequences that control
a terminal, formulas of a spreadsheet, characters that a document must not have, and URLs with passwords.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeVar

_Value = TypeVar("_Value")

_SPACE = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Characters that control a terminal (C0, DEL, C1), the ends of lines of Unicode and the change of direction (UAX #9), halves
of surrogate pairs, and what is no character: neither YAML 1.2 (5.1) nor XML 1.0 (2.2) allows them all."""

_UNSAFE_SOURCE = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))
"""The same without the end of a line, of which the source of a document has many."""

_FORMULA = re.compile("[=+@\t\r\uff0b\uff0d\uff1d\uff20-]")
"""The start of a cell that a spreadsheet runs as a formula (OWASP, "CSV Injection")."""

_CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/?#@:]*:\S*|[^\s/?#]*)@")
_QUERY = re.compile(r"(://[^\s?]*\?)[^\s?=]*=[^\s'\"]*")

_PLAIN = {"±": "+/-", "≥": ">="}
"""What stands for our own characters where an output does not have them."""

_LONGEST = 1000
_LONGEST_VALUE = 200


def hide_credentials(text: str) -> str:
    """Return a text whose URLs show neither user and password nor their query, which may be a signature."""
    return _QUERY.sub(r"\1***", _CREDENTIALS.sub("***@", text)) if "://" in text else text


def shorten(text: str, longest: int = _LONGEST) -> str:
    """Return a text of at most this many characters."""
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


def printable(text: str) -> str:
    """Return a text as one line for a terminal, a log or a picture: without credentials, control characters as escapes."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], _SPACE.sub(" ", hide_credentials(text)))


def message(text: str) -> str:
    """Return a text as one line of limited length, for an error or a warning."""
    return shorten(printable(text))


def describe(value: object) -> str:
    """Return a value that a user gave as it is shown in a message, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the user's class
        text = f"<{type(value).__name__}>"
    return shorten(printable(text), _LONGEST_VALUE)


def csv_cell(text: str) -> str:
    """Return a text as a cell of a CSV file, marked as text with an apostrophe where a spreadsheet would run it."""
    return f"'{printable(text)}" if _FORMULA.match(text) else printable(text)


def plain_characters(error: UnicodeError) -> tuple[str, int]:
    """Stand in for characters that an output lacks, as a handler of :mod:`codecs`: ``+/-`` for ``±``, or an escape.

    Raises:
        UnicodeError: It is none of writing.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or ascii(character)[1:-1] for character in lacking), error.end


def json_source(source: str) -> str:
    """Return JSON, or texts in double quotes of YAML, with unsafe characters of their texts escaped, so that none is lost."""
    return _UNSAFE_SOURCE.sub(lambda found: f"\\u{ord(found[0]):04x}", source)


def in_texts(value: _Value, gate: Callable[[str], str]) -> _Value:
    """Return a structure of facts with each of its texts passed through a function."""
    from msgspec import Struct  # noqa: PLC0415 - the errors use this module, and are imported with the package
    from msgspec.structs import replace  # noqa: PLC0415 - the same

    known = cache(gate)  # most texts are names, which are in every epoch

    def passed(part: object) -> object:
        if part is None or isinstance(part, float):  # most of a record
            return part
        if isinstance(part, str):
            return known(part)
        if isinstance(part, Struct):
            return replace(part, **{name: passed(getattr(part, name)) for name in part.__struct_fields__})
        if isinstance(part, Mapping):
            return {passed(name): passed(entry) for name, entry in part.items()}
        if isinstance(part, list):
            return [passed(entry) for entry in part]
        return part

    return passed(value)  # type: ignore[return-value]
