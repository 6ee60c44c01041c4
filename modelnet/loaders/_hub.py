"""Models that are folders: transformers and diffusers load them from verified files, and fetch nothing beside."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from modelnet.errors import TrustError
from modelnet.loaders._library import need
from modelnet.loaders.levels import Level
from modelnet.loading import VerifiedModel, verified
from modelnet.policies import Policies

__all__ = ["check_code", "from_pretrained", "offline"]

_lock = threading.Lock()
_inside = 0
_before: list[tuple[bool, str | None]] = []
CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"


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
        if options.get("trust_remote_code"):
            check_code(model)
        options = {"local_files_only": True, **options}
        return factory.from_pretrained(str(model.path), *arguments, **options)


def check_code(model: VerifiedModel) -> None:
    """Raise `TrustError` unless the code that would run is in the release, where the policy allowed its digest."""
    for finding in model.findings:
        if finding.rule == "auto-map" and "--" in finding.detail:
            raise TrustError(
                f"code of another repository, which nobody signed: {finding.detail}", rule="auto-map",
                path=finding.path, hint="publish the code with the model and allow its file in policy.toml",
            )  # fmt: skip
