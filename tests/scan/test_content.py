"""The gate tells files by their content: disguised code, broken headers, bombs, programs in templates."""

from __future__ import annotations

import gzip
import io
import json
import struct
import time
import zipfile
import zlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from modelnet.content import Severity, check_release
from modelnet.formats import BytesSource
from tests.formats.corpus import corpus
from tests.scan import samples
from tests.scan.fuzz import run
from tests.scan.samples import blocked, check, entry, gguf_of, safetensors_of, string

DISGUISES = ("model.safetensors", "pytorch_model.bin", "model.gguf", "vocab.txt", "config.json", "weights")


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("protocol", samples.PROTOCOLS)
def test_a_pickle_is_refused_whatever_it_is_called_and_wrapped_in(protocol: int, name: str) -> None:
    """Protocols 0 to 5, bare or in any wrapper, are refused as a pickle or as a wrapper that hides one."""
    for wrapping, content in samples.wrappings(samples.evil(protocol)):
        rules = blocked(content, name)
        assert rules & {"pickle", "archive"}, f"{wrapping}, protocol {protocol}, {name}: {rules}"


def test_the_reason_names_the_pickle_where_it_can_be_seen() -> None:
    """A wrapper that can be looked into is refused for what is in it, not for being one."""
    for wrapping, content in samples.wrappings(samples.evil(4)):
        if wrapping not in ("7z", "zip in zip", "gzip in tar"):
            assert "pickle" in blocked(content, "model.bin"), wrapping


def test_a_torch_file_is_refused_for_what_it_imports_beside_tensors() -> None:
    """The same zip is weights, or code, by the names in its pickle alone."""
    plain = b"\x80\x02ccollections\nOrderedDict\n)R."
    sly = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."
    hidden = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    for content, rules in ((plain, set()), (sly, {"pickle"}), (hidden, {"pickle"})):
        file = samples.zipped({"archive/data.pkl": content, "archive/data/0": bytes(64), "archive/version": b"3"})
        assert blocked(file, "model.pt") == rules


def test_arrays_of_objects_are_pickles() -> None:
    """NumPy keeps an array of objects as a pickle, in a file of its own or in an archive of arrays."""
    assert blocked(samples.object_array(), "w.npy") == {"pickle"}
    assert "pickle" in blocked(samples.zipped({"w.npy": samples.object_array()}), "w.npz")
    out = io.BytesIO()
    np.savez(out, Offset=np.zeros(3, dtype=[("Offset", "<i4"), ("O2", "<f4")]))
    assert blocked(out.getvalue(), "w.npz") == set()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", b"cat\ndog\nzebra\n" + b"word\n" * 50),
        ("vocab.txt", b"[PAD]\n[UNK]\nthe\nof\n"),
        ("merges.txt", b"#version: 0.2\n\xc4\xa0 t\n\xc4\xa0 a\n"),
        ("README.md", b"---\nlicense: mit\nbase_model: acme/base\n---\n# A model\n"),
        ("config.json", b'{"architectures": ["LlamaForCausalLM"], "hidden_size": 64}'),
        ("MZ.txt", b"MZ is how some programs begin, and this sentence"),
        ("bz.txt", b"BZh9 is how some archives begin, and this sentence"),
        ("LICENSE", b"Permission is hereby granted, free of charge, to any person"),
        ("empty", b""),
    ],
)
def test_honest_texts_pass(name: str, content: bytes) -> None:
    """Words that happen to begin like an opcode or a magic number are no reason to refuse a file."""
    assert blocked(content, name) == set()


@given(st.integers(min_value=60, max_value=70_000), st.binary(max_size=64))
def test_no_length_of_a_header_makes_a_safetensors_file_something_else(length: int, data: bytes) -> None:
    """The first eight bytes of the format are a number, and some numbers look like another format's magic."""
    text = json.dumps({"w": entry(0, len(data), [len(data)])}).encode()
    assert blocked(safetensors_of(text.ljust(length), data), "model.safetensors") <= {"polyglot"}


def test_formats_pass_under_their_own_name() -> None:
    """What the formats' own writers write is let through."""
    for name, content in corpus().items():
        kind = name.split("/")[0]
        suffix = {"torch-zip": "pt"}.get(kind, kind)
        assert blocked(content, f"model.{suffix}") <= {"torchscript"}, name


