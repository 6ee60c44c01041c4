"""transformers and diffusers on verified folders: equal outputs, nothing fetched, code refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import huggingface_hub.constants  # noqa: E402

import modelnet  # noqa: E402
from modelnet import loaders  # noqa: E402
from modelnet.errors import IntegrityError, TrustError, UsageError  # noqa: E402
from modelnet.loaders import diffusers as diffusers_loader  # noqa: E402
from modelnet.loaders import transformers as transformers_loader  # noqa: E402
from modelnet.policies import Policies, Terms  # noqa: E402
from tests.loaders.attacks import ATTACKS, during, swapping  # noqa: E402
from tests.loaders.shelf import Shelf, flip  # noqa: E402
from tests.realmodels import need  # noqa: E402

SENTENCES = ["A man is eating food.", "Somebody eats a meal.", "The sky is a deep blue."]


def _embed(model: Any, tokenizer: Any) -> Any:
    """Sentence embeddings: the mean over the tokens, of length one."""
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


def _load(ref: str, **options: Any) -> Any:
    model = transformers_loader.from_pretrained(transformers.AutoModel, ref, **options)
    tokenizer = transformers_loader.from_pretrained(transformers.AutoTokenizer, ref, **options)
    return _embed(model, tokenizer)


def _plain(folder: Path) -> Any:
    return _embed(
        transformers.AutoModel.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    )  # fmt: skip


def test_minilm_gives_the_same_sentence_embeddings(shelf: Shelf) -> None:
    """Equal to the last bit, and they mean something; the Hub's client is as it was afterwards."""
    folder = need("minilm")
    shelf.publish("minilm", folder)
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    got = _load("acme/minilm")
    assert huggingface_hub.constants.HF_HUB_OFFLINE is before
    assert torch.equal(got, _plain(folder))
    alike = got @ got.T
    assert alike[0, 1] > 0.5 > alike[0, 2]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_change_nothing(shelf: Shelf, attack: str) -> None:
    """Weights and vocabulary are attacked while transformers loads; and afterwards, under the memory map."""
    ref, folder = shelf.copy("minilm", need("minilm"))
    expected = _plain(folder)
    weights = folder / "model.safetensors"
    good, words = weights.read_bytes(), (folder / "tokenizer.json").read_bytes()
    evil = good[:60_000_000] + bytes(1000) + good[60_001_000:]

    def strike() -> None:
        ATTACKS[attack](weights, evil)
        ATTACKS[attack](folder / "tokenizer.json", b'{"version": "1.0"}' + words[18:])

    with during(transformers.AutoModel, "from_pretrained", strike) as happened:
        model = transformers_loader.from_pretrained(transformers.AutoModel, ref)
    assert happened
    weights.write_bytes(good)
    (folder / "tokenizer.json").write_bytes(words)
    tokenizer = transformers_loader.from_pretrained(transformers.AutoTokenizer, ref)
    strike()
    assert torch.equal(_embed(model, tokenizer), expected)


def test_swaps_between_opens_change_nothing(shelf: Shelf) -> None:
    """The configuration is swapped for another all the time: each load is right or refused."""
    ref, folder = shelf.copy("minilm", need("minilm"))
    expected = _plain(folder)
    config = json.loads((folder / "config.json").read_text())
    evil = json.dumps({**config, "num_hidden_layers": 3}).encode()
    with swapping(folder / "config.json", evil):
        for _ in range(6):
            try:
                got = _load(ref)
            except (IntegrityError, modelnet.UnavailableError):
                continue
            assert torch.equal(got, expected)


