"""The annotator `faces`: what it is fenced by, what its rows say, and who it recognises on real photos of real people.

The real ones need the shared test data: MTCNN (MIT) and MobileFaceNet (no licence stated: tests only).
"""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_faces import (
    PURPOSE,
    SHARED,
    described,
    gallery,
    offline_faces,
    person,
    random_recogniser,
    real_description,
    real_recogniser,
)

from vidproc.annotators.face_network import FaceFinder, FacesNetwork, Found
from vidproc.annotators.faces import Faces, Terms
from vidproc.errors import NotFinite, UsageError, WeightsError
from vidproc.media.geometry import displayed_of
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.media.samples import Samples
from vidproc.models.gallery import Gallery, match
from vidproc.models.recogniser import FaceRecogniser, resolve_recogniser
from vidproc.pipeline.enrolment import calibrate, calibrated, enrol, listed_pictures
from vidproc.schema import FACES
from vidproc.tables.gallery import remove_person

ANN, BOB = np.eye(8, dtype=np.float32)[:2]


def between(cosine_to_ann: float, cosine_to_bob: float) -> Any:
    """A vector with these cosines to ann and to bob."""
    rest = (1 - cosine_to_ann**2 - cosine_to_bob**2) ** 0.5
    return np.array([cosine_to_ann, cosine_to_bob, rest, 0, 0, 0, 0, 0], np.float32)


def samples(count: int, *, shown: tuple[int, int] | None = (64, 36)) -> Samples:
    data = np.random.default_rng(count).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)
    data.flags.writeable = False
    starts = np.arange(count) * 500_000
    return Samples(starts, starts + 500_000, starts[:, None], data, shown=shown)


def found(*vectors: Any, quality: float = 0.9) -> Found:
    """One face on each of so many frames."""
    count = len(vectors)
    return Found(
        sample=np.arange(count),
        boxes=np.tile(np.float32([0.1, 0.2, 0.3, 1.2]), (count, 1)),
        points=np.full((count, 5, 2), 0.25, np.float32),
        scores=np.full(count, 0.99, np.float32),
        quality=np.full(count, quality, np.float32),
        vectors=np.stack(vectors),
    )


# ---- the fence


def test_without_gallery_and_purpose_there_is_no_annotator() -> None:
    with pytest.raises(UsageError, match="give --gallery URL and --purpose TEXT"):
        Faces.from_spec(random_recogniser())
    faces = offline_faces()
    with pytest.raises(UsageError, match="no faces' weights ship"):
        Faces.from_spec(None, terms=faces.terms)
    for purpose in ("", "   test    "):
        with pytest.raises(UsageError, match="says too little"):
            Terms(gallery=faces.terms.gallery, purpose=purpose)
    with pytest.raises(UsageError, match="holds nobody"):
        Terms(gallery=gallery("a" * 64), purpose=PURPOSE)


def test_a_gallery_of_another_network_is_refused() -> None:
    faces = offline_faces()
    with pytest.raises(WeightsError, match="their vectors do not compare"):
        replace(faces, terms=Terms(gallery=gallery("f" * 64, person("ann", [ANN])), purpose=PURPOSE))


