"""What modelnet publishes into one Kubo, another Kubo without modelnet has, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from modelnet.core import car
from modelnet.ipfs.kubo import Kubo as KuboClient
from modelnet.ipfs.push import push
from modelnet.ipfs.segments import ReleaseBlocks
from tests.engines import Kubo
from tests.ipfs.conftest import Maker
from tests.ipfs.models import large_tensors, release_files

Folder = Callable[[Mapping[str, bytes]], Path]


def test_a_release_of_every_format_travels_through_kubo(
    maker: Maker, folder: Folder, pair: tuple[Kubo, Kubo], client: KuboClient, tmp_path: Path
) -> None:
    """`ipfs get` of the tree gives the files, a tensor's CID the tensor; one pin holds it; its export is whole."""
    a, b = pair
    files = release_files(100)
    made = maker.publish(folder(files))
    root = made.release.manifest
    pushed = push(maker.store, client, root, "modelnet/m@1", segment=1_000_000)
    assert pushed.sent == pushed.bytes

    b.run("get", "--timeout=60s", "--output", tmp_path / "out", str(made.manifest.tree))
    out = tmp_path / "out"
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files

    tensors = 0
    for entry in made.manifest.files:
        if not entry.path.endswith((".safetensors", ".gguf", ".tflite", ".onnx", "model.bin")):
            continue
        spans = {(span.start, span.end): span.cid for span in maker.store.tree(entry).spans}
        for start, end in large_tensors(files[entry.path]):
            assert b.run("cat", "--timeout=30s", str(spans[start, end])) == files[entry.path][start:end]
            tensors += 1
    assert tensors == 10

    pins = a.run("pin", "ls", "--names", "--type=recursive").decode().splitlines()
    assert f"{root} recursive modelnet/m@1" in pins
    inner = {made.manifest.tree, *(entry.cid for entry in made.manifest.files)}
    assert not any(line.startswith(str(cid)) for line in pins for cid in inner)

    exported = {cid for cid, _ in car.read_car(b.run("dag", "export", "--timeout=30s", str(root)))}
    blocks = ReleaseBlocks(maker.store, root)
    assert exported == {*blocks.nodes, *(blocks.chunk(index)[0] for index in range(blocks.chunk_count))}
