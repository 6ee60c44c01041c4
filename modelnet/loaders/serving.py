"""What the servers' plugins share: the weights of a release, tensor by tensor, from bytes that were hashed.

A server reads configuration and tokenizer by itself, before its loader is asked for weights. So the loader first hashes
and looks at every other file of the release; a server never gets weights for a configuration that was changed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from modelnet.content import check_release, refuse
from modelnet.errors import IntegrityError, UsageError
from modelnet.loaders._trusted import Trusted, find_path, parse_target, trust, unsigned
from modelnet.loaders.reading import OneByOne, VerifiedReader, new_pool
from modelnet.loaders.safetensors import tensors_of
from modelnet.loaders.securing import open_signed

__all__ = ["find_model", "verified_weights"]

SUFFIX = ".safetensors"
INDEX = ".safetensors.index.json"
MAX_INDEX = 64 * 1024 * 1024  # the largest models name some 100,000 tensors


def find_model(reference: str | None, path: str, *, home: str | os.PathLike[str] | None = None) -> Trusted:
    """Return the release that `reference` names, or that the folder at `path` belongs to, once it passed the gate.

    The folder must hold what was signed in both cases: it is where the server reads its configuration.
    """
    if reference is not None:
        return trust(parse_target(reference).reference, home=home)
    found = find_path(path, home=home)
    if found is None or found[1]:
        raise unsigned(path)
    return found[0]


def verified_weights(
    trusted: Trusted, *, folder: str = "", only: Sequence[str] = (), device: str = "cpu"
) -> Iterator[tuple[str, Any]]:
    """Yield (name, torch tensor) of the safetensors files in `folder` of the release, each verified when it comes.

    Where an index lists the tensors, files that it does not name are left out, as servers do. `only` keeps files that
    match one of its globs. Raises before the first tensor when any other file of the release is not what was signed.
    """
    _check_others(trusted)
    files = _shards(trusted, folder, only)
    if not files:
        raise UsageError(
            "the release has no safetensors files for this server", rule="only", path=folder or None,
            hint="its files: " + ", ".join(entry.path for entry in trusted.manifest.files[:8]),
        )  # fmt: skip
    for path in files:
        yield from tensors_of(trusted, trusted.entry(path), device)


def _check_others(trusted: Trusted) -> None:
    """Hash every file that is no weight, and look at the content of all."""
    with new_pool() as pool:

        def opened(path: str) -> VerifiedReader:
            tree = trusted.store.tree(trusted.entry(path))
            reader = VerifiedReader(open_signed(trusted.base, tree.entry), tree, source=str(trusted.base))
            try:
                if not path.endswith(SUFFIX):
                    reader.check_all(pool)
            except BaseException:
                reader.close()
                raise
            return reader

        with contextlib.closing(OneByOne([entry.path for entry in trusted.manifest.files], opened)) as readers:
            findings = check_release(readers, trusted.manifest, resolve=trusted.resolve)
    refuse(findings, allowed=trusted.terms.allow_code, manifest=trusted.manifest)


def _shards(trusted: Trusted, folder: str, only: Sequence[str]) -> list[str]:
    inside = {
        PurePosixPath(entry.path).name: entry.path
        for entry in trusted.manifest.files
        if str(PurePosixPath(entry.path).parent) == (folder or ".")
    }
    names = sorted(
        name
        for name in inside
        if (any(fnmatch.fnmatchcase(name, glob) for glob in only) if only else name.endswith(SUFFIX))
    )
    indexes = sorted(name for name in inside if name.endswith(INDEX) and not name.startswith("consolidated"))
    if indexes and not only:
        listed = _index(trusted, inside[indexes[0]])
        names = [name for name in names if name in listed]
        if missing := sorted(listed - set(names)):
            raise IntegrityError(
                "the index names files that the release does not have", rule="missing", path=inside[indexes[0]],
                wanted=", ".join(missing[:4]),
            )  # fmt: skip
    return [inside[name] for name in names]


def _index(trusted: Trusted, path: str) -> set[str]:
    tree = trusted.store.tree(trusted.entry(path))
    if tree.entry.size > MAX_INDEX:
        raise UsageError("the index is too large", rule="size", path=path, got=tree.entry.size)
    reader = VerifiedReader(open_signed(trusted.base, tree.entry), tree, source=str(trusted.base))
    try:
        weights = json.loads(reader.read(0, reader.size)).get("weight_map", {})
        return {str(name) for name in weights.values()}
    except (ValueError, AttributeError) as error:
        raise UsageError("the index is not one", rule="header", path=path) from error
    finally:
        reader.close()