SAFETENSORS = {
    "a length beyond the file": safetensors_of(b"{}", length=1 << 40),
    "a length of 2^64-1": safetensors_of(b"{}", length=(1 << 64) - 1),
    "over a hundred million": struct.pack("<Q", 100_000_001) + b"{" + bytes(64),
    "no object": safetensors_of(b"[]"),
    "a key twice": safetensors_of(
        b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"a",
    ),
    "an overlap": safetensors_of({"a": entry(0, 2, [2]), "b": entry(1, 3, [2])}, b"abc"),
    "a hole": safetensors_of({"a": entry(0, 1, [1]), "b": entry(2, 3, [1])}, b"abc"),
    "bytes at the end": safetensors_of({"a": entry(0, 1, [1])}, b"abc"),
    "a tensor beyond the end": safetensors_of({"a": entry(0, 9, [9])}, b"abc"),
    "an unknown dtype": safetensors_of({"a": entry(0, 3, [3], "Q7")}, b"abc"),
    "a product that overflows": safetensors_of({"a": entry(0, 0, [1 << 62, 1 << 62, 0])}),
    "a negative offset": safetensors_of({"a": entry(-1, 2, [3])}, b"abc"),
    "nested too deep": safetensors_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_malformed_safetensors_are_refused(case: str) -> None:
    """Each rule of the format, broken once."""
    assert blocked(SAFETENSORS[case], "model.safetensors") & {"header", "format", "pickle"}


KEY = string(b"k")
GGUF = {
    "2^63 keys": gguf_of(n_keys=1 << 63),
    "2^63 tensors": gguf_of(n_tensors=1 << 63),
    "an array of 2^63 items": gguf_of(KEY + struct.pack("<IIQ", 9, 8, 1 << 63), 1),
    "an array of 2^63 bytes": gguf_of(KEY + struct.pack("<IIQ", 9, 0, 1 << 63), 1),
    "an array of arrays": gguf_of(KEY + struct.pack("<IIQ", 9, 9, 1), 1),
    "a string of 2^62 bytes": gguf_of(KEY + struct.pack("<IQ", 8, 1 << 62), 1),
    "a key of 2^40 bytes": gguf_of(struct.pack("<Q", 1 << 40), 1),
    "an unknown type": gguf_of(KEY + struct.pack("<I", 99), 1),
    "a key twice": gguf_of((KEY + struct.pack("<II", 4, 1)) * 2, 2),
    "an odd alignment": gguf_of(string(b"general.alignment") + struct.pack("<II", 4, 33), 1),
    "five dimensions": gguf_of(infos=string(b"w") + struct.pack("<I5QIQ", 5, 1, 1, 1, 1, 1, 0, 0), n_tensors=1),
    "a product that overflows": gguf_of(
        infos=string(b"w") + struct.pack("<I2QIQ", 2, 1 << 62, 4, 0, 0), n_tensors=1, tail=bytes(64)
    ),
    "a tensor beyond the end": gguf_of(infos=string(b"w") + struct.pack("<IQIQ", 1, 1 << 30, 0, 0), n_tensors=1),
    "big endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "a version to come": gguf_of(version=4),
    "cut off": b"GGUF\x03\x00",
}


@pytest.mark.parametrize("case", GGUF)
def test_malformed_gguf_is_refused(case: str) -> None:
    """Counts near 2^63, the array that makes a known reader hang, overflows, and each rule broken once."""
    assert "header" in blocked(GGUF[case], "model.gguf")


def test_a_name_that_a_runtime_goes_by_must_be_true() -> None:
    """A runtime parses a file as what it is called, so that is what it must be."""
    for suffix in ("safetensors", "gguf", "onnx", "tflite"):
        assert "format" in blocked(b"these are the words of no format at all", f"model.{suffix}")
    assert "format" in blocked(samples.tensors(), "model.gguf")


def test_a_bomb_is_told_by_its_sizes() -> None:
    """A zip that unpacks to more than anybody has memory for is refused without unpacking it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("w", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert blocked(out.getvalue(), "model.zip") == {"zip-bomb"}
    assert "archive" in blocked(gzip.compress(bytes(64 << 20), 1), "model.gz")


def test_a_member_that_lies_about_its_size_costs_nothing() -> None:
    """What a member's header claims bounds nothing; what is unpacked is bounded by us."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packed.compress(bytes(100 << 20)) + packed.flush()
    file = bytearray(samples.zipped({"w": bytes(10)}))
    assert len(body) < 200_000
    assert blocked(bytes(file), "a.zip") == set()
    broken = bytearray(samples.zipped({"w": b"x" * 4000}, zipfile.ZIP_DEFLATED))
    broken[40:60] = b"\xff" * 20
    assert "header" in blocked(bytes(broken), "a.zip")


def test_two_readers_must_see_one_file() -> None:
    """Weights with a zip appended are a zip for readers that look from the end."""
    assert "polyglot" in blocked(b"GGML weights " * 10 + samples.zipped({"a": b"b"}), "model.bin")
    assert blocked(samples.tensors() + samples.zipped({"a": b"b"}), "model.safetensors") >= {"header", "polyglot"}
    assert "path" in blocked(samples.zipped({"../../etc/cron.d/x": b"b"}), "model.zip")


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("modeling.py", b"import os\n", "source-code"),
        ("run", b"#!/bin/sh\ntrue\n", "source-code"),
        ("ops.so", b"\x7fELF\x02\x01\x01", "native-code"),
        ("weights.bin", b"\x7fELF\x02\x01\x01", "native-code"),
        ("weights.bin", b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0", "native-code"),
        ("ops.wasm", b"\x00asm\x01\x00\x00\x00", "native-code"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "hdf5"),
        ("x", samples.zipped({"config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}), "keras"),
        ("m.jit", samples.zipped({"m/data.pkl": b"\x80\x02N.", "m/code/__torch__.py": b"pass"}), "torchscript"),
    ],
)
def test_code_is_refused(name: str, content: bytes, rule: str) -> None:
    """Sources, programs, and formats that carry code."""
    assert rule in blocked(content, name)


HARMLESS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% endfor %}",
    "{%- set ns = namespace(found=false) -%}{{ raise_exception('no') if not ns.found else tools | tojson(indent=2) }}",
    "You may write `import os` in your answer; __init__ is fine in text. {{ bos_token }}",
    "{{ message.content.split('</think>')[-1].lstrip('\\n') }}",
    "{{ messages[loop.index0 + 1]['role'] ~ name.replace('-', '_') }}{# it's __init__ #}",
    "{{ content[content.find('</think>') + 8:] }}{{ tools|selectattr('type', 'equalto', 'function')|list }}",
    "{{- {'a': {'b': '}}'}} }} it's {{ 'to eval(x), import os' }}",
)
HARMFUL = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ x|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{% import 'other' as o %}",
    "{% include '/etc/passwd' %}",
    "{{ lipsum['__globals__']['os'] }}",
    "{{ \"%}\" ~ ''.__class__ }}",
    "{{ '}}' ~ x.__class__ }}",
    "{{ {'a': {}}.__class__ }}",
    "{{ 0.__class__ }}",
    r"{{ ''['\x5f\x5fclass\x5f\x5f'] }}",
    r"{{ ''['\137_class__'] }}",
    r"{{ ''['\N{LOW LINE}_class__'] }}",
    "{{ ''['__cla'~'ss__'] }}",
    "{{ ''['__cla' 'ss__'] }}",
    "{{ ''['_' + '_class_' + '_'] }}",
    "{{ x['po' ~ 'pen'] }}",
    "{{ x['pop' ~ y] }}",
    "{{ x[('pop', y)|join] }}",
    "{% set a = '_' %}{% set b = a ~ a %}{{ x[b] }}",
    "{% set a = '%c%c' % (95, 95) %}{{ x[a ~ 'class' ~ a] }}",
    "{% set a = '{:c}{:c}'.format(95, 95) %}{{ x[a] }}",
    "{{ x['__ssalc__'|reverse] }}",
    "{% set a = 'ssalc__'|reverse %}{{ x[a] }}",
    "{{ x|map('attr', 'a') }}",
    "{{ x|map(attribute='__class__') }}",
    "{{ x|map(attribute=y) }}",
    "{% filter attr('a') %}{% endfilter %}",
    "{# {{ ' #}{{ x.__class__ }}{# ' }} #}",
    "{% raw %}{{ ' {% endraw %}{{ x.__class__ }}",
    "{% raw %}{{ x.__class__ }}{% endraw %}",
    "{{ 'no end",
    "{{ no end",
    "{# no end",
    "{{" * 100_000,
)


