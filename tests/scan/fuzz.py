"""Fuzz the content check: damaged headers, archives and pickles give findings, quickly and without reading it all.

python -m tests.scan.fuzz --cases 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

from modelnet.content import Finding, check_release
from tests.formats.corpus import CountingSource, corpus, random_edits
from tests.scan import samples

# A case takes about a millisecond; a thousand times that is a hang and not a busy machine.
SLOW_SECONDS = 2.0
MEMORY = 256 << 20  # what the whole run may add to what the process needs anyhow
NAMES = (
    "m.safetensors",
    "m.gguf",
    "m.onnx",
    "m.tflite",
    "m.pt",
    "m.bin",
    "config.json",
    "adapter_config.json",
    "a.npz",
)


def stock() -> dict[str, bytes]:
    """Files of every kind that the check knows."""
    files = dict(corpus())
    for protocol in samples.PROTOCOLS:
        files |= {f"pickle {protocol} {how}": content for how, content in samples.wrappings(samples.evil(protocol))}
    template = json.dumps({"chat_template": "{% for m in messages %}{{ m }}{% endfor %}", "auto_map": {"A": "b.C"}})
    files |= {"json": template.encode(), "npy": samples.object_array(), "safetensors plain": samples.tensors()}
    return files


def run(cases: int, seed: int) -> tuple[Counter[str], float]:
    """Return how often each rule came out, and the slowest case in seconds."""
    rng = random.Random(seed)
    files = stock()
    names = sorted(files)
    donors = [files[name] for name in names]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(cases):
        content = random_edits(rng, files[rng.choice(names)], donors)
        source, name = CountingSource(content), rng.choice(NAMES)
        start = time.perf_counter()
        try:
            found = check_release({name: source})
            seconds = time.perf_counter() - start
            assert seconds < SLOW_SECONDS, f"took {seconds:.1f} s"
            assert all(isinstance(one, Finding) and one.path == name for one in found)
        except BaseException:
            failed = Path(f"fuzz-{seed}-{case}.bin")
            failed.write_bytes(content)
            print(f"case {case} of seed {seed}, as {name}: kept as {failed}", file=sys.stderr)
            raise
        outcomes.update({one.rule for one in found} or {"nothing"})
        slowest = max(slowest, seconds)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"took {grown} bytes of memory"
    return outcomes, slowest


def main() -> None:
    """Run and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes, slowest = run(options.cases, options.seed)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:9}  {outcome}")
    seconds = time.perf_counter() - start
    print(f"{options.cases} cases in {seconds:.0f} s, slowest {slowest * 1000:.1f} ms, no failure")


if __name__ == "__main__":
    main()
