"""What a model's texts would have a runtime run: chat templates, `auto_map`, custom code, bases fetched by name.

A chat template is Jinja, a program. It is reported with its SHA-256, so that a change is seen, and refused when it does
what only an escape from a sandbox needs. Which names that is cannot be decided for good: run templates sandboxed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from modelnet.content.configs import read_fields
from modelnet.content.finding import Finding, Severity
from modelnet.content.jinja import needless
from modelnet.errors import MalformedError
from modelnet.formats import gguf
from modelnet.formats.layout import ByteSource

__all__ = ["base_models", "check_gguf", "check_json", "check_template", "is_text_template", "read_template"]

MAX_TEMPLATE = 1024 * 1024
# Fields that name code to import or fetch.
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate", "custom_code")
BASE = "base_model_name_or_path"
FIELDS = frozenset([*CODE_FIELDS, "chat_template"])
# Read by a runtime as a configuration, like everything that is called ...config.json.
CONFIGURATIONS = frozenset(
    ["chat_template.json", "modules.json", "model_index.json", "params.json", "special_tokens_map.json"]
)
TEMPLATE_KEY = b"tokenizer.chat_template"


def check_template(text: str, path: str, offset: int | None, name: str = "chat template") -> Iterator[Finding]:
    """Yield the report of one template, and its refusal when it reaches for the interpreter."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if (found := needless(text)) is not None:
        yield Finding(
            "template-code", Severity.BLOCK, path, offset,
            f"{name} uses {found.strip()[:40]!r}, which no chat needs (sha256 {digest})",
        )  # fmt: skip
        return
    yield Finding("template", Severity.WARN, path, offset, f"{name}, a program to run in a sandbox: sha256 {digest}")


def check_gguf(source: ByteSource, path: str) -> Iterator[Finding]:
    """Yield the reports of a GGUF file's templates; its header was accepted before."""
    for key, (offset, content) in gguf.texts(source, TEMPLATE_KEY, limit=MAX_TEMPLATE).items():
        if content is None:
            yield Finding("template-code", Severity.BLOCK, path, offset, f"{key} is too large for a template")
        else:
            yield from check_template(content.decode("utf-8", "replace"), path, offset, key)


def check_json(source: ByteSource, path: str) -> Iterator[Finding]:
    """Yield what a configuration would have run or fetched; that it cannot be read, where it is called one."""
    try:
        content = read_fields(source, FIELDS)
    except MalformedError as error:
        name = PurePosixPath(path).name.lower()
        if name.endswith(".json"):
            is_read = name.endswith("config.json") or name in CONFIGURATIONS
            severity = Severity.BLOCK if is_read else Severity.WARN
            yield Finding("json", severity, path, error.offset, f"not looked into: {error.message}")
        return
    for template in content.get("chat_template", ()):
        yield from _json_templates(template, path)
    for name in CODE_FIELDS:
        for value in filter(None, content.get(name, ())):
            shown = json.dumps(value, sort_keys=True)
            digest = hashlib.sha256(shown.encode()).hexdigest()
            yield Finding("auto-map", Severity.WARN, path, None, f"{name} {shown[:160]} names code: sha256 {digest}")


def _json_templates(template: object, path: str) -> Iterator[Finding]:
    """Yield the reports of one template, or of several that have names."""
    if isinstance(template, str):
        yield from check_template(template, path, None)
        return
    named: Iterable[tuple[object, object]] = ()
    if isinstance(template, dict):
        named = template.items()
    elif isinstance(template, list):
        named = [(one.get("name"), one.get("template")) for one in template if isinstance(one, dict)]
    for name, text in named:
        if isinstance(text, str):
            yield from check_template(text, path, None, f"chat template {str(name)[:40]!r}")


def base_models(source: ByteSource, path: str) -> list[str]:
    """Return the bases that an adapter's configuration names, which its runtime would fetch: one, as a rule."""
    if PurePosixPath(path).name != "adapter_config.json":
        return []
    try:
        bases = read_fields(source, [BASE])[BASE]
    except (MalformedError, KeyError):  # what cannot be read is refused by `check_json`
        return []
    return [base for base in bases if isinstance(base, str) and base]


def is_text_template(path: str) -> bool:
    """Tell whether a file is a template by its name."""
    return path.endswith((".jinja", ".jinja2", ".j2"))


def read_template(source: ByteSource) -> str:
    """Return the text of a template file; raise `MalformedError` for one that no chat needs."""
    if source.size > MAX_TEMPLATE:
        raise MalformedError("too large for a template", rule="template", wanted=MAX_TEMPLATE, got=source.size)
    return source.read(0, source.size).decode("utf-8", "replace")
