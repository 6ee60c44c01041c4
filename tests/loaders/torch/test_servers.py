"""The servers' plugins: what they stream, and that the servers' own registries find them where they are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from modelnet.errors import IntegrityError, TrustError  # noqa: E402
from modelnet.loaders.serving import find_model, verified_weights  # noqa: E402
from tests.loaders.shelf import Shelf, flip  # noqa: E402
from tests.scan import samples  # noqa: E402

State = dict[str, Any]


@pytest.fixture
def sharded(shelf: Shelf, tmp_path: Path) -> tuple[Path, State]:
    """A published model in two shards with an index, a stray shard that the index does not name, a configuration."""
    folder = tmp_path / "m"
    folder.mkdir()
    state = {f"layer.{n}.weight": torch.full((64, 1024), float(n)) for n in range(6)}
    names = list(state)
    shards = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, inside in shards.items():
        safetensors.torch.save_file({name: state[name] for name in inside}, folder / file)
    safetensors.torch.save_file({"other": torch.zeros(4)}, folder / "consolidated.safetensors")
    index = {"weight_map": {name: file for file, inside in shards.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    shelf.publish("sharded", folder)
    return folder, state


Sharded = tuple[Path, State]


def _same(weights: Any, state: State) -> bool:
    got = dict(weights)
    return got.keys() == state.keys() and all(torch.equal(got[name], state[name]) for name in state)


def test_weights_come_from_the_files_of_the_index(sharded: Sharded) -> None:
    """By reference and by folder; a prefix of files can be chosen."""
    folder, state = sharded
    assert _same(verified_weights(find_model("acme/sharded", "nowhere")), state)
    assert _same(verified_weights(find_model(None, str(folder))), state)
    only = verified_weights(find_model(None, str(folder)), only=["consolidated*"])
    assert [name for name, _ in only] == ["other"]
    with pytest.raises(TrustError):
        find_model(None, str(folder.parent))


def test_a_changed_configuration_stops_the_weights(sharded: Sharded) -> None:
    """The server read it before; it gets no weight for it."""
    folder, _ = sharded
    flip(folder / "config.json", 3)
    with pytest.raises(IntegrityError) as refused:
        next(verified_weights(find_model(None, str(folder))))
    assert refused.value.path == "config.json"


def test_a_damaged_tensor_stops_where_it_is(sharded: Sharded) -> None:
    """What came before it was right; it is named."""
    folder, state = sharded
    flip(folder / "model-00002-of-00002.safetensors", 300_000)
    weights = verified_weights(find_model(None, str(folder)))
    assert all(torch.equal(next(weights)[1], state[f"layer.{n}.weight"]) for n in range(3))
    with pytest.raises(IntegrityError, match="tensor 'layer"):
        list(weights)


def test_code_beside_the_weights_is_refused(shelf: Shelf, sharded: Sharded) -> None:
    """A pickle in the folder is something that a server may load."""
    folder, _ = sharded
    (folder / "pytorch_model.bin").write_bytes(samples.evil(2))
    shelf.publish("sharded", folder, version="2.0")
    with pytest.raises(TrustError) as refused:
        next(verified_weights(find_model("acme/sharded@2.0", str(folder))))
    assert refused.value.rule == "pickle"


def test_vllm_finds_and_uses_the_loader(sharded: Sharded) -> None:
    """Through vLLM's own plugin search, registry and default loader."""
    plugins = pytest.importorskip("vllm.plugins")
    loading = pytest.importorskip("vllm.model_executor.model_loader")
    from vllm.config.load import LoadConfig

    folder, state = sharded
    assert "modelnet" in plugins.load_plugins_by_group("vllm.general_plugins")
    plugins.load_general_plugins()
    for extra in ({}, {"ref": "acme/sharded"}):
        loader = loading.get_model_loader(LoadConfig(load_format="modelnet", model_loader_extra_config=extra))
        assert isinstance(loader, loading.DefaultModelLoader)
        source = loading.DefaultModelLoader.Source(str(folder), None)
        assert _same(loader._get_weights_iterator(source), state)
        prefixed = loading.DefaultModelLoader.Source(str(folder), None, prefix="a.")
        assert next(loader._get_weights_iterator(prefixed))[0].startswith("a.layer")
    flip(folder / "model-00001-of-00002.safetensors", 300_000)
    with pytest.raises(IntegrityError):
        list(loader._get_weights_iterator(source))


def test_sglang_finds_the_hook() -> None:
    """Through SGLang's own plugin search and hook registry."""
    plugins = pytest.importorskip("sglang.srt.plugins")
    hooks = pytest.importorskip("sglang.srt.plugins.hook_registry")
    found = plugins.load_plugins_by_group("sglang.srt.plugins")
    assert "modelnet" in found
    found["modelnet"][0]()
    from modelnet.loaders import sglang

    registered = hooks.HookRegistry._hooks[sglang.TARGET]
    assert [(kind.name, hook) for kind, hook, _ in registered] == [("AROUND", sglang.choose)]


def test_sglang_uses_the_loader(sharded: Sharded) -> None:
    """Our loader where the extra configuration asks for it, SGLang's own elsewhere."""
    loading = pytest.importorskip("sglang.srt.model_loader.loader")
    from sglang.srt.configs.load_config import LoadConfig

    from modelnet.loaders import sglang

    folder, state = sharded
    for extra in ({"modelnet": True}, {"modelnet": "acme/sharded"}):
        loader = sglang.choose(loading.get_model_loader, LoadConfig(model_loader_extra_config=extra))
        source = loading.DefaultModelLoader.Source(str(folder), None)
        assert _same(loader._get_weights_iterator(source), state)
    plain = sglang.choose(loading.get_model_loader, LoadConfig())
    assert type(plain) is loading.DefaultModelLoader
