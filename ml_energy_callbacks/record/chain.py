"""The chunks of a compressed recording, each of which names the SHA-256 of the one before, so that a change breaks the chain.

A chunk is a member of a gzip file, so that ``zcat`` shows the lines; its first line is the link. Pure.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

import msgspec

MAGIC: Final = b"\x1f\x8b"
"""Begin of a gzip file."""

_BLOCK = 2**16
_LONGEST_CHUNK = 2**26
"""In bytes of lines: far more than is written at once; a small file may unpack to any length."""


class Seal(NamedTuple):
    """What says whether the begin of a file is as it was written.

    Attributes:
        head: SHA-256 of the last chunk, in hexadecimal digits; of no chunk, 64 zeros.
        chunks: Number of chunks.
        size: Their length in bytes.
    """

    head: str = "0" * 64
    chunks: int = 0
    size: int = 0


class _Link(msgspec.Struct, tag_field="line", tag="chunk", forbid_unknown_fields=True):
    """The first line of a chunk: its number from 1 on, and the SHA-256 of the chunk before."""

    number: int
    before: str


class DamagedChunkError(ValueError):
    """A chunk is not as it was written, or not in its place; the message says which, without a full stop."""


class IncompleteChunkError(DamagedChunkError):
    """The last chunk is not complete, as after the end of a process that was killed, or a power failure."""


def make_chunk(seal: Seal, lines: bytes) -> tuple[bytes, Seal]:
    """Return the chunk of these lines that follows a file with this seal, and the seal with it."""
    link = msgspec.json.encode(_Link(seal.chunks + 1, seal.head))
    chunk = gzip.compress(link + b"\n" + lines, mtime=0)
    return chunk, Seal(hashlib.sha256(chunk).hexdigest(), seal.chunks + 1, seal.size + len(chunk))


def read_chunks(file: BinaryIO) -> Iterator[tuple[Seal, bytes]]:
    """Yield the lines of each chunk, with the seal of the file up to its end.

    Raises:
        DamagedChunkError: The chain is broken.
        IncompleteChunkError: It was sound, and the last chunk is not complete.
    """
    seal, block = Seal(), file.read(_BLOCK)
    while block:
        name = f"chunk {seal.chunks + 1}"
        if not block.strip(b"\0"):
            msg = f"{name} is not complete"
            raise IncompleteChunkError(msg)
        digest, size, lines, inflating = hashlib.sha256(), 0, bytearray(), zlib.decompressobj(wbits=31)
        while not inflating.eof:
            if not block:
                msg = f"{name} is not complete"
                raise IncompleteChunkError(msg)
            try:
                lines += inflating.decompress(block, _LONGEST_CHUNK)
            except zlib.error as error:
                msg = f"{name} is damaged ({error})"
                raise DamagedChunkError(msg) from None
            if len(lines) >= _LONGEST_CHUNK or inflating.unconsumed_tail:
                msg = f"{name} is longer than any that was written"
                raise DamagedChunkError(msg)
            rest = inflating.unused_data
            used = block[: len(block) - len(rest)]
            digest.update(used)
            size += len(used)
            block = rest or file.read(_BLOCK)
        link, _, content = bytes(lines).partition(b"\n")
        try:
            found = msgspec.json.decode(link, type=_Link)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = None
        if found is None or (found.number, found.before) != (seal.chunks + 1, seal.head):
            msg = f"{name} does not follow the one before it"
            raise DamagedChunkError(msg)
        seal = Seal(digest.hexdigest(), seal.chunks + 1, seal.size + size)
        yield seal, content
