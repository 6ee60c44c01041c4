"""How long it takes to start: `modelnet --version`, and what `import modelnet` adds to a bare Python."""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import bench, child, program, report

VERSION_S, IMPORT_S = 0.15, 0.05

with bench("start", __doc__, rounds=20) as work:
    commands = {
        "modelnet --version": [program("modelnet"), "--version"],
        "python -c 'import modelnet'": [sys.executable, "-c", "import modelnet"],
        "python -c ''": [sys.executable, "-c", ""],
    }
    for argv in commands.values():
        child(argv, stdout=subprocess.DEVNULL)  # so that byte code and page cache are warm
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(work.rounds):
        for name, argv in commands.items():
            times[name].append(child(argv, stdout=subprocess.DEVNULL).seconds)
    print(f"\nstart, {work.rounds} rounds in turn (median, and the range)")
    for name, taken in times.items():
        print(f"  {name:<38} {statistics.median(taken):7.3f} s ({min(taken):.3f}-{max(taken):.3f})")
    version, imported, bare = (statistics.median(taken) for taken in times.values())
    report("modelnet --version", version, "s", most=VERSION_S)
    report("import modelnet, beyond a bare Python", imported - bare, "s", most=IMPORT_S)
