"""More like this, and copies: exact over made vectors; on real encodings, in tests/pipeline/test_embeddings_run.py."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_rows import FakeAnnotator, facts, ledger_rows, part

from vidproc.errors import UsageError
from vidproc.schema import EMBEDDINGS, LEDGER
from vidproc.tables import duplicates
from vidproc.tables.commit import Commits
from vidproc.tables.derive import derive
from vidproc.tables.duplicates import near_duplicates
from vidproc.tables.similar import parsed_moment, similar

JOB = Path(__file__).parents[2] / "jobs" / "query.py"
SECOND_US = 1_000_000
Vectors = npt.NDArray[np.float32]


def fill(
    url: str, videos: Mapping[str, Sequence[Any]], *, model: str = "net-1", start_us: int = 0, run: str = "run-1"
) -> None:
    """Each video's vectors, one a second (None: a second without one)."""
    rows, ledger = [], []
    for video_id, vectors in videos.items():
        known = facts(video_id, start_us=start_us)
        common = {"annotator": "embeddings", "model_id": model, "run_id": run}
        span = {"start_us": start_us, "end_us": start_us + len(vectors) * SECOND_US, "facts": known, "tally": None}
        ledger += ledger_rows(video_id, [0], n_segments=1, **common, **span)
        for second, vector in enumerate(vectors):
            if vector is not None:
                at = {"start_us": start_us + second * SECOND_US, "end_us": start_us + (second + 1) * SECOND_US}
                rows.append({"video_id": video_id, **common, **at, "vector": [float(value) for value in vector]})
    with Commits.open(url, run_id=run) as commits:
        commits.commit([part(url, LEDGER, ledger), *([part(url, EMBEDDINGS, rows)] if rows else [])])
        derive(commits, {"embeddings": FakeAnnotator("embeddings", model)})


def made(count: int, *, seed: int, size: int = 8) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("similar"))
    fill(url, {f"video-{i}": made(20, seed=i) for i in range(6)})
    return url


def test_the_nearest_clips_of_other_videos_by_exact_cosine(url: str) -> None:
    found = similar(url, "video-2.mp4@7.5", limit=12).to_pylist()
    asked = made(20, seed=2)[7].astype(np.float64)
    every = [
        (f"a/video-{i}.mp4", s, float(v @ asked)) for i in range(6) if i != 2 for s, v in enumerate(made(20, seed=i))
    ]
    expected = sorted(every, key=lambda one: -one[2])[:12]
    assert [(row["uri"], row["start_s"], row["end_s"]) for row in found] == [(u, s, s + 1) for u, s, _ in expected]
    np.testing.assert_allclose([row["similarity"] for row in found], [one[2] for one in expected], atol=1e-6)
    assert list(found[0]) == ["uri", "member", "start_s", "end_s", "similarity"]


