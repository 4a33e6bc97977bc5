"""A Keypoint R-CNN as what finds faces for a recogniser, in place of MTCNN."""

import hashlib
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
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_faces import offline_faces
from media.decoding import source_of
from media.drawn_box import box_of, drawn, mask, turned
from models.untrained_keypoints import SMALL, VIEW, annotator, description, saved
from security.payloads import FORMS

from vidproc.annotators.face_network import DETECTORS, FaceFinder, FacesNetwork
from vidproc.errors import NotFinite, WeightsError
from vidproc.media.geometry import displayed_of
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.media.samples import Samples
from vidproc.models.detection_spec import KeypointHead
from vidproc.models.detector import Detector, resolve_detector
from vidproc.models.keypoints import KeypointFaces
from vidproc.models.mtcnn import FrameFaces
from vidproc.models.recogniser import resolve_recogniser
from vidproc.schema import FACES
from vidproc.views import Picture

pytestmark = pytest.mark.usefixtures("one_thread")


def frames(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


# ---- as a faces' detector


def test_a_recogniser_takes_it_in_place_of_mtcnn(tmp_path: Path) -> None:
    faces = annotator(tmp_path)
    assert faces.views == (VIEW,), "a description without a view takes the network's own"
    assert faces.model_id.startswith("keypoint_rcnn_arcface-")
    assert annotator(tmp_path, least_score=0.2).model_id != faces.model_id
    network = FacesNetwork(faces, "cpu")
    starts = np.arange(3) * 250_000
    given = Samples(starts, starts + 250_000, starts[:, None], frames(3), shown=(64, 36))
    [annotation] = network.annotate([{VIEW: given}])
    rows = annotation.rows[FACES.name].to_pylist()
    assert {row["time_us"] for row in rows} == set(starts.tolist())
    for row in rows:
        assert 0 <= row["x1"] < row["x2"] <= 1 and 0 <= row["y1"] < row["y2"] <= 1
        x, y = np.array(row["landmarks"]).reshape(5, 2).T  # within their box, to the half pixel of a heat map
        assert ((x > row["x1"] - 1 / 64) & (x < row["x2"] + 1 / 64)).all()
        assert ((y > row["y1"] - 1 / 36) & (y < row["y2"] + 1 / 36)).all()
    [alone] = network.annotate([{VIEW: replace(given, data=given.data)}])
    assert alone.rows[FACES.name].equals(annotation.rows[FACES.name])


def test_holding_it_costs_no_torch(tmp_path: Path) -> None:
    faces = annotator(tmp_path)
    code = "import sys, pickle; print(pickle.load(sys.stdin.buffer).model_id); assert 'torch' not in sys.modules"
    told = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(faces), check=True, capture_output=True)
    assert told.stdout.decode().strip() == faces.model_id


def test_only_sure_faces_are_found_the_surest_first(tmp_path: Path) -> None:
    every = KeypointFaces(annotator(tmp_path).recogniser.detector, "cpu")
    given = torch.from_numpy(frames(4))
    found = every.find(given)
    scores = np.concatenate([faces.scores for faces in found])
    least = float(np.median(scores))
    sure = KeypointFaces(replace(every.detector, least_score=least), "cpu").find(given)
    assert sum(map(len, sure)) == (scores >= np.float32(least)).sum() < len(scores)
    for one, few, alone in zip(found, sure, given, strict=True):
        assert (np.diff(one.scores) <= 0).all() and np.array_equal(few.points, one.points[: len(few)])
        assert np.array_equal(every.find(alone[None])[0].boxes, one.boxes)
    assert every.find(given[:0]) == []


def test_boxes_and_points_are_in_pixels_of_the_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = KeypointFaces(annotator(tmp_path).recogniser.detector, "cpu")
    point = torch.tensor([0.25, 0.5, 1.0]).expand(1, 5, 3)
    said = {"boxes": torch.tensor([[0.125, 0.25, 0.5, 1.0]]), "scores": torch.tensor([0.9]), "keypoints": point}
    monkeypatch.setattr(
        finder.network, "forward", lambda images: (finder._broken.append(torch.tensor(False)), [said])[1]
    )
    [found] = finder.find(torch.from_numpy(frames(1)))
    assert found.boxes.tolist() == [[8, 12, 32, 48]] and found.points.tolist() == [[[16, 24]] * 5]


def test_a_network_that_makes_no_numbers_is_an_error(tmp_path: Path) -> None:
    finder = KeypointFaces(annotator(tmp_path).recogniser.detector, "cpu")
    finder.network.roi_heads.keypoint_predictor.kps_score_lowres.bias.fill_(float("nan"))
    with pytest.raises(NotFinite, match="weights are damaged"):
        finder.find(torch.from_numpy(frames(1)))


