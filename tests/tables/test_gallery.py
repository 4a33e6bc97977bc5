"""Galleries in storage: versions, who may join, and that nothing is left of whom was removed."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from made_faces import person

from vidproc.errors import UsageError
from vidproc.models.gallery import Gallery
from vidproc.models.gallery import Person as Enrolled
from vidproc.tables.gallery import add_person, check_apart, read_gallery, remove_person
from vidproc.tables.store import Store

NET = "a" * 64


def vectors(count: int, seed: int) -> list[list[float]]:
    found = np.random.default_rng(seed).normal(size=(count, 128))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).tolist()  # type: ignore[no-any-return]


def traces(folder: Path, who: Enrolled) -> list[Path]:
    """Files that hold a vector of this person, or eight of its numbers in a row, or the name."""
    needles = [piece.tobytes() for vector in who.vectors for piece in np.split(vector, 16)]
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in [*needles, who.name.encode()])
    ]


def filled(url: str) -> tuple[Gallery, Enrolled, Enrolled]:
    ann, bob = person("ann", vectors(2, 0)), person("bob", vectors(3, 1))
    add_person(url, ann, embedder=NET)
    return add_person(url, bob, embedder=NET), ann, bob


def test_each_change_is_a_version_and_the_last_one_is_read(tmp_path: Path) -> None:
    url = str(tmp_path)
    made, ann, bob = filled(url)
    assert made.version == "000002"
    found = read_gallery(url)
    assert (found.url, found.version, found.embedder) == (url, made.version, NET)
    for one, other in zip(found.people, (ann, bob), strict=True):
        assert (one.name, one.consent, one.added_at, one.pictures) == (
            other.name, other.consent, other.added_at, other.pictures)  # fmt: skip
        assert np.array_equal(one.vectors, other.vectors)


def test_nothing_is_left_of_whom_was_removed(tmp_path: Path) -> None:
    url = str(tmp_path)
    _, ann, bob = filled(url)
    (tmp_path / "versions" / ".writing-killed").write_bytes(ann.vectors.tobytes())  # by a writer that was killed
    assert len(traces(tmp_path, ann)) == 3 and len(traces(tmp_path, bob)) == 1
    assert remove_person(url, "ann").version == "000003"
    assert traces(tmp_path, ann) == [] and len(traces(tmp_path, bob)) == 2
    assert [one.name for one in read_gallery(url).people] == ["bob"]
    remove_person(url, "bob")
    assert traces(tmp_path, bob) == [] and read_gallery(url).people == ()
    with pytest.raises(UsageError, match="nobody called 'bob' is in any version"):
        remove_person(url, "bob")


def test_a_removal_that_was_cut_off_is_completed_by_the_next(tmp_path: Path) -> None:
    url = str(tmp_path)
    _, ann, _ = filled(url)
    with patch.object(Store, "put", side_effect=OSError("the machine dies here")), pytest.raises(OSError, match="dies"):
        remove_person(url, "ann")
    assert traces(tmp_path, ann)
    remove_person(url, "ann")
    assert traces(tmp_path, ann) == []


def test_more_pictures_join_under_the_same_consent_only(tmp_path: Path) -> None:
    url = str(tmp_path)
    _, ann, _ = filled(url)
    more = person("ann", [*ann.vectors.tolist(), *vectors(1, 5)])
    found = add_person(url, more, embedder=NET)
    assert [len(one.vectors) for one in found.people] == [3, 3]
    with pytest.raises(UsageError, match="pictures of 'ann' are in the gallery already"):
        add_person(url, more, embedder=NET)
    other = Enrolled(name="ann", consent="x", added_at="", pictures=("p",), vectors=np.float32(vectors(1, 6)))
    with pytest.raises(UsageError, match="with consent 'consent of ann'"):
        add_person(url, other, embedder=NET)


def test_another_network_s_vectors_and_people_without_consent_are_refused(tmp_path: Path) -> None:
    url = str(tmp_path)
    filled(url)
    with pytest.raises(UsageError, match=r"made by the embedder a{16}"):
        add_person(url, person("cara", vectors(1, 2)), embedder="b" * 64)
    nobody = Enrolled(name="cara", consent=" ", added_at="", pictures=("p",), vectors=np.float32(vectors(1, 2)))
    with pytest.raises(UsageError, match="--consent REF"):
        add_person(url, nobody, embedder=NET)


def test_of_two_writers_one_is_told_to_try_again(tmp_path: Path) -> None:
    url = str(tmp_path)
    filled(url)
    real = Store.list

    def late(store: Store, prefix: str) -> list[str]:
        found = real(store, prefix)
        if len(found) == 2:
            with patch.object(Store, "list", real):
                add_person(url, person("dan", vectors(1, 3)), embedder=NET)
        return found

    with patch.object(Store, "list", late), pytest.raises(UsageError, match="changed by somebody else"):
        add_person(url, person("cara", vectors(1, 2)), embedder=NET)
    assert [one.name for one in read_gallery(url).people] == ["ann", "bob", "dan"]


@pytest.mark.parametrize("data", [b"", b"x" * 100, (10**9).to_bytes(8, "little") + b"{}"])
def test_what_is_no_gallery_is_told(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError, match="there is no gallery"):
        read_gallery(str(tmp_path))
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "000001.safetensors").write_bytes(data)
    with pytest.raises(UsageError, match="is no gallery"):
        read_gallery(str(tmp_path))


def test_gallery_and_tables_lie_apart() -> None:
    check_apart("out/gallery", "out/tables")
    check_apart("s3://bucket/tables-gallery", "s3://bucket/tables")
    for gallery, tables in (("t", "t"), ("t/g", "t"), ("s3://b/t/g", "s3://b/t/"), ("g", "g/tables")):
        with pytest.raises(UsageError, match="must lie apart"):
            check_apart(gallery, tables)
