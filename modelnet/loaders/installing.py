"""Wrap the libraries' own entry points, for apps that cannot change: opt-in, and undone completely.

    from modelnet import loaders
    loaders.install()
    AutoModel.from_pretrained("modelnet:acme/minilm")     # also: safe_open, torch.load, InferenceSession, ...
    loaders.uninstall()

A wrapped entry point that is given a `modelnet:` name, or a path that leads to files of a release in the store, loads
verified; anything else goes to the library as before, or is refused with `install(unsigned="refuse")`. Libraries that
are imported later are wrapped then, by a finder that `uninstall` removes. No `.pth` file, no replaced `__import__`.
Names of modules are put in place of the originals; what somebody keeps elsewhere (an attribute of a class) is what it
was when it was kept, and a wrapper that is kept follows every later `install` and `uninstall`.

This is a seam for honest apps and no sandbox: code that wants around it only has to open a file by itself.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from modelnet.errors import UsageError
from modelnet.loaders import wrapping
from modelnet.loaders.choosing import Chooser

__all__ = ["install", "uninstall"]

GGUF = ("gguf",)
# Module → its attributes that load, and what wraps each. A dotted attribute is a method of a class.
SEAMS: dict[str, dict[str, Callable[[Any, Chooser], Any]]] = {
    "safetensors": {
        "safe_open": wrapping.safe_open,
        "deserialize": wrapping.from_memory,
        "_safe_open_handle": wrapping.from_memory,
    },
    "torch.serialization": {"load": wrapping.torch_load},
    "torch.jit._serialization": {"load": wrapping.torch_jit_load},
    "gguf.gguf_reader": {"GGUFReader.__init__": wrapping.held_path("path", ".gguf", formats=GGUF)},
    "onnxruntime.capi.onnxruntime_inference_collection": {"InferenceSession.__init__": wrapping.inference_session},
    "onnxruntime.capi.onnxruntime_pybind11_state": {
        "SessionOptions.register_custom_ops_library": wrapping.held_path("library_path", ".so"),
        "SessionOptions.add_external_initializers_from_files_in_memory": wrapping.from_memory,
        "SessionOptions.add_external_initializers": wrapping.from_memory,
        "SessionOptions.add_initializer": wrapping.from_memory,
        "LoraAdapter.Load": wrapping.held_path("adapter_path", ".onnx_adapter"),
    },
    "ai_edge_litert.interpreter": {"Interpreter.__init__": wrapping.interpreter},
    "ai_edge_litert.compiled_model": {
        "CompiledModel.from_file": wrapping.held_path("model_path", ".tflite", formats=("tflite",)),
        "CompiledModel.from_buffer": wrapping.from_memory,
    },
    "tflite_runtime.interpreter": {"Interpreter.__init__": wrapping.interpreter},
    "llama_cpp.llama": {"Llama.__init__": wrapping.llama},
    "llama_cpp.llama_chat_format": {
        "Llava15ChatHandler.__init__": wrapping.held_path("clip_model_path", ".gguf", formats=GGUF),
    },
    "xllamacpp": {"Server": wrapping.llama_server},
}
# Packages in which any class with a `from_pretrained` of its own loads: there are dozens, and each version has others.
PRETRAINED = ("transformers", "diffusers")
METHOD = "from_pretrained"
UNSIGNED = ("allow", "refuse")


@dataclass(slots=True)
class _Change:
    """One attribute that was replaced: `owner` is a class for methods; a function may stand under many names."""

    owner: Any
    name: str
    before: Any
    after: Any


@dataclass(slots=True)
class _State:
    chooser: Chooser = field(default_factory=Chooser)
    changes: list[_Change] = field(default_factory=list)
    finder: _Finder | None = None


_state = _State()
_lock = threading.RLock()


def install(*, unsigned: str = "allow", home: str | None = None) -> None:
    """Wrap the entry points of every library that is imported now or later; once is enough, twice does no harm.

    `unsigned="refuse"` raises `TrustError` for files that belong to no release. `home` is the store, else the default.
    Another call changes both, also for wrappers that somebody kept.
    """
    if unsigned not in UNSIGNED:
        raise UsageError(f"unsigned is one of {', '.join(UNSIGNED)}", rule="unsigned", got=unsigned)
    with _lock:
        _state.chooser.open(refuse=unsigned == "refuse", home=home)
        if _state.finder is not None:
            return
        for name, module in list(sys.modules.items()):
            if isinstance(module, ModuleType) and _is_seam(name):
                _wrap(name, module)
        _state.finder = _Finder()
        sys.meta_path.insert(0, _state.finder)


def uninstall() -> None:
    """Put everything back as it was; wrappers that somebody kept pass on what they are given."""
    with _lock:
        _state.chooser.close()
        if _state.finder is not None:
            sys.meta_path.remove(_state.finder)
            _state.finder = None
        while _state.changes:
            change = _state.changes.pop()
            if isinstance(change.owner, type):
                if vars(change.owner).get(change.name) is change.after:
                    setattr(change.owner, change.name, change.before)
            else:
                _rebind(change.after, change.before)


def _is_seam(name: str) -> bool:
    return name in SEAMS or name.partition(".")[0] in PRETRAINED


def _wrap(name: str, module: ModuleType) -> None:
    """Replace the entry points of one module that has been imported."""
    for attribute, make in SEAMS.get(name, {}).items():
        owner_name, dot, method = attribute.partition(".")
        owner = vars(module).get(owner_name)
        if owner is None:
            continue  # another version of the library: what it calls this is not known
        if dot:
            _wrap_method(owner, method, make)
        else:
            wrapper = functools.wraps(owner, updated=())(make(owner, _state.chooser))
            _state.changes.append(_Change(module, owner_name, owner, wrapper))
            _rebind(owner, wrapper)
    if name.partition(".")[0] in PRETRAINED:
        for owner in list(vars(module).values()):
            if isinstance(owner, type) and owner.__module__ == name:
                before = vars(owner).get(METHOD)
                if isinstance(before, classmethod) and wrapping.parameter_of(before.__func__) is not None:
                    _wrap_method(owner, METHOD, wrapping.from_pretrained)


def _wrap_method(owner: type, name: str, make: Callable[[Any, Chooser], Any]) -> None:
    before = vars(owner).get(name)
    if before is None:
        return  # inherited: wrapped where it is defined
    plain = before.__func__ if isinstance(before, classmethod) else before
    wrapper = functools.wraps(plain)(make(plain, _state.chooser))
    after = classmethod(wrapper) if isinstance(before, classmethod) else wrapper
    setattr(owner, name, after)
    _state.changes.append(_Change(owner, name, before, after))


def _rebind(before: Any, after: Any) -> None:
    """Let every module-level name that means `before` mean `after`: also those made by `from library import it`."""
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if isinstance(module, ModuleType) and isinstance(names, dict):
            for name in [name for name, value in list(names.items()) if value is before]:
                names[name] = after


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what others find, and wraps it once it has run."""

    def __init__(self) -> None:
        self._busy = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec that the other finders have, with a loader that wraps afterwards."""
        del path, target
        if not _is_seam(fullname) or getattr(self._busy, "name", None) == fullname:
            return None
        self._busy.name = fullname
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy.name = None
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Another loader, and what happens after it."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Make the module as the real loader does."""
        created: ModuleType | None = self._real.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then wrap its entry points."""
        self._real.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        module.__loader__ = self._real
        with _lock:
            if _state.finder is not None:  # else it was uninstalled meanwhile
                # A module may have put something lazy in its own place.
                _wrap(module.__name__, sys.modules.get(module.__name__, module))
