"""What stands before a library's entry point while `modelnet.loaders.install` is in force: one function for each.

Each takes the original and the `Chooser`, and returns what replaces it. What is not ours goes to the original as it is;
what has no name (bytes, open files, tensors) belongs to no release, and is refused where such things are.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from modelnet.loaders import _hub
from modelnet.loaders._files import hold
from modelnet.loaders._trusted import PREFIX, find_path
from modelnet.loaders.choosing import Chooser
from modelnet.loaders.llama_cpp import PARTS, held_parameters
from modelnet.loaders.torch import SCRIPTS, SUFFIXES, ZIPS
from modelnet.loading import VerifiedModel

__all__ = ["parameter_of"]

FRAMEWORKS = frozenset(["np", "numpy", "pt", "torch", "pytorch"])
MAKERS = ("pretrained_model", "model_name_or_path")  # how the first parameter of a `from_pretrained` begins


def safe_open(original: Any, chooser: Chooser) -> Any:
    """Wrap `safetensors.safe_open`; the bytes used are the bytes hashed. What stands for the class stays one."""

    def opened(filename: Any, framework: str = "np", device: Any = "cpu", *args: Any, **options: Any) -> Any:
        if not chooser.takes(filename):
            return original(filename, framework, device, *args, **options)
        if framework not in FRAMEWORKS:  # what our reader makes no arrays for maps the sealed file
            with hold(filename, (".safetensors",), home=chooser.home, formats=("safetensors",)) as held:
                return original(held.path, framework, device, *args, **options)
        from modelnet.loaders import safetensors

        return safetensors.safe_open(filename, framework, device, home=chooser.home)

    return _class_like(original, opened)


def _class_like(original: type, make: Callable[..., Any]) -> type:
    """Return a class that makes what `make` does, and whose objects are those of `original` and of our own reader.

    The original takes no subclass, and neither does this.
    """

    class Facade(type):
        def __call__(cls, *args: Any, **options: Any) -> Any:
            return make(*args, **options)

        def __instancecheck__(cls, one: object) -> bool:
            return issubclass(type(one), _kinds(original))

        def __subclasscheck__(cls, other: type) -> bool:
            return other is cls or issubclass(other, _kinds(original))

        def __getattr__(cls, name: str) -> Any:
            return getattr(original, name)

    def refuse(*_: Any, **__: Any) -> None:
        raise TypeError(f"type '{original.__module__}.{original.__name__}' is not an acceptable base type")

    return Facade(original.__name__, (), {"__init_subclass__": refuse})


def _kinds(original: type) -> tuple[type, ...]:
    from modelnet.loaders import safetensors

    return (original, safetensors.safe_open)


def from_memory(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap a function, or a method, that takes a model's content: nothing tells whose that is."""

    def wrapper(*args: Any, **options: Any) -> Any:
        chooser.refuse_memory(getattr(original, "__name__", "memory"))
        return original(*args, **options)

    return wrapper


def held_path(
    parameter: str, *suffixes: str, formats: tuple[str, ...] = ()
) -> Callable[[Any, Chooser], Callable[..., Any]]:
    """Wrap a method whose first argument, `parameter`, is a path: it is given one that cannot change."""

    def wrap(original: Any, chooser: Chooser) -> Callable[..., Any]:
        def wrapper(self: Any, *args: Any, **options: Any) -> Any:
            path = args[0] if args else options.get(parameter)
            name = os.fsdecode(path) if isinstance(path, bytes) else path
            if name is None or not chooser.takes(name):
                return original(self, *args, **options)
            options.pop(parameter, None)
            with hold(name, suffixes, home=chooser.home, formats=formats) as held:
                made = original(self, held.path, *args[1:], **options)
                held.keep(self if made is None else made)
                return made

        return wrapper

    return wrap