def test_templates_are_reported_with_their_hash() -> None:
    """A template is said with its SHA-256, wherever it stands, and refused when it reaches for the interpreter."""
    for text in HARMLESS:
        for name, content in _templates(text):
            (finding,) = check(content, name)
            assert (finding.rule, finding.severity) == ("template", Severity.WARN), (name, text)
            assert "sha256" in finding.detail
    for text in HARMFUL:
        for name, content in _templates(text):
            assert blocked(content, name) == {"template-code"}, (name, text)


def _templates(text: str) -> list[tuple[str, bytes]]:
    key = string(b"tokenizer.chat_template") + struct.pack("<I", 8) + string(text.encode())
    named = [{"name": "default", "template": text}]
    return [
        ("tokenizer_config.json", json.dumps({"chat_template": text}).encode()),
        ("tokenizer_config.json", json.dumps({"chat_template": named}).encode()),
        ("chat_template.json", json.dumps({"chat_template": text}).encode()),
        ("chat_template.jinja", text.encode()),
        ("model.gguf", gguf_of(key, 1)),
    ]


def test_code_that_a_configuration_names_is_reported() -> None:
    """`auto_map` has a library import files of the repository, or of another one."""
    content = json.dumps({"auto_map": {"AutoModel": "evil/repo--modeling.Model"}}).encode()
    (finding,) = check(content, "config.json")
    assert finding.rule == "auto-map"
    assert "evil/repo" in finding.detail