def test_every_piece_is_pinned_and_its_licence_asked_for(tmp_path: Path) -> None:
    told = json.loads(Path(random_recogniser()).read_text())
    files = {name: Path(told["detector"][name]["url"]) for name in ("pnet", "rnet", "onet")}
    embedder = tmp_path / "embedder.pt"
    embedder.write_bytes((Path(random_recogniser()).parent / "embedder.pt").read_bytes())
    sidecar = json.loads((Path(random_recogniser()).parent / "embedder.pt.json").read_text())
    url = described(tmp_path, files, embedder, sidecar | {"licence": "non-commercial"})
    with pytest.raises(WeightsError, match=r"'non-commercial'.*allow 'non-commercial' by name"):
        resolve_recogniser(url)
    assert resolve_recogniser(url, allow_licences=["non-commercial"]).embedder.licence == "non-commercial"
    embedder.write_bytes(b"altered")
    with pytest.raises(WeightsError, match="altered or cut short"):
        resolve_recogniser(url, allow_licences=["non-commercial"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, "threshold: Input should be less than 1"),
        ({"mood": True}, "mood: Unexpected keyword argument"),
        ({"embedder": None}, "does not describe a face recogniser"),
        ({"embedder": {"url": "embedder.pt", "sha256": "0" * 64}}, "threshold holds for no other network"),
    ],
)
def test_a_wrong_description_is_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    url = Path(random_recogniser())
    wrong = url.with_name(f"{tmp_path.name}.json")
    wrong.write_text(json.dumps(json.loads(url.read_text()) | change))
    with pytest.raises(WeightsError, match=message):
        resolve_recogniser(str(wrong))
    with pytest.raises(WeightsError, match=r"ends in \.json"):
        resolve_recogniser("demo:faces")


def test_holding_it_costs_no_torch_and_its_name_does_not_depend_on_the_gallery() -> None:
    faces = offline_faces()
    code = "import sys, pickle; print(pickle.load(sys.stdin.buffer).model_id); assert 'torch' not in sys.modules"
    told = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(faces), check=True, capture_output=True)
    assert told.stdout.decode().strip() == faces.model_id
    others = gallery(faces.terms.gallery.embedder, person("cara", [ANN]))
    assert replace(faces, terms=Terms(gallery=others, purpose=PURPOSE)).model_id == faces.model_id
    assert replace(faces, recogniser=replace(faces.recogniser, threshold=0.9)).model_id != faces.model_id


# ---- decisions


def test_near_enough_and_nearer_than_to_anybody_else_is_a_match() -> None:
    people = (person("ann", [ANN]), person("bob", [BOB]))
    vectors = np.stack([between(0.6, 0.1), between(0.39, 0.1), between(0.6, 0.57), between(0.2, 0.5)])
    result = match(vectors, people, threshold=0.4, margin=0.05)
    assert result.matched.tolist() == [True, False, False, True]
    assert result.person.tolist() == [0, 0, 0, 1]
    assert result.similarity == pytest.approx([0.6, 0.39, 0.6, 0.5], abs=1e-6)
    assert result.runner_up == pytest.approx([0.1, 0.1, 0.57, 0.2], abs=1e-6)


def test_the_runner_up_is_another_person_and_with_one_person_there_is_none() -> None:
    both = person("ann", [between(1, 0), between(0.98, 0)])
    alone = match(np.stack([between(0.6, 0.1)]), (both,), threshold=0.4, margin=0.05)
    assert alone.matched.all() and np.isnan(alone.runner_up).all()
    result = match(np.stack([between(0.6, 0.1)]), (both, person("bob", [BOB])), threshold=0.4, margin=0.05)
    assert result.runner_up == pytest.approx([0.1], abs=1e-6)


def test_rows_say_who_and_how_near_and_keep_no_vectors() -> None:
    faces = offline_faces()
    rows = faces.rows(found(between(0.9, 0.1), between(0.1, 0.2)), samples(2)).to_pylist()
    assert [(row["identity"], row["decision"]) for row in rows] == [("ann", "matched"), (None, "unknown")]
    assert [row["face_id"] for row in rows] == ["0-0", "500000-0"]
    assert all(row["vector"] is None and row["gallery_version"] == "000001" for row in rows)
    assert (rows[0]["x1"], rows[0]["y2"]) == (pytest.approx(0.1), 1.0)  # what reaches out of the picture is cut
    assert rows[0]["similarity"] == pytest.approx(0.9) and rows[0]["runner_up"] == pytest.approx(0.1)


