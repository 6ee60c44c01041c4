"""Fuzz the format readers: seeded edits of small valid files give a covering layout or a `MalformedError`, quickly.

python -m tests.formats.fuzz --cases 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

import safetensors

from modelnet.errors import MalformedError
from modelnet.formats import BytesSource
from modelnet.formats.safetensors import read_layout as read_safetensors
from tests.formats.corpus import check, corpus, random_edits

# A case takes under a millisecond; a thousand times that is a hang and not a busy machine.
SLOW_SECONDS = 2.0


def judge_safetensors(content: bytes) -> None:
    """Whatever we accept, safetensors' own reader accepts too, with the same extents."""
    try:
        layout = read_safetensors(BytesSource(content))
    except MalformedError:
        return
    theirs = {name: bytes(tensor["data"]) for name, tensor in safetensors.deserialize(content)}
    ours = {span.name: content[span.start : span.end] for span in layout.tensors}
    assert ours == {name: data for name, data in theirs.items() if data}


def run(cases: int, seed: int) -> tuple[Counter[str], float]:
    """Return how often each format or rule came out, and the slowest case in seconds."""
    rng = random.Random(seed)
    files = corpus()
    names = sorted(files)
    donors = [files[name] for name in names]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for case in range(cases):
        name = rng.choice(names)
        content = random_edits(rng, files[name], donors)
        start = time.perf_counter()
        try:
            outcomes[f"{name.split('/')[0]} -> {check(content)}"] += 1
            seconds = time.perf_counter() - start
            assert seconds < SLOW_SECONDS, f"took {seconds:.1f} s"
            if name.startswith("safetensors"):
                judge_safetensors(content)
        except BaseException:
            failed = Path(f"fuzz-{seed}-{case}.bin")
            failed.write_bytes(content)
            print(f"case {case} of seed {seed}, from {name}: kept as {failed}", file=sys.stderr)
            raise
        slowest = max(slowest, seconds)
    return outcomes, slowest


def main() -> None:
    """Run and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes, slowest = run(options.cases, options.seed)
    seconds = time.perf_counter() - start
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:9}  {outcome}")
    print(f"{options.cases} cases in {seconds:.0f} s, slowest {slowest * 1000:.1f} ms, no failure")


if __name__ == "__main__":
    main()
