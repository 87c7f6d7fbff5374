"""Semantic duplicates by the number of clips: CPU, memory, and what the inverted file misses.

Embeddings are random directions around one that all share, as those of image models do; one in
five is near another (cosine distance about 0.02). The vectors lie in a file, as they do in
`egodojo dedup --semantic`.

Prediction before the first run: 0.2 ms a clip at 20,000, where FAISS compares exactly, less than
1 ms at 250,000 with the inverted file; memory is that of the representatives plus 0.3 GiB; the
inverted file finds at least 0.98 of the duplicates, whose originals are nearer than anything else.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_dedup import peak_memory
from common import arguments, cpu_seconds, report
from numpy.typing import NDArray

from curation.dedup_semantic import MAX_EXACT, representatives

SIZES = (20_000, 250_000)
WIDTH = 256
_ROWS_AT_ONCE = 10_000


def write_vectors(file: Path, num_clips: int) -> NDArray[np.bool_]:
    """Unit vectors (clips, width) into a file; returns which are copies of another."""
    rng = np.random.default_rng(num_clips)
    shared = 0.7 * rng.standard_normal(WIDTH, np.float32)
    vectors = np.memmap(file, np.float32, "w+", shape=(num_clips, WIDTH))
    is_copy = np.zeros(num_clips, bool)
    for start in range(0, num_clips, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, num_clips)
        some = shared + rng.standard_normal((stop - start, WIDTH), np.float32)
        num_own = (stop - start) * 4 // 5
        of = rng.integers(0, num_own, stop - start - num_own)
        some[num_own:] = some[of] + 0.25 * rng.standard_normal((len(of), WIDTH), np.float32)
        vectors[start:stop] = some / np.linalg.norm(some, axis=1, keepdims=True)
        is_copy[start + num_own : stop] = True
    return is_copy


def measure(num_clips: int) -> dict[str, Any]:
    """One search over all clips, the best first in a random order."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors"
        is_copy = write_vectors(file, num_clips)
        vectors = np.memmap(file, np.float32, "r", shape=(num_clips, WIDTH))
        order = np.random.default_rng(0).permutation(num_clips)
        start = cpu_seconds()
        with peak_memory() as peak:
            best, distance = representatives(vectors, order, limit=0.05)
        cpu_s = cpu_seconds() - start
    is_duplicate = best != np.arange(num_clips)
    assert distance[is_duplicate].max() <= 0.05
    return {
        "width": WIDTH,
        "is_exact": num_clips <= MAX_EXACT,
        "cpu_s": round(cpu_s, 1),
        "ms_per_clip": round(1e3 * cpu_s / num_clips, 3),
        "representatives_mib": round(4 * WIDTH * int((~is_duplicate).sum()) / 2**20),
        "peak_mib": round(peak[0]),
        "copies": int(is_copy.sum()),
        "duplicates": int(is_duplicate.sum()),
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of clips")
    args = parser.parse_args()
    report("dedup_semantic", {"result": {str(size): measure(size) for size in args.sizes}}, args)


if __name__ == "__main__":
    main()