def test_vectors_are_kept_where_asked_and_of_the_unfit_nothing_is_said() -> None:
    faces = offline_faces(keep_vectors=True)
    [kept] = faces.rows(found(between(0.9, 0.1)), samples(1)).to_pylist()
    assert kept["vector"] == pytest.approx(between(0.9, 0.1).tolist())
    strict = replace(faces, recogniser=replace(faces.recogniser, least_quality=0.5))
    [unfit] = strict.rows(found(between(0.9, 0.1), quality=0.4), samples(1)).to_pylist()
    assert unfit["decision"] == "unfit"
    assert all(unfit[name] is None for name in ("identity", "similarity", "runner_up", "vector"))


def test_a_picture_alone_needs_one_face_and_a_video_several() -> None:
    faces = offline_faces()
    rows = {FACES.name: faces.rows(found(between(0.9, 0.1), between(0.9, 0.1)), samples(2))}
    assert set(faces.over_video(rows, {"still": True})[FACES.name]["decision"].to_pylist()) == {"matched"}
    assert set(faces.over_video(rows, {"still": False})[FACES.name]["decision"].to_pylist()) == {"unknown"}


# ---- the networks


def test_a_segment_s_rows_do_not_depend_on_its_company_and_fit_the_table() -> None:
    faces = offline_faces(keep_vectors=True)
    network = FacesNetwork(faces, "cpu")
    [view] = faces.views
    given = [{view: samples(3)}, {}, {view: samples(9, shown=(48, 48))}, {view: samples(0)}]
    together = network.annotate(given)
    assert [bool(one.rows[FACES.name].num_rows) for one in together] == [True, False, True, False]
    for one, joint in zip(given, together, strict=True):
        [alone] = network.annotate([one])
        assert alone.rows[FACES.name].equals(joint.rows[FACES.name]) and alone.samples == joint.samples
        rows = joint.rows[FACES.name]
        assert rows.schema == FACES.body
        rows.validate(full=True)
        for row in rows.to_pylist():
            assert 0 <= row["x1"] < row["x2"] <= 1 and 0 <= row["y1"] < row["y2"] <= 1
            assert len(row["landmarks"]) == 10 and all(0 <= value <= 1 for value in row["landmarks"])
            assert np.linalg.norm(row["vector"]) == pytest.approx(1, abs=1e-5)


def test_a_network_that_makes_no_numbers_costs_its_segment() -> None:
    faces = offline_faces()
    finder = FaceFinder(faces.recogniser, "cpu")
    for parameter in finder.embeddings.network.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(NotFinite, match="weights are damaged"):
        finder.find(samples(2).data, shown=None)


# ---- the threshold