@pytest.mark.parametrize("name", ["video-2", "video-2.mp4", "a/video-2.mp4"])
def test_a_video_by_id_or_uri_or_its_end(url: str, name: str) -> None:
    assert similar(url, f"{name}@0:07.5").equals(similar(url, "video-2@7.5"))


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ("video-2", "is no moment: give VIDEO@TIME"),
        ("video-2@soon", "is no moment"),
        ("@3", "is no moment"),
        ("nothing.mp4@3", "no video is called 'nothing.mp4'"),
        ("ideo-2.mp4@3", "no video is called"),
        ("video-@3", r"6 videos are called 'video-', such as a/video-0.mp4 \(video-0\)"),
        ("video-2@21", r"a/video-2.mp4 runs from 0.0 to 20.0 s: 21.0 s is outside"),
    ],
)
def test_what_does_not_fit_is_said(url: str, moment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        similar(url, moment)


def test_times() -> None:
    assert parsed_moment("s3://b/a@b.mp4@1:02:03.5") == ("s3://b/a@b.mp4", 3_723_500_000)
    assert parsed_moment("a@90") == ("a", 90_000_000)
    assert parsed_moment("a@0:09.25") == ("a", 9_250_000)


def test_the_last_model_counts_or_the_one_that_is_named(tmp_path: Path) -> None:
    url = str(tmp_path)
    fill(url, {"a": [[1, 0]], "b": [[1, 0]]}, model="old")
    fill(url, {"a": [[1, 0, 0]], "c": [[1, 0, 0]]}, model="new", run="run-2")
    named = {model: similar(url, "a@0", model=model).to_pylist()[0]["uri"] for model in ("old", "new")}
    assert named == {"old": "a/b.mp4", "new": "a/c.mp4"}
    with pytest.raises(UsageError, match="has no embeddings of model 'other': choose from"):
        similar(url, "a@0", model="other")
    with pytest.raises(UsageError, match="has no embeddings: label with"):
        fill(url, {"d": []}, run="run-3")
        similar(url, "d.mp4@0")


def test_between_clips_the_nearest_is_meant_and_zeros_are_like_nothing(tmp_path: Path) -> None:
    url = str(tmp_path)
    fill(url, {"a": [[1, 0], None, None, [0, 1]], "b": [[0, 1], [1, 0], [0, 0]], "zeros": [[0, 0]]})
    assert similar(url, "a@1.2").to_pylist()[0]["start_s"] == 1
    assert similar(url, "a@2.7").to_pylist()[0]["start_s"] == 0
    assert len(similar(url, "a@1.2")) == 2
    with pytest.raises(UsageError, match="its vector is all zeros"):
        similar(url, "zeros@0")


# ---- copies


def copies(vectors: Vectors, *, seed: int, noise: float = 0.02) -> Vectors:
    changed = vectors + noise * np.random.default_rng(seed).standard_normal(vectors.shape).astype(np.float32)
    return changed / np.linalg.norm(changed, axis=1, keepdims=True)


def pairs(url: str, **how: Any) -> list[tuple[str, str, float]]:
    rows = near_duplicates(url, **how).to_pylist()
    return [(Path(row["uri"]).stem, Path(row["other_uri"]).stem, round(row["share"], 3)) for row in rows]


def test_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    original, other = made(20, seed=0), made(20, seed=1)
    half = np.concatenate([copies(original, seed=5)[:10], made(10, seed=6)])
    videos = {
        "original": original,
        "copy": copies(original, seed=3),
        "cut-short": copies(original, seed=4)[:15],
        "half": half,
        "late": np.concatenate([made(1, seed=9), original[:19]]),
        "other": other,
        "rough": copies(original, seed=8, noise=0.4),
    }
    fill(str(tmp_path), videos)
    found = {frozenset(pair[:2]): pair[2] for pair in pairs(str(tmp_path))}
    assert frozenset({"original", "half"}) not in found  # half is not most
    assert set(found) == {
        frozenset(pair) for pair in (("original", "copy"), ("original", "cut-short"), ("copy", "cut-short"))
    }
    assert found[frozenset({"original", "copy"})] == 1 and found[frozenset({"original", "cut-short"})] == 0.75


def test_times_count_from_the_start_of_each_video(tmp_path: Path) -> None:
    original = made(6, seed=0)
    fill(str(tmp_path), {"a": original})
    fill(str(tmp_path), {"b": [None, *copies(original, seed=1)[1:]]}, start_us=40_000, run="run-2")
    assert pairs(str(tmp_path)) == [("a", "b", 0.833)]


def test_blocks_and_their_borders_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all pairs, one by one."""
    rng = np.random.default_rng(0)
    bases = [made(int(rng.integers(1, 12)), seed=i) for i in range(4)]
    videos = {
        f"v{i:02d}": copies(bases[i % 4], seed=i, noise=0.06)[: int(rng.integers(1, 12))] for i in range(30)
    }  # fmt: skip
    fill(str(tmp_path), videos)
    expected = set()
    for one, x in videos.items():
        for other, y in videos.items():
            n = min(len(x), len(y))
            matching = ((x[:n] * y[:n]).sum(axis=1) >= 0.95).sum()
            if one < other and matching > 0.5 * max(len(x), len(y)):
                expected.add((one, other))
    assert 20 < len(expected) < 200
    for block in (1, 3, 7, 512):
        monkeypatch.setattr(duplicates, "BLOCK", block)
        assert {tuple(sorted(pair[:2])) for pair in pairs(str(tmp_path), at_least=0.95)} == expected


def test_too_many_pairs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 5)
    fill(str(tmp_path), {f"v{i}": [[1, 0]] for i in range(4)})
    with pytest.raises(UsageError, match="raise --at-least"):
        near_duplicates(str(tmp_path))


def test_no_embeddings_is_said(tmp_path: Path) -> None:
    with Commits.open(str(tmp_path), run_id="run-1") as commits:
        commits.commit([part(str(tmp_path), LEDGER, ledger_rows("a", [0], n_segments=1))])
    with pytest.raises(UsageError, match="label with --annotators embeddings first"):
        near_duplicates(str(tmp_path))


def test_the_job_answers_both(url: str) -> None:
    def job(*flags: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(JOB), "--tables", url, *flags]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    done = job("--similar", "video-1.mp4@3", "--limit", "2", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "uri,member,start_s,end_s,similarity"
    assert len(done.stdout.splitlines()) == 3
    done = job("--duplicates", "--at-least", "0.99")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "(0 rows)"
    done = job("--duplicates", "--similar", "video-1@3")
    assert done.returncode == 2 and "ask one at a time" in done.stderr
