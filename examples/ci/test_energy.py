"""Energy of a preprocessing step: `pytest examples/ci --energy-save energy.json`, then `--energy-baseline energy.json`."""

import hashlib

DOCUMENTS = [f"Document {i} has a text of some words. ".encode() * 50 for i in range(40)]


def clean(document: bytes) -> bytes:
    return b" ".join(document.lower().split())


def test_preprocessing(energy):
    def preprocess():
        with energy.part("clean"):
            cleaned = [clean(document) for document in DOCUMENTS]
        with energy.part("hash"):
            return [hashlib.sha256(document).hexdigest() for document in cleaned]

    energy(preprocess)


def test_join_uses_less_than_adding(energy):
    def add():
        total = b""
        for document in DOCUMENTS:
            total += document
        return total

    def join():
        return b"".join(DOCUMENTS)

    assert energy.compare(add, join).verdict != "more"
