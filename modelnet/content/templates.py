"""What a model's texts would have a runtime run: chat templates, `auto_map`, custom code, bases fetched by name.

A chat template is Jinja, a program. It is reported with its SHA-256, so that a change is seen, and refused when it does
what only an escape from a sandbox needs. Which names that is cannot be decided for good: run templates sandboxed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from modelnet.content.finding import Finding, Severity
from modelnet.errors import MalformedError
from modelnet.formats import gguf
from modelnet.formats.layout import ByteSource

__all__ = ["MAX_JSON", "base_model", "check_gguf", "check_json", "check_template", "read_json"]

MAX_JSON = 8 * 1024 * 1024  # configurations; vocabularies (tokenizer.json) are larger and hold no code
MAX_TEMPLATE = 1024 * 1024
MAX_DEPTH = 64
TAG = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
# Attributes that lead from a value to the interpreter, and the ways to name them indirectly.
ESCAPE = re.compile(
    r"__\w+__|\battr\s*\(|\|\s*attr\b|\b(?:mro|subclasses|globals|builtins|popen|subprocess|getattr|eval|exec)\b"
    r"|\bos\s*\.\s*\w|^-?\s*(?:import|include|extends|from)\b"
)
# Fields that name code to import or fetch.
CODE_FIELDS = ("auto_map", "custom_pipelines", "custom_generate", "custom_code")
TEMPLATE_KEY = b"tokenizer.chat_template"


def check_template(text: str, path: str, offset: int | None, name: str = "chat template") -> Iterator[Finding]:
    """Yield the report of one template, and its refusal when it reaches for the interpreter."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    for tag in TAG.finditer(text):
        if found := ESCAPE.search(tag[1].strip()):
            yield Finding(
                "template-code", Severity.BLOCK, path, offset,
                f"{name} uses {found[0].strip()[:40]!r}, which no chat needs (sha256 {digest})",
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


def read_json(source: ByteSource) -> Any:
    """Return what a configuration says, or None when it is no JSON, too large or nested too deep."""
    if source.size > MAX_JSON:
        return None
    content = source.read(0, source.size)
    depth = deepest = 0
    for byte in re.findall(rb'"(?:[^"\\]|\\.)*+"|[\[{\]}]', content, re.DOTALL):
        if byte[:1] in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in (b"]", b"}"):
            depth -= 1
    if deepest > MAX_DEPTH:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def check_json(source: ByteSource, path: str) -> Iterator[Finding]:
    """Yield what a configuration would have run or fetched."""
    content = read_json(source)
    if not isinstance(content, dict):
        return
    template = content.get("chat_template")
    if isinstance(template, str):
        yield from check_template(template, path, None)
    elif isinstance(template, list | dict):
        items = template.items() if isinstance(template, dict) else [
            (one.get("name"), one.get("template")) for one in template if isinstance(one, dict)
        ]  # fmt: skip
        for name, text in items:
            if isinstance(text, str):
                yield from check_template(text, path, None, f"chat template {str(name)[:40]!r}")
    for name in CODE_FIELDS:
        if value := content.get(name):
            shown = json.dumps(value, sort_keys=True)
            digest = hashlib.sha256(shown.encode()).hexdigest()
            yield Finding("auto-map", Severity.WARN, path, None, f"{name} {shown[:160]} names code: sha256 {digest}")


def base_model(source: ByteSource, path: str) -> str | None:
    """Return the base that an adapter's configuration names, which its runtime would fetch."""
    if PurePosixPath(path).name != "adapter_config.json":
        return None
    content = read_json(source)
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    return base if isinstance(base, str) and base else None


def is_text_template(path: str) -> bool:
    """Tell whether a file is a template by its name."""
    return path.endswith((".jinja", ".jinja2", ".j2"))


def read_template(source: ByteSource) -> str:
    """Return the text of a template file; raise `MalformedError` for one that no chat needs."""
    if source.size > MAX_TEMPLATE:
        raise MalformedError("too large for a template", rule="template", wanted=MAX_TEMPLATE, got=source.size)
    return source.read(0, source.size).decode("utf-8", "replace")
