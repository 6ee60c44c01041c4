"""What stands before a library's entry point while `modelnet.loaders.install` is in force: one function for each.

Each takes the original and a `Chooser`, and returns what replaces it. What is not ours goes to the original unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelnet.loaders import _hub
from modelnet.loaders._files import hold
from modelnet.loaders._trusted import PREFIX, find_path, unsigned
from modelnet.loaders.llama_cpp import carrying
from modelnet.loading import VerifiedModel, is_verified

__all__ = ["Chooser"]

FRAMEWORKS = frozenset(["np", "numpy", "pt", "torch", "pytorch"])


class Chooser:
    """Decides which names are ours: `modelnet:` names, and paths inside releases of the store."""

    def __init__(self, *, refuse: bool, home: str | None) -> None:
        """Refuse what belongs to no release, or let it pass."""
        self.home = home
        self._refuse = refuse
        self._active = True

    def close(self) -> None:
        """Let everything pass from now on: the wrappers were removed."""
        self._active = False

    def takes(self, name: Any) -> bool:
        """Tell whether `name` is to be loaded verified; raise `TrustError` for what is neither ours nor allowed.

        Files of a `verified` folder that is open were verified already: the library may have them as they are.
        """
        if not self._active:
            return False
        if not isinstance(name, str | os.PathLike):
            if self._refuse:
                raise unsigned(f"<{type(name).__name__}>")
            return False
        text = os.fspath(name)
        if isinstance(text, str):
            if text.startswith(PREFIX):
                return True
            if is_verified(text):
                return False
            if Path(text).exists() and find_path(text, home=self.home) is not None:
                return True
        if self._refuse:
            raise unsigned(str(text))
        return False


def safe_open(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `safetensors.safe_open`; the bytes used are the bytes hashed."""

    def wrapper(filename: Any, framework: str = "np", device: Any = "cpu", *args: Any, **options: Any) -> Any:
        if framework not in FRAMEWORKS or not chooser.takes(filename):
            return original(filename, framework, device, *args, **options)
        from modelnet.loaders import safetensors

        return safetensors.safe_open(filename, framework, device, home=chooser.home)

    return wrapper


def torch_load(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `torch.load`: weights only, from a file that cannot change."""

    def wrapper(f: Any, *args: Any, **options: Any) -> Any:
        if not chooser.takes(f):
            return original(f, *args, **options)
        options["weights_only"] = True
        with hold(f, (".pt", ".pth", ".bin", ".ckpt"), home=chooser.home) as held:
            return original(held.path, *args, **options)

    return wrapper


def torch_jit_load(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `torch.jit.load`: a program, so only what the policy allows."""

    def wrapper(f: Any, *args: Any, **options: Any) -> Any:
        if not chooser.takes(f):
            return original(f, *args, **options)
        with hold(f, (".pt", ".jit", ".pts"), home=chooser.home) as held:
            return original(held.path, *args, **options)

    return wrapper


def gguf_reader(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `gguf.GGUFReader`."""

    def wrapper(self: Any, path: Any, *args: Any, **options: Any) -> None:
        if not chooser.takes(path):
            return original(self, path, *args, **options)  # type: ignore[no-any-return]
        with hold(path, (".gguf",), home=chooser.home) as held:
            original(self, held.path, *args, **options)
            held.keep(self)
            return None

    return wrapper


def inference_session(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `onnxruntime.InferenceSession`: it is given bytes, and external data as buffers."""

    def wrapper(self: Any, path_or_bytes: Any, sess_options: Any = None, *args: Any, **options: Any) -> None:
        if not chooser.takes(path_or_bytes):
            return original(self, path_or_bytes, sess_options, *args, **options)  # type: ignore[no-any-return]
        from modelnet.loaders import onnxruntime

        with onnxruntime.verified_content(path_or_bytes, sess_options, home=chooser.home) as (content, prepared):
            return original(self, content, prepared, *args, **options)  # type: ignore[no-any-return]

    return wrapper


def interpreter(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap LiteRT's `Interpreter`: it is given bytes."""

    def wrapper(self: Any, model_path: Any = None, *args: Any, **options: Any) -> None:
        if model_path is None or not chooser.takes(model_path):
            return original(self, model_path, *args, **options)  # type: ignore[no-any-return]
        from modelnet.loaders import litert

        options["model_content"] = litert.verified_content(model_path, home=chooser.home)
        return original(self, None, *args, **options)  # type: ignore[no-any-return]

    return wrapper


def llama(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `llama_cpp.Llama`."""

    def wrapper(self: Any, model_path: Any, *args: Any, **options: Any) -> None:
        if not chooser.takes(model_path):
            return original(self, model_path, *args, **options)  # type: ignore[no-any-return]
        with hold(model_path, (".gguf",), home=chooser.home) as held:
            original(self, held.path, *args, **options)
            held.keep(self)
            return None

    return wrapper


def llama_server(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `xllamacpp.Server`, which finds the path in its parameters."""

    def wrapper(params: Any, *args: Any, **options: Any) -> Any:
        path = params.model.path
        if not path or not chooser.takes(path):
            return original(params, *args, **options)
        with hold(path, (".gguf",), home=chooser.home) as held:
            params.model.path = held.path
            try:
                return held.keep(carrying(original)(params, *args, **options))
            finally:
                params.model.path = path

    return wrapper


def from_pretrained(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap a `from_pretrained` of transformers or diffusers: it is given a verified folder, and the Hub is off."""

    def wrapper(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        name = pretrained_model_name_or_path
        if name is None or not chooser.takes(name):
            return original(cls, name, *args, **options)
        with _folder(os.fspath(name), chooser.home) as model, _hub.offline():
            options = {**_hub.prepared(model, options), "local_files_only": True}
            return original(cls, str(model.path), *args, **options)

    return wrapper


@contextmanager
def _folder(name: str, home: str | None) -> Iterator[VerifiedModel]:
    """Give the verified folder of a `modelnet:` name, or of the folder of a release in the store."""
    from modelnet.loading import verified

    found = None if name.startswith(PREFIX) else find_path(name, home=home)
    with verified(name, home=home) if found is None else VerifiedModel(found[0]) as model:
        yield model