def test_the_threshold_lets_no_more_impostors_through_than_asked() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 1, 32))
    vectors = (centres + rng.normal(scale=0.4, size=(40, 5, 32))).reshape(-1, 32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    people = [str(i // 5) for i in range(200)]
    cosines = np.array([vectors[i].astype(float) @ vectors[j] for i in range(200) for j in range(i)
                        if people[i] != people[j]])  # fmt: skip
    for far, supported in ((0.01, True), (0.001, False), (1e-6, False)):
        result = calibrated(vectors, people, far=far)
        assert (result.impostor_pairs, result.genuine_pairs) == (len(cosines), 400)
        assert (cosines >= result.threshold).mean() <= far
        assert (cosines >= result.threshold - 0.01).mean() > far  # and it is not much higher than it must be
        assert result.supported == supported and bool(result.warning) != supported
        assert result.accepted is not None and result.accepted > 0.9


# ---- real people


STRANGERS = ("Ariel_Sharon", "Arnold_Schwarzenegger", "George_W_Bush", "Gerhard_Schroeder", "Jacques_Chirac",
             "Tony_Blair", "Vladimir_Putin")  # fmt: skip
ENROLLED = {
    "Barack Obama": "obama.jpg",
    "Joe Biden": "biden.jpg",
    "Kit Harington": "kit_harington_john1.jpeg",
    "Rose Leslie": "rose_leslie_img1.jpg",
    "Alex Lacamoire": "alex_lacamoire_img1.jpg",
}
PROBES = {
    "biden_biden2.jpg": {"Joe Biden"},
    "johnsnow_test1.jpg": {"Kit Harington"},
    "kit_harington_john2.jpeg": {"Kit Harington"},
    "kit_with_rose.jpg": {"Kit Harington", "Rose Leslie"},
    "obama-240p.jpg": {"Barack Obama"},
    "obama1.jpg": {"Barack Obama"},
    "obama2.jpg": {"Barack Obama"},
    "obama3.jpg": {"Barack Obama"},
    "obama_and_biden.jpg": {"Barack Obama", "Joe Biden"},
    "obama_partial_face.jpg": {"Barack Obama"},
    "obama_partial_face2.jpg": {"Barack Obama"},
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> FaceRecogniser:
    return real_recogniser(tmp_path_factory.mktemp("recogniser"))


@pytest.fixture(scope="module")
def known(real: FaceRecogniser, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """A gallery from one photo of each."""
    url = str(tmp_path_factory.mktemp("gallery"))
    for name, photo in ENROLLED.items():
        made = enrol(url, name, [str(SHARED / "faces" / "known" / photo)], consent="a test", recogniser=real)
    return made


class Seen:
    """What `faces` says of files, decoded as the label job decodes them."""

    def __init__(self, recogniser: FaceRecogniser, people: Gallery) -> None:
        self.faces = Faces(recogniser=recogniser, terms=Terms(gallery=people, purpose=PURPOSE))
        self._network, self._guard = FacesNetwork(self.faces, "cpu"), Guard()

    def rows(self, path: Path, *, from_us: int = 0, stop_us: int = 1) -> list[dict[str, Any]]:
        [source] = listed_pictures([str(path)])
        facts = probed(self._guard, source)
        [view] = self.faces.views
        end = min(stop_us, facts["end_us"] - facts["start_us"])
        starts = facts["start_us"] + np.arange(from_us, max(end, from_us + 1), view.stride_us)
        data = glimpses(self._guard, source, facts, view, starts_us=starts.tolist())
        given = Samples(starts, starts + view.stride_us, starts[:, None], data, shown=displayed_of(facts))
        [annotation] = self._network.annotate([{view: given}])
        return list(self.faces.over_video(annotation.rows, facts)[FACES.name].to_pylist())

    def close(self) -> None:
        self._guard.__exit__(None, None, None)


@pytest.fixture(scope="module")
def seen(real: FaceRecogniser, known: Gallery) -> Iterator[Seen]:
    looking = Seen(real, known)
    yield looking
    looking.close()


def named(rows: list[dict[str, Any]]) -> set[str]:
    return {row["identity"] for row in rows if row["decision"] == "matched"}


@pytest.mark.slow
def test_known_people_are_named_and_nobody_else_is(seen: Seen) -> None:
    """Gallery from one photo each, eleven others as probes (13 faces), 21 photos of 7 strangers; threshold 0.4."""
    right = wrong = missed = 0
    for photo, people in PROBES.items():
        found = named(seen.rows(SHARED / "faces" / "known" / photo))
        right, wrong, missed = right + len(found & people), wrong + len(found - people), missed + len(people - found)
    strangers = [row for name in STRANGERS for i in (1, 2, 3)
                 for row in seen.rows(SHARED / "faces" / "lfw10x10" / name / f"{name}_{i:04d}.jpg")]  # fmt: skip
    assert (right, wrong, missed) == (13, 0, 0)
    assert len(strangers) >= 21 and not named(strangers)
    assert {row["decision"] for row in strangers} == {"unknown"}


def test_two_people_in_one_picture_are_both_named_where_they_are(seen: Seen) -> None:
    rows = [row for row in seen.rows(SHARED / "faces" / "known" / "obama_and_biden.jpg") if row["identity"]]
    left, right = sorted(rows, key=lambda row: row["x1"])
    assert (left["identity"], right["identity"]) == ("Joe Biden", "Barack Obama")
    assert left["x2"] < right["x1"] and left["similarity"] - left["runner_up"] > 0.4


@pytest.mark.slow
def test_a_track_through_a_real_clip_keeps_one_identity(real: FaceRecogniser, known: Gallery, tmp_path: Path) -> None:
    """Lin-Manuel Miranda, enrolled from the clip's first shot, in the close-up behind two cuts; 4 frames a second."""
    from PIL import Image

    clip = SHARED / "videos" / "people" / "short_hamilton_clip.mp4"
    first = tmp_path / "first.png"
    with Guard() as guard:
        [source] = listed_pictures([str(clip)])
        facts = probed(guard, source)
        [frame] = glimpses(guard, source, facts, real.view, starts_us=[facts["start_us"]])
    Image.fromarray(frame[:360, 400:]).save(first)  # the right half of the letterboxed frame
    url = str(tmp_path / "gallery")
    enrol(url, "Lin-Manuel Miranda", [str(first)], consent="a test", recogniser=real)
    people = enrol(url, "Barack Obama", [str(SHARED / "faces" / "known" / "obama.jpg")], consent="t", recogniser=real)
    looking = Seen(replace(real, view=replace(real.view, fps=4)), people)
    rows = looking.rows(clip, from_us=500_000, stop_us=20_000_000)
    looking.close()
    tracks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tracks.setdefault(row["track_id"], []).append(row)
    longest = max(tracks.values(), key=lambda members: sum(row["decision"] != "unfit" for row in members))
    good = [row for row in longest if row["decision"] != "unfit"]
    assert len(good) >= 8 and {row["identity"] for row in good} == {"Lin-Manuel Miranda"}
    assert named(rows) == {"Lin-Manuel Miranda"}


def test_nothing_is_left_of_a_real_person_who_was_removed(real: FaceRecogniser, tmp_path: Path) -> None:
    url = str(tmp_path)
    for name in ("Barack Obama", "Joe Biden"):
        photo = str(SHARED / "faces" / "known" / ENROLLED[name])
        made = enrol(url, name, [photo], consent="a test", recogniser=real)
    obama = made.person("Barack Obama")
    assert obama is not None
    needles = [piece.tobytes() for piece in np.split(obama.vectors[0], 32)]  # any four numbers in a row

    def holding() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file() and any(n in path.read_bytes() for n in needles)]

    assert len(holding()) == 2
    remove_person(url, "Barack Obama")
    assert holding() == []


def test_a_photo_without_one_fit_face_or_of_somebody_else_is_refused(real: FaceRecogniser, tmp_path: Path) -> None:
    known = SHARED / "faces" / "known"
    for photos, message in (
        (["kit_with_rose.jpg"], "2 faces: which is meant"),
        (["obama.jpg", "biden.jpg"], "do not show the same face"),
    ):
        with pytest.raises(UsageError, match=message):
            enrol(str(tmp_path), "x", [str(known / photo) for photo in photos], consent="t", recogniser=real)
    with pytest.raises(UsageError, match="no face is fit"):
        enrol(str(tmp_path), "x", [str(SHARED / "images" / "raccoon" / "raccoon-1.jpg")], consent="t", recogniser=real)


@pytest.mark.slow
def test_calibration_on_lfw_separates_people_and_warns_that_the_pairs_are_few(real: FaceRecogniser) -> None:
    result = calibrate([str(SHARED / "faces" / "lfw10x10")], far=1e-3, recogniser=real)
    assert 0.3 < result.threshold < 0.45 and result.accepted is not None and result.accepted > 0.95
    assert not result.supported and "too few" in result.warning


def test_the_description_names_what_it_is_made_of(tmp_path: Path) -> None:
    real_recogniser(tmp_path)
    with pytest.raises(WeightsError, match="'not stated'"):
        resolve_recogniser(real_description(tmp_path))