@pytest.mark.parametrize("path", ["model.safetensors", "config.json", "vocab.txt", "tokenizer.json"])
def test_a_flipped_byte_never_reaches_transformers(shelf: Shelf, path: str) -> None:
    """In the weights as in the words."""
    ref, folder = shelf.copy("minilm", need("minilm"))
    flip(folder / path, (folder / path).stat().st_size // 2)

    class Unreachable:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> None:
            pytest.fail("transformers was called")

    with pytest.raises(IntegrityError) as refused:
        transformers_loader.from_pretrained(Unreachable, ref)
    assert refused.value.path == path
    if path == "model.safetensors":
        assert "tensor 'e" in str(refused.value)


CODE = """
from transformers import PretrainedConfig, PreTrainedModel
import torch
class OwnConfig(PretrainedConfig):
    model_type = "own"
class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 2)
        self.post_init()
"""


def _own(folder: Path, where: str = "") -> Path:
    import safetensors.torch

    folder.mkdir()
    (folder / "own.py").write_text(CODE)
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": f"{where}own.OwnConfig", "AutoModel": f"{where}own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    state = {"layer.weight": torch.eye(2), "layer.bias": torch.zeros(2)}
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_code_in_a_repository_needs_the_policy(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`trust_remote_code` alone runs nothing; with the file's digest in the policy the signed code runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    made = modelnet.publish(_own(tmp_path / "own"), name="own", version="1", home=shelf.home)
    with pytest.raises(TrustError) as refused:
        transformers_loader.from_pretrained(transformers.AutoModel, "acme/own", trust_remote_code=True)
    assert (refused.value.rule, refused.value.path) == ("source-code", "own.py")
    digest = next(entry.sha256.hex() for entry in made.manifest.files if entry.path == "own.py")
    policy = Policies(Terms(), {made.release.pid: Terms(allow_code=frozenset([digest]))})
    model = transformers_loader.from_pretrained(
        transformers.AutoModel, "acme/own", trust_remote_code=True, policy=policy
    )
    assert type(model).__name__ == "OwnModel"
    assert torch.equal(model.layer.weight, torch.eye(2))


def test_code_of_another_repository_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    """What a configuration names elsewhere was signed by nobody, whatever the policy allows here."""
    made = modelnet.publish(_own(tmp_path / "own", "evil/repo--"), name="own", version="1", home=shelf.home)
    digest = next(entry.sha256.hex() for entry in made.manifest.files if entry.path == "own.py")
    policy = Policies(Terms(), {made.release.pid: Terms(allow_code=frozenset([digest]))})
    with pytest.raises(TrustError) as refused:
        transformers_loader.from_pretrained(transformers.AutoModel, "acme/own", trust_remote_code=True, policy=policy)
    assert refused.value.rule == "auto-map"


def test_code_elsewhere_is_found_wherever_it_is_named(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind long keys, spelt by escapes, in a list, in the configuration of a part, in a tokenizer's: always refused.

    Somebody else's copy of that code lies in the Hub's cache, where transformers would find it offline.
    """
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    elsewhere = "evil/repo--own.OwnModel"
    long = {f"{letter * 60}": "own.OwnModel" for letter in "ABCD"}
    names = {"AutoConfig": "own.OwnConfig"}
    maps = {
        "long": json.dumps({"model_type": "own", "auto_map": {**long, "zAutoModel": elsewhere, **names}}),
        "escaped": json.dumps({"auto_map": {**names, "AutoModel": elsewhere}}).replace("--", "\\u002d\\u002D"),
        "list": json.dumps({"auto_map": {"AutoTokenizer": [None, elsewhere]}}),
        "nested": json.dumps({"auto_map": names, "text_config": {"auto_map": {"AutoModel": elsewhere}}}),
    }
    for name, text in maps.items():
        folder = _own(tmp_path / name)
        (folder / "config.json").write_text(text)
        _refuses_code(shelf, name, folder, "config.json")
    folder = _own(tmp_path / "odd")
    (folder / "odd.txt").write_text(maps["long"])
    _refuses_code(shelf, "odd", folder, "odd.txt")
    folder = _own(tmp_path / "tokenizer")
    (folder / "tokenizer_config.json").write_text(maps["list"])
    _refuses_code(shelf, "tokenizer", folder, "tokenizer_config.json")


def _refuses_code(shelf: Shelf, name: str, folder: Path, path: str) -> None:
    made = modelnet.publish(folder, name=name, version="1", home=shelf.home)
    digests = frozenset(entry.sha256.hex() for entry in made.manifest.files)
    policy = Policies(Terms(), {made.release.pid: Terms(allow_code=digests)})
    factory = during(transformers.AutoModel, "from_pretrained", lambda: pytest.fail("transformers was called"))
    with factory, pytest.raises(TrustError) as refused:
        transformers_loader.from_pretrained(
            transformers.AutoModel, f"acme/{name}", trust_remote_code=True, policy=policy
        )
    assert (refused.value.rule, refused.value.path) == ("auto-map", path)


def test_code_elsewhere_is_not_asked_about(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that transformers knows, and that names code elsewhere too, loads with its own; nobody is asked."""
    _, folder = shelf.copy("minilm", need("minilm"))
    expected = _plain(folder)
    config = json.loads((folder / "config.json").read_text())
    for extra in ({"auto_map": {"AutoModel": "evil/repo--own.Own"}}, {"note": "a -- b", "auto_map": {}}):
        (folder / "config.json").write_text(json.dumps({**config, **extra}))
        shelf.publish("minilm", folder, version=f"2.{len(extra)}")
        monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
        assert torch.equal(_load("acme/minilm"), expected)


def test_arguments_lead_out_of_no_release(shelf: Shelf, tmp_path: Path) -> None:
    """Neither a GGUF file nor a folder that is joined to the verified one."""
    ref, _ = shelf.copy("minilm", need("minilm"))
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.gguf").write_bytes(b"GGUF")
    for options in (
        {"gguf_file": str(tmp_path / "evil" / "evil.gguf")}, {"gguf_file": "../evil.gguf"},
        {"subfolder": str(tmp_path / "evil")}, {"subfolder": "x/../../evil"},
    ):  # fmt: skip
        with pytest.raises(TrustError) as refused:
            transformers_loader.from_pretrained(transformers.AutoModel, ref, **options)
        assert refused.value.rule == "unsigned"
    with pytest.raises(UsageError):
        transformers_loader.from_pretrained(transformers.AutoModel, ref, gguf_file="other.gguf")


def test_unsigned_arguments_are_refused_where_unsigned_files_are(shelf: Shelf, tmp_path: Path) -> None:
    """Weights in memory, a configuration, a vocabulary and an adapter beside a signed model."""
    ref, folder = shelf.copy("minilm", need("minilm"))
    evil = tmp_path / "evil"
    shutil.copytree(folder, evil)
    state = transformers.AutoModel.from_pretrained(folder).state_dict()
    loaders.install(unsigned="refuse")
    try:
        for factory, options in (
            (transformers.AutoModel, {"state_dict": state}),
            (transformers.AutoModel, {"config": str(evil)}),
            (transformers.AutoModel, {"config": evil / "config.json"}),
            (transformers.AutoModel, {"adapter_kwargs": {"_adapter_model_path": str(evil)}}),
            (transformers.AutoModel, {"subfolder": "../evil"}),
            (transformers.AutoTokenizer, {"vocab_file": str(evil / "vocab.txt")}),
            (transformers.AutoTokenizer, {"tokenizer_file": str(evil / "tokenizer.json")}),
        ):
            for name in (folder, f"modelnet:{ref}"):
                with pytest.raises(TrustError) as refused:
                    factory.from_pretrained(name, **options)
                assert refused.value.rule == "unsigned"
        for factory in (transformers.AutoModel, transformers.AutoConfig, transformers.AutoTokenizer):
            factory.from_pretrained(folder)
            with pytest.raises(TrustError):
                factory.from_pretrained(evil)
        with pytest.raises(TrustError):
            transformers.BertModel.from_pretrained(None, config=transformers.BertConfig(), state_dict=state)
    finally:
        loaders.uninstall()


def test_a_folder_inside_a_release_is_verified(shelf: Shelf, tmp_path: Path) -> None:
    """A part of a pipeline, through a link to the release too; and one file of it."""
    top = tmp_path / "top"
    shutil.copytree(need("minilm"), top / "enc")
    for file in top.rglob("*.*"):
        file.chmod(0o644)
    (top / "enc" / "other_config.json").write_text((top / "enc" / "config.json").read_text())
    shelf.publish("parts", top)
    (tmp_path / "link").symlink_to(top)
    expected = _plain(top / "enc")
    loaders.install()
    try:
        for folder in (top / "enc", tmp_path / "link" / "enc"):
            assert torch.equal(_plain(folder), expected)
        config = transformers.BertConfig.from_pretrained(top / "enc" / "other_config.json")
        assert config.num_hidden_layers == 6
        assert transformers.AutoConfig.from_pretrained(top, subfolder="enc").num_hidden_layers == 6
        flip(top / "enc" / "config.json", 30)
        flip(top / "enc" / "model.safetensors", 50_000_000)
        for folder in (top / "enc", tmp_path / "link" / "enc"):
            for factory in (transformers.AutoModel, transformers.AutoConfig, transformers.AutoTokenizer):
                with pytest.raises(IntegrityError):
                    factory.from_pretrained(folder)
    finally:
        loaders.uninstall()


def test_every_class_that_loads_takes_our_names(shelf: Shelf, tmp_path: Path) -> None:
    """Processors and extractors of every kind, by the name that each gives its parameter."""
    folder = tmp_path / "m"
    transformers.ViTImageProcessor().save_pretrained(folder)
    shelf.publish("ip", folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "fe")
    shelf.publish("fe", tmp_path / "fe")
    transformers.GenerationConfig(max_new_tokens=7).save_pretrained(tmp_path / "gc")
    shelf.publish("gc", tmp_path / "gc")
    loaders.install()
    try:
        assert transformers.AutoImageProcessor.from_pretrained("modelnet:acme/ip")
        assert transformers.AutoFeatureExtractor.from_pretrained("modelnet:acme/fe").sampling_rate == 16000
        named = transformers.AutoFeatureExtractor.from_pretrained(pretrained_model_name_or_path="modelnet:acme/fe")
        assert named.sampling_rate == 16000
        for arguments in ({"pretrained_model_name": "modelnet:acme/gc"}, {"pretrained_model_name": tmp_path / "gc"}):
            assert transformers.GenerationConfig.from_pretrained(**arguments).max_new_tokens == 7
        flip(folder / "preprocessor_config.json", 20)
        with pytest.raises(IntegrityError):
            transformers.AutoImageProcessor.from_pretrained(folder)
        from transformers.models.auto import auto_factory

        wrapped = (
            auto_factory._BaseAutoModelClass, transformers.AutoModel, transformers.AutoImageProcessor,
            transformers.AutoFeatureExtractor,
            transformers.AutoProcessor, transformers.AutoConfig, transformers.AutoTokenizer,
            transformers.ProcessorMixin, transformers.PreTrainedModel, transformers.GenerationConfig,
        )  # fmt: skip
        before = {owner: vars(owner)["from_pretrained"].__func__.__wrapped__ for owner in wrapped}
    finally:
        loaders.uninstall()
    for owner, plain in before.items():
        assert vars(owner)["from_pretrained"].__func__ is plain


def test_installed_transformers_takes_our_names(shelf: Shelf) -> None:
    """An app's own calls, by name and by the path of a published folder; undone afterwards."""
    ref, folder = shelf.copy("minilm", need("minilm"))
    expected = _plain(folder)
    before = vars(transformers.PreTrainedModel)["from_pretrained"]
    loaders.install()
    try:
        model = transformers.AutoModel.from_pretrained("modelnet:acme/minilm")
        tokenizer = transformers.AutoTokenizer.from_pretrained(f"modelnet:{ref}")
        assert torch.equal(_embed(model, tokenizer), expected)
        assert torch.equal(_plain(folder), expected)
        flip(folder / "model.safetensors", 50_000_000)
        with pytest.raises(IntegrityError):
            transformers.AutoModel.from_pretrained(folder)
        with pytest.raises(IntegrityError):
            transformers.BertModel.from_pretrained("modelnet:acme/minilm")
    finally:
        loaders.uninstall()
    assert vars(transformers.PreTrainedModel)["from_pretrained"] is before


def test_a_tiny_pipeline_of_diffusers(shelf: Shelf, tmp_path: Path) -> None:
    """A pipeline of folders: equal images from equal noise, damage refused, code from elsewhere refused."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=10)).save_pretrained(tmp_path / "m")
    shelf.publish("noise", tmp_path / "m")

    def paint(pipeline: Any) -> Any:
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(5)
        return pipeline(num_inference_steps=2, generator=generator, output_type="np").images

    got = paint(diffusers_loader.from_pretrained(diffusers.DiffusionPipeline, "acme/noise"))
    assert (got == paint(diffusers.DiffusionPipeline.from_pretrained(tmp_path / "m"))).all()
    with pytest.raises(TrustError):
        diffusers_loader.from_pretrained(diffusers.DiffusionPipeline, "acme/noise", custom_pipeline="somebody/else")
    flip(tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors", 30_000)
    with pytest.raises(IntegrityError, match="tensor"):
        diffusers_loader.from_pretrained(diffusers.DiffusionPipeline, "acme/noise")
    shutil.rmtree(tmp_path / "m")


def test_installed_diffusers_takes_our_names(shelf: Shelf, tmp_path: Path) -> None:
    """A pipeline by name and by path, and its parts by their folders; no code from elsewhere."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    folder = tmp_path / "m"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=10)).save_pretrained(folder)
    shelf.publish("noise", folder)
    weights = unet.state_dict()

    def same(one: Any) -> bool:
        return all(torch.equal(tensor, weights[name]) for name, tensor in one.state_dict().items())

    loaders.install(unsigned="refuse")
    try:
        for name in ("modelnet:acme/noise", folder):
            assert same(diffusers.DiffusionPipeline.from_pretrained(name).unet)
            assert same(diffusers.UNet2DModel.from_pretrained(name, subfolder="unet"))
            scheduler = diffusers.DDPMScheduler.from_pretrained(name, subfolder="scheduler")
            assert scheduler.config.num_train_timesteps == 10
            with pytest.raises(TrustError) as refused:
                diffusers.DiffusionPipeline.from_pretrained(name, custom_pipeline="somebody/else")
            assert refused.value.rule == "source-code"
        assert same(diffusers.UNet2DModel.from_pretrained(folder / "unet"))
        flip(folder / "unet" / "diffusion_pytorch_model.safetensors", 30_000)
        flip(folder / "scheduler" / "scheduler_config.json", 30)
        with pytest.raises(IntegrityError):
            diffusers.UNet2DModel.from_pretrained(folder / "unet")
        with pytest.raises(IntegrityError):
            diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    finally:
        loaders.uninstall()
