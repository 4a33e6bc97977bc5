"""What `query --similar` and `query --duplicates` cost on a million made vectors: seconds, and the most memory.

    python tests/bench/similarity.py [--clips 1000000] [--size 64] [--videos 20000]

Every hundredth video is a copy of the one before it, with a little noise; all of them must be found, and nothing else.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from vidproc.schema import EMBEDDINGS, LEDGER, VIDEOS, WHOLE_VIDEO
from vidproc.tables.commit import Commits
from vidproc.tables.parts import write_part

VIDEOS_A_PART = 1000
STRIDE_US = 2_000_000
QUESTIONS = {"similar": ["--similar", "00000007.mp4@11"], "duplicates": ["--duplicates", "--at-least", "0.98"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--videos", type=int, default=20_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        make_tables(folder, given.clips // given.videos, given.size, given.videos)
        print(f"{given.clips} vectors of {given.size}: written in {time.perf_counter() - began:.1f} s", flush=True)
        for name, flags in QUESTIONS.items():
            print(json.dumps({"asked": name, **measured(folder, flags)}), flush=True)


def make_tables(url: str, clips: int, size: int, videos: int) -> None:
    """`videos` of so many clips each: all vectors positive, as after a ReLU, and rather alike."""
    with Commits.open(url, run_id="run-1") as commits:
        for first in range(0, videos, VIDEOS_A_PART):
            numbers = np.arange(first, min(first + VIDEOS_A_PART, videos))
            parts = [embeddings(url, numbers, clips, size), ledger(url, numbers, clips), listing(url, numbers)]
            commits.commit(parts)


def embeddings(url, numbers, clips, size):
    whole = np.abs(np.random.default_rng([int(numbers[0])]).standard_normal((len(numbers), clips, size), np.float32))
    copies = np.flatnonzero(numbers % 100 == 99)
    noise = np.random.default_rng(1).standard_normal((len(copies), clips, size), np.float32)
    whole[copies] = whole[copies - 1] + 0.02 * noise
    flat = whole.reshape(-1, size)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    starts = np.tile(np.arange(clips) * STRIDE_US, len(numbers))
    columns = {
        **common(np.repeat(numbers, clips)),
        "start_us": starts,
        "end_us": starts + STRIDE_US // 2,
        "vector": pa.ListArray.from_arrays(np.arange(len(flat) + 1, dtype=np.int32) * size, flat.reshape(-1)),
    }
    return write_part(url, EMBEDDINGS, pa.table(columns, schema=EMBEDDINGS.schema))


def common(numbers):
    names = [f"{number:08d}" for number in numbers]
    return {"video_id": names, "annotator": ["embeddings"] * len(names), "model_id": ["net"] * len(names)} | {
        "run_id": ["run-1"] * len(names)
    }


def ledger(url, numbers, clips):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"video_id": f"{number:08d}", "annotator": "embeddings", "model_id": "net", "run_id": "run-1"}
        | {"segment": segment, "n_segments": 1, "start_us": 0, "end_us": clips * STRIDE_US, "status": "labelled"}
        | {"attempts": 1, "rows": clips, "decode_s": 0.0, "infer_s": 0.0, "at": at, "samples": clips}
        for number in numbers
        for segment in (0, WHOLE_VIDEO)
    ]
    return write_part(url, LEDGER, pa.Table.from_pylist(rows, schema=LEDGER.schema))


def listing(url, numbers):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"video_id": f"{number:08d}", "run_id": "run-1", "uri": f"archive/{number:08d}.mp4", "member": "", "etag": "e"}
        | {"bytes": 1, "status": "labelled", "n_segments": 1, "labelled_at": at}
        for number in numbers
    ]
    return write_part(url, VIDEOS, pa.Table.from_pylist(rows, schema=VIDEOS.schema))


def measured(url: str, flags: list[str]) -> dict[str, object]:
    """The job as a process of its own: its time with all imports, its rows, its memory."""
    job = Path(__file__).parents[2] / "jobs" / "query.py"
    began = time.perf_counter()
    line = [sys.executable, str(job), "--tables", url, "--format", "json", *flags]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": round(seconds, 1), "most_mib_so_far": round(most), "rows": len(rows), "first": rows[:1]}


if __name__ == "__main__":
    main()
