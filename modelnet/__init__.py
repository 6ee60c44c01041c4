"""Publish AI models once, pull them from anyone, load only what the author signed.

    import modelnet

    modelnet.init(alias="acme")
    made = modelnet.publish("./tiny-llama", name="tiny-llama", version="1.2.0")
    got = modelnet.pull(made.locator, peers=["http://10.0.0.5:8710"])
    modelnet.verify(got.path)

Importing this costs a few milliseconds; what a function needs is loaded when it is called first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from modelnet.errors import (
    IntegrityError,
    MalformedError,
    ModelnetError,
    TrustError,
    UnavailableError,
    UsageError,
)

if TYPE_CHECKING:
    from modelnet import loaders
    from modelnet.loading import VerifiedModel, verified
    from modelnet.puller import Pulled, pull
    from modelnet.upkeep import fsck, gc, remove
    from modelnet.verifier import Verified, verify
    from modelnet_registry.identities import Identity, init
    from modelnet_registry.publisher import Publication, publish

__version__ = "0.1.0"

__all__ = [
    "Identity",
    "IntegrityError",
    "MalformedError",
    "ModelnetError",
    "Publication",
    "Pulled",
    "TrustError",
    "UnavailableError",
    "UsageError",
    "Verified",
    "VerifiedModel",
    "__version__",
    "fsck",
    "gc",
    "init",
    "loaders",
    "publish",
    "pull",
    "remove",
    "verified",
    "verify",
]

_HOME = {
    "Identity": "modelnet_registry.identities",
    "init": "modelnet_registry.identities",
    "Publication": "modelnet_registry.publisher",
    "publish": "modelnet_registry.publisher",
    "Pulled": "modelnet.puller",
    "pull": "modelnet.puller",
    "fsck": "modelnet.upkeep",
    "gc": "modelnet.upkeep",
    "remove": "modelnet.upkeep",
    "Verified": "modelnet.verifier",
    "verify": "modelnet.verifier",
    "VerifiedModel": "modelnet.loading",
    "verified": "modelnet.loading",
}


def __getattr__(name: str) -> Any:
    if name == "loaders":
        return importlib.import_module("modelnet.loaders")
    if name not in _HOME:
        raise AttributeError(f"module 'modelnet' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