def test_a_network_that_is_no_faces_detector_says_what_is_wanted(tmp_path: Path) -> None:
    boxes = replace(SMALL, kind="fasterrcnn", keypoints=None)
    three = replace(SMALL, keypoints=KeypointHead(names=("left_eye", "right_eye", "nose"), widths=(8,)))
    for wrong in ({"spec": boxes}, {"spec": three}, {"categories": ("cat",)}, {"categories": ("face", "cat")}):
        detector = saved(tmp_path, **wrong)
        with pytest.raises(
            WeightsError, match=r"wanted is a keypoint_rcnn for \('face',\) with the keypoints \('left_e"
        ):
            resolve_recogniser(description(tmp_path, detector))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sha256": "0" * 64}, "is for a detector with the SHA-256 0000"),
        ({"sha256": None}, "sha256: Input should be a valid string"),
        ({"least_score": 2}, "least_score: Input should be less than or equal to 1"),
        ({"pnet": {}}, "pnet: Unexpected keyword argument"),
        ({"url": "none.safetensors"}, "does not exist"),
    ],
)
def test_a_wrong_description_is_told(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        resolve_recogniser(description(tmp_path, saved(tmp_path), **changed))


def test_its_licence_its_bytes_and_its_names_are_held_against_it(tmp_path: Path) -> None:
    detector = saved(tmp_path)
    path, sidecar = Path(detector.url), Path(f"{detector.url}.json")
    url, text = description(tmp_path, detector), sidecar.read_text()
    sidecar.write_text(json.dumps(json.loads(text) | {"licence": "non-commercial"}))
    with pytest.raises(WeightsError, match=r"\(detector\) have licence 'non-commercial'"):
        resolve_recogniser(url)
    assert resolve_recogniser(url, allow_licences=["non-commercial"]).detector.licence == "non-commercial"
    wide = {**json.loads(text), "detection": {**json.loads(text)["detection"], "keypoints": {"widths": [16]}}}
    sidecar.write_text(json.dumps(wide))
    with pytest.raises(WeightsError, match="do not fit keypoint_rcnn"):
        KeypointFaces(resolve_recogniser(url).detector, "cpu")
    sidecar.write_text(text)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="altered or cut short"):
        resolve_recogniser(url)


def test_a_checkpoint_that_carries_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    told = json.loads(Path(f"{saved(tmp_path).url}.json").read_text())
    data, mark = FORMS["zip"](tmp_path / "attacked"), tmp_path / "attacked"
    bad = tmp_path / "keypoints.pt"
    bad.write_bytes(data)
    bad.with_name("keypoints.pt.json").write_text(json.dumps(told | {"sha256": hashlib.sha256(data).hexdigest()}))
    detector = resolve_detector(str(bad))
    assert isinstance(detector, Detector)
    recogniser = resolve_recogniser(description(tmp_path, detector))
    with pytest.raises(WeightsError, match="no plain checkpoint"):
        DETECTORS[type(recogniser.detector)](recogniser.detector, "cpu")
    assert not mark.exists()


# ---- back to the picture


class White:
    """Takes for a face what is white, and for its points the corners and the middle of that."""

    def find(self, pixels: torch.Tensor) -> list[FrameFaces]:
        found = []
        for frame in pixels.numpy():
            x1, y1, x2, y2 = box_of((frame > 180).all(axis=-1))
            points = [[(x1, y1), (x2, y1), ((x1 + x2) / 2, (y1 + y2) / 2), (x1, y2), (x2, y2)]]
            found.append(FrameFaces(np.array([[x1, y1, x2, y2]]), np.array(points), np.ones(1)))
        return found


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(40, 300), st.integers(40, 300)), st.sampled_from([0, 90, 180, 270]), st.data())
def test_points_map_back_through_letterbox_and_rotation(
    tmp_path_factory: pytest.TempPathFactory, guard: Guard, size: tuple[int, int], degrees: int, data: Any
) -> None:
    """Of videos of any size and rotation: to a pixel of what the network sees, as boxes do."""
    finder = FaceFinder(offline_faces().recogniser, "cpu")
    finder.detector = White()
    view = replace(finder.recogniser.view, picture=Picture(resize=(64, 64), letterbox=True))
    finder.recogniser = replace(finder.recogniser, view=view)
    least = -(-3 * max(size) // 64)  # thinner things are dimmed by scaling
    [(x1, x2), (y1, y2)] = [
        (start, data.draw(st.integers(start + least, side)))
        for side in size
        for start in [data.draw(st.integers(0, side - least))]
    ]
    box = (x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1])
    path = turned(drawn(tmp_path_factory.mktemp("a") / "a.mp4", box=box, size=size), degrees)
    facts, upright = probed(guard, source_of(path)), np.rot90(mask(box, size=size), degrees // 90)
    shown = displayed_of(facts)
    assert shown == upright.shape[::-1]
    found = finder.find(glimpses(guard, source_of(path), facts, view, starts_us=[facts["start_us"]]), shown=shown)
    x1, y1, x2, y2 = box_of(upright)
    true = np.array([(x1, y1), (x2, y1), ((x1 + x2) / 2, (y1 + y2) / 2), (x1, y2), (x2, y2)])
    scale = 64 / max(shown)
    assert np.abs(found.points[0] * shown - true).max() * scale <= 1
    assert np.abs(found.boxes[0] * np.tile(shown, 2) - [x1, y1, x2, y2]).max() * scale <= 1


def test_points_all_at_one_place_are_no_fit_face() -> None:
    """They cannot be aligned: and must not end the run."""
    finder = FaceFinder(replace(offline_faces().recogniser, least_quality=0.1), "cpu")
    finder.detector = White()
    finder.detector.find = lambda pixels: [
        FrameFaces(np.array([[8.0, 8, 20, 20]]), np.full((1, 5, 2), 9.0), np.ones(1))
    ]
    found = finder.find(frames(1), shown=None)
    assert found.quality.tolist() == [0] and not found.vectors.any()