def test_json_that_cannot_be_looked_into_is_said() -> None:
    """Depth, size and grammar are bounded before a parser sees them, and a configuration beyond them is refused."""
    template = b'"chat_template": "{{ x.__class__ }}"'
    for content in (
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"a":' + b"[" * 65 + b"]" * 65 + b", " + template + b"}",
        b'{"a": "' + b"b" * (65 << 20) + b'", ' + template + b"}",
        b'{"auto_map": "' + b"b" * (5 << 20) + b'"}',
        b'["+\\"' * 20_000,
        b'{"a": "',
        b"{'a': 1}",
    ):
        for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
            assert blocked(content, name) == {"json"}, (content[:20], name)
        assert [one.severity for one in check(content, "other.json")] == [Severity.WARN]
        assert check(content, "vocab.txt") == []


def test_large_and_odd_json_is_read() -> None:
    """A vocabulary of tens of megabytes passes, and what matters is found behind it, twice, and in UTF-16."""
    vocabulary = json.dumps({"vocab": {f"token {n}": n for n in range(400_000)}, "merges": [["a", "b"]] * 200_000})
    start = time.process_time()
    assert check(vocabulary.encode(), "tokenizer.json") == []
    assert check(vocabulary.encode(), "config.json") == []
    assert time.process_time() - start < 10
    harmful, harmless = json.dumps("{{ x.__class__ }}"), json.dumps("{{ x }}")
    for text in (
        vocabulary[:-1] + f', "chat_template": {harmful}}}',
        f'{{"chat_template": {harmful}, "chat_template": {harmless}}}',
        f'{{"chat_template": {harmless}, "chat_t\\u0065mplate": {harmful}}}',
    ):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"):
            assert blocked(text.encode(encoding), "tokenizer_config.json") == {"template-code"}, encoding
    words = json.dumps({f'\u0120a"\n{n}': n for n in range(600_000)}).encode()
    assert check(words, "vocab.json") == []
    for content in (b"[]", b"[1, {}]", b" {} ", b'{"a": NaN}', b'{"a": [{"b": "]}"}], "c": -1.5e3}'):
        assert check(content, "config.json") == []


def _external(location: str) -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph([], "g", [], [], [tensor])
    return bytes(onnx.ModelProto.SerializeToString(helper.make_model(graph)))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/b", "other.data", "", ".."])
def test_external_data_is_a_file_of_the_release(location: str) -> None:
    """ONNX may keep tensors elsewhere: beside the model, and nowhere else."""
    found = check_release({"m.onnx": BytesSource(_external(location))})
    assert [one.rule for one in found if one.severity is Severity.BLOCK] == ["external-data"]
    both = {"m.onnx": BytesSource(_external("w.data")), "w.data": BytesSource(bytes(16))}
    assert check_release(both) == []


def test_an_adapter_needs_a_base_that_its_lineage_names() -> None:
    """A base that is fetched by name is a dependency that nobody signed."""
    adapter = BytesSource(json.dumps({"base_model_name_or_path": "meta-llama/Llama-3-8B"}).encode())
    (finding,) = check_release({"adapter_config.json": adapter})
    assert (finding.rule, finding.severity) == ("base-model", Severity.BLOCK)


def test_a_llama_server_preset_is_said() -> None:
    """A file of this name sets a server's arguments."""
    assert [one.rule for one in check(b"[*]\nhost = 0.0.0.0\n", "preset.ini")] == ["preset"]


def test_damaged_files_give_findings_and_nothing_else() -> None:
    """Seeded edits of every kind of file: typed findings, bounded time and memory; `make fuzz` runs a million."""
    outcomes, _ = run(3000, seed=7)
    assert {"header", "pickle", "archive", "format"} <= set(outcomes)
