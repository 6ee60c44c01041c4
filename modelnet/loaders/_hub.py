"""Models that are folders: transformers and diffusers load them from verified files, and fetch nothing beside."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from modelnet.content.templates import CODE_FIELDS
from modelnet.errors import TrustError
from modelnet.loaders._library import need
from modelnet.loaders._trusted import unsigned
from modelnet.loaders.levels import Level
from modelnet.loading import VerifiedModel, verified
from modelnet.policies import Policies

__all__ = ["foreign_code", "from_pretrained", "offline", "prepared"]

_lock = threading.Lock()
_inside = 0
_before: list[tuple[bool, str | None]] = []
CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
JOINED = ("gguf_file", "subfolder")  # options that a library joins to the folder
PEEK = 512
SHOWN = 160  # characters of a name in a refusal


@contextmanager
def offline() -> Iterator[None]:
    """Let the Hub's client refuse every request meanwhile: what is not in the release is not fetched by name."""
    global _inside  # noqa: PLW0603  (a process-wide switch of somebody else's library, counted)
    constants = need("huggingface_hub.constants")
    with _lock:
        if _inside == 0:
            _before.append((constants.HF_HUB_OFFLINE, os.environ.get(CONVERSION)))
            constants.HF_HUB_OFFLINE = True
            os.environ[CONVERSION] = "1"  # else a thread asks the Hub for a converted copy
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                constants.HF_HUB_OFFLINE, conversion = _before.pop()
                if conversion is None:
                    os.environ.pop(CONVERSION, None)
                else:
                    os.environ[CONVERSION] = conversion


def from_pretrained(
    factory: Any,
    ref: str,
    arguments: Sequence[Any],
    options: dict[str, Any],
    *,
    policy: Policies | None,
    pull: bool,
    only: Sequence[str],
    level: Level | str | None,
    home: str | os.PathLike[str] | None,
) -> Any:
    """Call `factory.from_pretrained` on the verified folder of `ref`; see `modelnet.loaders.transformers`."""
    with verified(ref, policy, pull, only=only, level=level, home=home) as model, offline():
        options = {"local_files_only": True, **prepared(model, options)}
        return factory.from_pretrained(str(model.path), *arguments, **options)


def prepared(model: VerifiedModel, options: dict[str, Any], *, inside: str = "") -> dict[str, Any]:
    """Return the options that a verified folder is loaded with: nothing of them leads out of the release.

    Raises `TrustError` for files elsewhere, and for `trust_remote_code` where a configuration names code elsewhere: the
    policy allows code by its digest, and there is none. Left to choose, the library would ask whoever sits there; it is
    told not to run it.
    """
    if options.get("custom_pipeline") is not None:
        raise TrustError(
            "a custom pipeline is code from elsewhere", rule="source-code", hint="leave custom_pipeline out"
        )
    for name in JOINED:
        value = options.get(name)
        if value and not _is_below(os.fsdecode(value)):
            raise unsigned(os.fsdecode(value))
    if options.get("gguf_file"):
        model / str(PurePosixPath(inside, options.get("subfolder") or "", os.fsdecode(options["gguf_file"])))
    if (trusting := options.get("trust_remote_code")) is not None and not trusting:
        return options
    for entry in model.files:
        if (code := foreign_code(_configuration(model / entry.path))) is not None:
            if trusting is None:
                return {**options, "trust_remote_code": False}
            raise TrustError(
                f"code of another repository, which nobody signed: {code[:SHOWN]}", rule="auto-map", path=entry.path,
                hint="publish the code with the model and allow its file in policy.toml",
            )  # fmt: skip
    return options


def _configuration(path: Path) -> bytes:
    """Return the content of a file that is JSON by its name or its first byte, as a library may be told any name."""
    with path.open("rb") as file:
        head = file.read(PEEK)
        if path.suffix != ".json" and head.lstrip()[:1] not in (b"{", b""):
            return b""
        return head + file.read()


def _is_below(path: str) -> bool:
    pure = PurePath(path)
    return not pure.is_absolute() and ".." not in pure.parts


def foreign_code(content: bytes) -> str | None:
    """Return the first code of another repository (`owner/name--module.Class`) that a configuration names, or None.

    Wherever in the file it stands: configurations of parts are nested, and a library reads each by itself.
    """
    if b"--" not in content and b"\\u002" not in content:  # nor spelt by its escape
        return None
    try:
        values = [(json.loads(content.decode("utf-8")), False)]
    except ValueError:
        return None  # the library cannot read it either
    except RecursionError:
        return "nested too deep to look at"
    while values:
        value, is_code = values.pop()
        if isinstance(value, dict):
            values += [(one, is_code or key in CODE_FIELDS) for key, one in value.items()]
        elif isinstance(value, list):
            values += [(one, is_code) for one in value]
        elif is_code and isinstance(value, str) and "--" in value:
            return value
    return None