def torch_load(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `torch.load`: weights only, from a file that cannot change."""

    def wrapper(f: Any, *args: Any, **options: Any) -> Any:
        if not chooser.takes(f):
            return original(f, *args, **options)
        options["weights_only"] = True
        with hold(f, SUFFIXES, home=chooser.home, formats=ZIPS) as held:
            return original(held.path, *args, **options)

    return wrapper


def torch_jit_load(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `torch.jit.load`: a program, so only what the policy allows."""

    def wrapper(f: Any, *args: Any, **options: Any) -> Any:
        if not chooser.takes(f):
            return original(f, *args, **options)
        with hold(f, SCRIPTS, home=chooser.home, formats=ZIPS) as held:
            return original(held.path, *args, **options)

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

    def wrapper(self: Any, model_path: Any = None, model_content: Any = None, *args: Any, **options: Any) -> None:
        if model_content is not None:
            chooser.refuse_memory("model_content")
        if model_path is None or not chooser.takes(model_path):
            return original(self, model_path, model_content, *args, **options)  # type: ignore[no-any-return]
        from modelnet.loaders import litert

        content = litert.verified_content(model_path, home=chooser.home)
        return original(self, None, content, *args, **options)  # type: ignore[no-any-return]

    return wrapper


def llama(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap `llama_cpp.Llama`: the model, and the adapters beside it."""

    def wrapper(self: Any, model_path: Any, *args: Any, **options: Any) -> None:
        wanted = {"model_path": model_path, **{name: options[name] for name in PARTS if options.get(name)}}
        with ExitStack() as stack:
            held = {
                name: stack.enter_context(hold(path, (".gguf",), home=chooser.home, formats=("gguf",)))
                for name, path in wanted.items()
                if chooser.takes(path)
            }
            paths = {**wanted, **{name: one.path for name, one in held.items()}}
            original(self, paths.pop("model_path"), *args, **{**options, **paths})
            for one in held.values():
                one.keep(self)

    return wrapper


def llama_server(original: Any, chooser: Chooser) -> Any:
    """Wrap `xllamacpp.Server`, which finds its paths in its parameters; its objects carry what they hold."""

    class Kind(type(original)):  # type: ignore[misc]
        def __call__(cls, *args: Any, **options: Any) -> Any:
            params = next(iter([*args, *options.values()]), None)
            if params is None:
                return super().__call__()  # which says what is missing
            with held_parameters(params, chooser.takes, refuse=chooser.refuses, home=chooser.home) as held:
                made = super().__call__(*args, **options)
                for one in held:
                    one.keep(made)
                return made

        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, original) if cls is server else super().__instancecheck__(one)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, original) if cls is server else super().__subclasscheck__(other)

    server = Kind(original.__name__, (original,), {})
    return server


def parameter_of(method: Any) -> str | None:
    """Return what a `from_pretrained` calls the name that it is given, or None when it is given something else."""
    try:
        names = list(inspect.signature(method).parameters)
    except (TypeError, ValueError):
        return None
    # The second, after the class; the first where a decorator made the method from a bound one.
    return next((name for name in names[:2] if name.startswith(MAKERS)), None)


def from_pretrained(original: Any, chooser: Chooser) -> Callable[..., Any]:
    """Wrap a `from_pretrained` of transformers or diffusers: it is given a verified folder, and the Hub is off."""
    parameter = parameter_of(original) or ""

    def wrapper(cls: Any, *args: Any, **options: Any) -> Any:
        chooser.check_options({key: value for key, value in options.items() if key != parameter})
        name = args[0] if args else options.get(parameter)
        if name is None or not chooser.takes(name):
            return original(cls, *args, **options)
        options.pop(parameter, None)
        with _folder(os.fsdecode(name), chooser.home) as (model, inside), _hub.offline():
            options = {**_hub.prepared(model, options, inside=inside), "local_files_only": True}
            return original(cls, str(model.path / inside), *args[1:], **options)

    return wrapper


@contextmanager
def _folder(name: str, home: str | None) -> Iterator[tuple[VerifiedModel, str]]:
    """Give the verified files of a `modelnet:` name, or of a path in the store, and the place that is meant in them."""
    from modelnet.loading import verified

    found = None if name.startswith(PREFIX) else find_path(name, home=home)
    if found is None:
        with verified(name, home=home) as model:
            yield model, ""
    else:
        trusted, inside = found
        below = [entry.path for entry in trusted.manifest.files if entry.path.startswith(f"{inside}/")]
        with VerifiedModel(trusted, only=below) as model:
            yield model, inside
