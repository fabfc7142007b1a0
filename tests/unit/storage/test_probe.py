"""What storage can do is found out by doing it."""

import pytest

from jobs.errors import NotSupported
from storage.memory import MemoryBackend
from storage.probe import NO_ABILITIES, Abilities, probe


class Careless(MemoryBackend):
    """Takes conditions and passes over them."""

    def create(self, key: str, data: bytes) -> bool:
        self.write_bytes(key, data)
        return True

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        self.write_bytes(key, data)
        return self.read_tagged(key).tag


class Plain(MemoryBackend):
    """Refuses conditions."""

    def create(self, key: str, data: bytes) -> bool:
        raise NotSupported("no")

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        raise NotSupported("no")


@pytest.mark.parametrize(
    ("backend", "abilities"),
    [
        (MemoryBackend("good"), Abilities(True, True)),
        (Careless("careless"), NO_ABILITIES),
        (Plain("plain"), NO_ABILITIES),
    ],
)
def test_only_what_works_counts(backend: MemoryBackend, abilities: Abilities) -> None:
    backend.write_bytes("mine", b"1")
    assert probe(backend) == abilities
    assert abilities.fences == (abilities == Abilities(True, True))
    assert [entry.key for entry in backend.list("")] == ["mine"]
