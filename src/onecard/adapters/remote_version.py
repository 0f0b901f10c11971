"""A version in an object store. Its folder is a local copy, fetched, checked against the manifest and kept on first use."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from onecard.adapters import durable
from onecard.adapters.adapter_cache import AdapterCache
from onecard.adapters.manifest import Manifest
from onecard.adapters.objects import Objects, StoredObject
from onecard.adapters.verification import MANIFEST
from onecard.adapters.version import StoredVersion
from onecard.errors import AdapterRefused, UnknownName


class RemoteVersion(StoredVersion):
    """A StoredVersion whose `folder` is a copy in the cache: the first use downloads it, or hashes the copy that is there.

    `manifest_sha256` is what the log says of its manifest. Reading `folder` raises AdapterRefused for bytes that are not what was
    published, UnknownName for a version that was removed meanwhile, DiskFull, MachineError.
    """

    def __init__(
        self, manifest: Manifest, manifest_sha256: str, objects: Objects, key: str, cache: AdapterCache
    ) -> None:
        for name, value in (
            ("agent", manifest.agent),
            ("name", manifest.name),
            ("version", manifest.version),
            ("digest", manifest.digest),
            ("manifest", manifest),
            ("manifest_sha256", manifest_sha256),
            ("_objects", objects),
            ("_key", key),
            ("_cache", cache),
            ("_folder", None),
        ):
            object.__setattr__(self, name, value)

    manifest_sha256: str
    _objects: Objects
    _key: str
    _cache: AdapterCache
    _folder: Path | None

    @property
    def folder(self) -> Path:
        if self._folder is None:
            object.__setattr__(self, "_folder", self._fetched())
        assert self._folder is not None
        return self._folder

    @property
    def where(self) -> str:
        """The URL of the version, for messages."""
        return f"{self._objects.url}/{self._key}"

    def objects(self) -> dict[str, StoredObject]:
        """The objects of the version by file name; those of the store itself, whose names begin with a dot, are left out."""
        found = {item.key[len(self._key) + 1 :]: item for item in self._objects.below(self._key)}
        return {name: item for name, item in found.items() if not name.startswith(".")}

    def _fetched(self) -> Path:
        place = self._cache.place_of(self.digest, self.manifest_sha256)
        if self._cache.whole(place, self.manifest, self.manifest_sha256):
            return place
        there = self.objects()
        expected = {**self.manifest.files, MANIFEST: self.manifest_sha256}
        with self._cache.filling(sum(item.size_bytes for item in there.values())) as copy:
            for name, digest in expected.items():
                if "/" in name or "\\" in name or name.startswith("."):
                    raise AdapterRefused(f"{name!r} is not the name of a file of an adapter", where=self.where)
                if name not in there:
                    raise UnknownName(f"{name} of {self.address} is gone", where=self.where)
                with (copy / name).open("xb") as writer:
                    actual = hashed(self._objects, there[name], writer.write)
                    durable.flush(writer.fileno(), writer)
                if actual != digest:
                    raise AdapterRefused(
                        f"{name} is not what was published: sha256 is {actual[:12]}, expected {digest[:12]}",
                        where=self.where,
                        next_step="publish it again from where it was trained",
                    )
            return self._cache.keep(copy, place)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RemoteVersion):
            return NotImplemented
        return (self.where, self.manifest) == (other.where, other.manifest)

    def __hash__(self) -> int:
        return hash((self.where, self.digest))

    def __repr__(self) -> str:
        return f"RemoteVersion({self.where!r}, digest={self.digest[:12]!r})"


def hashed(objects: Objects, found: StoredObject, also: Callable[[bytes], object] | None = None) -> str:
    """sha256 hex of an object's content as the store gives it now; each piece also goes to `also`."""
    digest = sha256()
    for piece in objects.chunks(found):
        digest.update(piece)
        if also:
            also(piece)
    return digest.hexdigest()
