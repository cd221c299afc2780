"""A thousand caches with one file hurt: each must be found before it is read, with no other entry suspected.

Bits turned (also with the file's times put back), ends cut or added to, zeros, files gone, links and folders in their place,
contents swapped within an entry and between entries; in tables, arrays, tensors, JSON and the manifest itself.

Run: `python benchmarks/corruption.py [--cases 1000]`. Ends with status 1 if one was missed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.store.corruption import write_cache  # noqa: E402
from tests.store.test_corruption import outcome  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="files that are hurt (default 1000)")
    n_cases = parser.parse_args().cases
    logging.disable(logging.WARNING)
    seen: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        write_cache(Path(scratch) / "sound")
        number = 0
        while sum(n for (_, what), n in seen.items() if what != "left") < n_cases:
            seen[outcome(Path(scratch) / "sound", Path(scratch) / "copy", number)] += 1
            number += 1
    for (way, what), n in sorted(seen.items()):
        print(f"{way:12} {n:5,} {what if what != 'left' else 'had nothing to hurt: drawn again'}")
    missed = sum(n for (_, what), n in seen.items() if what not in ("found", "left"))
    print(f"{n_cases:,} files hurt, {n_cases - missed:,} found.")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
