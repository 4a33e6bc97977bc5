"""Keypoints: read from COCO files, moved with their pictures, and found by a network trained on drawn faces."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from bench.small_tasks import detector, measured, train
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_faces import PURPOSE, gallery, person, random_recogniser
from media.decoding import source_of
from media.drawn_box import box_of, drawn, mask, turned
from PIL import Image
from train.drawn_faces import SIDE, DrawnFace, distance_px, drawn_face, faces

from vidproc.annotators.face_network import FacesNetwork
from vidproc.annotators.faces import Faces, Terms
from vidproc.errors import UsageError
from vidproc.media.geometry import displayed_of, place
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.media.samples import Samples
from vidproc.models.detection_spec import FACE_KEYPOINTS, KeypointHead
from vidproc.models.recogniser import resolve_recogniser
from vidproc.models.sidecar import sidecar_text
from vidproc.schema import FACES
from vidproc.train import drawn_identities
from vidproc.train.boxes import changed, in_view
from vidproc.train.examples import found_categories, read_examples
from vidproc.train.options import DataOptions, TrainConfig
from vidproc.train.tasks import TASKS
from vidproc.train.tasks.detection import Detection
from vidproc.views import Frames, Picture

TASK = Detection(
    categories=("face",),
    spec=replace(detector("fasterrcnn").spec, kind="keypoint_rcnn", keypoints=KeypointHead(widths=(32, 32))),
    flip=True,
)


# ---- from a COCO file


def coco(folder: Path, made: dict[str, DrawnFace], **changed: Any) -> Path:
    """The pictures and their faces as COCO has them; one more annotation is a face of which no point is known."""
    (folder / "pictures").mkdir()
    told: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "face"}]}
    for number, (name, one) in enumerate(made.items()):
        Image.fromarray(one.pixels).save(folder / "pictures" / name)
        told["images"].append({"id": number, "file_name": f"pictures/{name}", "width": SIDE, "height": SIDE})
        x1, y1, x2, y2 = one.box * SIDE
        points = np.column_stack([one.points * SIDE, np.full(5, 2)]).flatten().tolist()
        own = {"image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        told["annotations"].append({**own, "keypoints": points, "num_keypoints": 5})
    told["annotations"].append({"image_id": 0, "category_id": 1, "bbox": [0, 0, 8, 8]})
    told["categories"][0]["keypoints"] = list(FACE_KEYPOINTS)
    path = folder / "instances.json"
    path.write_text(json.dumps(told | changed))
    return path


def read(path: Path) -> list[Any]:
    examples = read_examples(DataOptions(data=(str(path),), held_out="0"))
    assert found_categories(examples, DataOptions()) == ("face",)
    return [json.loads(label) for label in examples["label"].to_pylist()]


def test_keypoints_of_a_coco_file_are_shares_of_the_picture_and_become_the_task_s_truth(tmp_path: Path) -> None:
    made = {"a.png": drawn_face(0), "b.png": drawn_face(1)}
    one, two = read(coco(tmp_path, made))
    assert two["keypoint_names"] == list(FACE_KEYPOINTS)
    assert np.allclose(two["keypoints"], made["b.png"].label["keypoints"])
    assert one["keypoints"][1] == [[0, 0, 0]] * 5, "of this face no point is known"
    asked = {"kind": "keypoint_rcnn", "keypoints": {}, "anchor_sizes": [[8], [16], [32]]}
    config = TrainConfig(name="a", task="detection", architecture="cifar_resnet20", detector=asked, augment=("flip",))
    task = TASKS["detection"](config, ("face",))
    known, again = task.truth([one, two], "cpu")
    assert known["keypoints"].shape == (2, 5, 3) and known["keypoints"].dtype == torch.float32
    assert np.allclose(again["keypoints"][0, :, :2], made["b.png"].points, atol=1e-6)
    assert again["keypoints"][0, :, 2].tolist() == [2] * 5


def test_a_file_without_keypoints_stays_as_it_was(tmp_path: Path) -> None:
    path = coco(tmp_path, {"a.png": drawn_face(0)})
    told = json.loads(path.read_text())
    for one in told["annotations"]:
        one.pop("keypoints", None)
    path.write_text(json.dumps(told))
    [label] = read(path)
    assert set(label) == {"boxes", "labels"}
    with pytest.raises(UsageError, match=r"boxes with the keypoints .*give COCO annotations with `keypoints`"):
        TASK.truth([label], "cpu")
    assert TASK.truth([{"boxes": [], "labels": []}], "cpu")[0]["keypoints"].shape == (0, 5, 3)


@pytest.mark.parametrize(
    ("keypoints", "names"),
    [([1, 2, 2] * 4, FACE_KEYPOINTS), ([1, 2] * 5, ()), ([1, 2, "left"] * 5, FACE_KEYPOINTS), ("fifteen letters", ())],
)
def test_ill_formed_keypoints_are_told(tmp_path: Path, keypoints: Any, names: Any) -> None:
    wrong = [{"image_id": 0, "category_id": 1, "bbox": [0, 0, 8, 8], "keypoints": keypoints}]
    categories = [{"id": 1, "name": "face", "keypoints": list(names)}]
    path = coco(tmp_path, {"a.png": drawn_face(0)}, annotations=wrong, categories=categories)
    with pytest.raises(UsageError, match="no COCO file of boxes: ValueError"):
        read(path)


def test_points_are_sorted_by_name_and_others_are_left_out() -> None:
    names = ["nose", "ear", *reversed([name for name in FACE_KEYPOINTS if name != "nose"])]
    given = [[0.01 * i, 0.5, 2] for i in range(6)]
    box: dict[str, Any] = {"boxes": [[0, 0, 1, 1]], "labels": [0], "keypoints": [given], "keypoint_names": names}
    [found] = TASK.truth([box], "cpu")
    assert found["keypoints"][0, :, 0].tolist() == pytest.approx([0.05, 0.04, 0, 0.03, 0.02])
    with pytest.raises(UsageError, match="name them alike"):
        TASK.truth([box | {"keypoint_names": [*names[:-1], "chin"]}], "cpu")


# ---- moved with their pictures

VIEWS: tuple[dict[str, Any], ...] = (
    {"resize": (72, 96)}, {"resize": 72, "crop": (64, 48)}, {"resize": (96, 96), "letterbox": True},
)  # fmt: skip


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marked")


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(40, 300), st.integers(40, 300)), st.sampled_from(VIEWS), st.data())
def test_a_drawn_mark_is_where_its_mapped_point_is(
    shelf: Path, guard: Guard, size: tuple[int, int], kind: dict[str, Any], data: Any
) -> None:
    """Of videos of any size and rotation: the middle of what was drawn, to a pixel of what the network sees."""
    degrees = data.draw(st.sampled_from([0, 90, 180, 270]))
    picture, [x, y] = Picture(**kind), [data.draw(st.integers(0, side - 13)) for side in size]
    box = (x / size[0], y / size[1], (x + 13) / size[0], (y + 13) / size[1])
    path = turned(drawn(shelf / "a.mp4", box=box, size=size), degrees)
    facts, upright = probed(guard, source_of(path)), np.rot90(mask(box, size=size), degrees // 90)
    shown = displayed_of(facts)
    assert shown == upright.shape[::-1]
    [sample] = glimpses(guard, source_of(path), facts, Frames(fps=1, picture=picture), starts_us=[facts["start_us"]])
    point = box_of(upright).reshape(2, 2).mean(axis=0) / shown
    label = {"boxes": [[0, 0, 1, 1]], "labels": ["x"], "keypoints": [[[*point, 2], [*point, 0]]]}
    mapped = in_view(label, picture, shown)
    assume(mapped["boxes"])  # of a long picture the crop may show less than a quarter
    ((found, unknown),) = mapped["keypoints"]
    where = place(picture, shown).pixels(np.tile(point, 2))[:2]
    seen = bool(((where >= 0) & (where <= sample.shape[1::-1])).all())
    assert unknown == [0, 0, 0] and found[2] == (2 if seen else 0)
    marked = sample[..., 0] > 127
    rows, columns = np.nonzero(marked)
    if seen and len(rows) and (box_of(marked)[:2] > 0).all() and (box_of(marked)[2:] < marked.shape[::-1]).all():
        middle = np.array([columns.mean(), rows.mean()]) + 0.5
        assert np.abs(np.array(found[:2]) * marked.shape[::-1] - middle).max() <= 1


def test_points_go_with_their_box_and_are_forgotten_outside_of_the_view() -> None:
    """The middle third of a picture three times as wide as high."""
    points = [[0.5, 0.5, 1], [0.2, 0.5, 2], [float("nan"), 0.5, 2]]
    label = {"boxes": [[0, 0, 0.3, 1], [0.3, 0.1, 0.6, 0.9]], "labels": list("ab"), "keypoints": [points[::-1], points]}
    found = in_view(label, Picture(resize=50, crop=(50, 50)), (300, 100))
    assert found["labels"] == ["b"]
    assert found["keypoints"] == [[pytest.approx([0.5, 0.5, 1]), [0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize(("flip", "crop"), [(True, False), (False, True), (True, True)])
def test_changes_at_random_move_points_and_swap_left_for_right(flip: bool, crop: bool) -> None:
    """A red and a green mark: whichever is on the picture's left afterwards is the first."""
    rng, images, truth = np.random.default_rng(0), torch.zeros(60, 3, 60, 80), []
    for image in images:
        left, right, y = rng.integers(4, 30), rng.integers(45, 70), rng.integers(4, 50)
        image[0, y : y + 5, left : left + 5] = 1
        image[1, y : y + 5, right : right + 5] = 1
        points = [[(left + 2.5) / 80, (y + 2.5) / 60, 2], [(right + 2.5) / 80, (y + 2.5) / 60, 1]]
        truth.append({"boxes": torch.tensor([[0.0, 0, 1, 1]]), "labels": torch.tensor([0]),
                      "keypoints": torch.tensor([points])})  # fmt: skip
    torch.manual_seed(0)
    moved, told = changed(images, truth, flip=flip, crop=crop, mirrored=(1, 0))
    held = lost = swapped = 0
    for image, one in zip(moved, told, strict=True):
        for number, (x, y, seen) in enumerate(one["keypoints"][0].tolist()):
            colour = number if image[0].argmax() % 80 < image[1].argmax() % 80 else 1 - number
            marked, edge = image[colour] > 0.5, image[colour].clone()
            edge[1:-1, 1:-1] = 0
            if not seen:
                lost += 1
            elif image[:2].amax(dim=(1, 2)).min() > 0.5 and not edge.any():  # both are there, and this one whole
                rows, columns = np.nonzero(marked.numpy())
                assert abs(x * 80 - columns.mean() - 0.5) <= 1 and abs(y * 60 - rows.mean() - 0.5) <= 1
                assert seen == (2 if colour == 0 else 1), "what is known of a point goes with it"
                held += 1
                swapped += colour != number
    assert held > 60 and (lost > 0) == crop and (swapped > 10) == flip


# ---- measured and trained


def test_similarity_of_known_results() -> None:
    """Area 0.25: at a distance of d OKS is exp(-d² / (2 × 0.25 × 0.05²)); points that are not known do not count."""
    points = [[0.3, 0.3, 2], [0.6, 0.3, 2], [0.5, 0.5, 1], [0.4, 0.6, 2], [0.9, 0.9, 0]]
    label = {"boxes": [[0.25, 0.25, 0.75, 0.75]], "labels": ["face"], "keypoints": [points]}

    def measures(by: float) -> list[float]:
        places = (np.array(points)[:, :2] + [by, 0]).flatten()
        rows = np.array([[0.25, 0.25, 0.75, 0.75, 0.9, 0, *places]], np.float32)
        rows[0, -2:] = 0  # wherever the last one is said to be
        found = TASK.measures([rows, np.zeros((0, 16), np.float32)], [label, {"boxes": [], "labels": []}])
        assert list(found) == ["keypoint_map", "keypoint_map_50", "map", "map_50"] and found["map"] == 1
        return list(found.values())[:2]

    def off(similarity: float) -> float:
        return float(np.sqrt(-np.log(similarity) * 2 * 0.25 * 0.05**2))

    assert measures(0) == pytest.approx([1, 1])
    assert measures(off(0.72)) == pytest.approx([0.5, 1])  # right at 0.50 to 0.70, five of ten
    assert measures(off(0.49)) == [0, 0]
    nothing = TASK.measures([np.zeros((0, 16), np.float32)], [{"boxes": [], "labels": []}])
    assert nothing["keypoint_map"] == -1


def test_training_learns_where_the_points_are(one_thread: None) -> None:
    """On 200 faces for 40 steps: from 22 to 6.4 of 64 pixels, mean over the points of 40 others."""
    held = faces(first=drawn_identities.HELD_OUT, count=40)
    torch.manual_seed(0)
    network = TASK.network()
    assert distance_px(TASK, network, held) > 15
    train(TASK, network, faces(first=0, count=200), steps=40, batch=8, rate=4e-3)
    assert distance_px(TASK, network, held) < 10


@pytest.mark.slow
def test_a_trained_network_gives_the_annotator_its_faces(one_thread: None, guard: Guard, tmp_path: Path) -> None:
    """250 steps, 45 s of a core: 1.0 pixel. Then saved, named by a recogniser, and shown photos of twice the size."""
    held = faces(first=drawn_identities.HELD_OUT, count=60)
    torch.manual_seed(0)
    network = TASK.network()
    train(TASK, network, faces(first=0, count=400), steps=250, batch=8, rate=4e-3)
    assert distance_px(TASK, network, held) < 1.5
    told = measured(TASK, network, held)
    assert told["keypoint_map_50"] > 0.85 and told["map_50"] > 0.95
    annotator = faces_by(network, tmp_path)
    [view] = annotator.views
    off, found = [], 0
    for seed in range(drawn_identities.HELD_OUT, drawn_identities.HELD_OUT + 20):
        one = drawn_face(seed)
        wide = np.full((SIDE * 2, SIDE * 3, 3), 90, np.uint8)  # shown as 96 × 64 of 96 × 96
        wide[:, SIDE // 2 : SIDE * 5 // 2] = np.asarray(Image.fromarray(one.pixels).resize((SIDE * 2, SIDE * 2)))
        Image.fromarray(wide).save(tmp_path / "wide.png")
        facts = probed(guard, source_of(tmp_path / "wide.png"))
        start = np.array([facts["start_us"]])
        data = glimpses(guard, source_of(tmp_path / "wide.png"), facts, view, starts_us=start.tolist())
        samples = Samples(start, start + view.stride_us, start[:, None], data, shown=displayed_of(facts))
        [annotation] = FacesNetwork(annotator, "cpu").annotate([{view: samples}])
        rows = annotation.rows[FACES.name].to_pylist()
        if rows:
            found += 1
            points = np.array(rows[0]["landmarks"]).reshape(5, 2) * [192, 128] - [32, 0]
            off.append(np.linalg.norm(points / 128 - one.points, axis=1).mean() * SIDE)
            assert rows[0]["score"] >= 0.5 and rows[0]["x2"] > rows[0]["x1"]
    assert found >= 18 and np.mean(off) < 2


def faces_by(network: torch.nn.Module, folder: Path) -> Faces:
    """The annotator whose recogniser names the network, saved with the sidecar that a training writes."""
    data = safetensors.torch.save({name: value.contiguous() for name, value in TASK.state(network).items()})
    path = folder / "network.safetensors"
    path.write_bytes(data)
    view = Frames(fps=2, picture=Picture(resize=(96, 96), letterbox=True))
    told = TASK.described(
        url=str(path), sha256=hashlib.sha256(data).hexdigest(), licence="MIT", provenance="a test", view=view,
        mean=(128 / 255,) * 3, std=(64 / 255,) * 3,
    )  # fmt: skip
    path.with_name(f"{path.name}.json").write_text(sidecar_text(told))
    beside = Path(random_recogniser()).parent
    embedder = beside / "embedder.pt"
    pinned = {"url": str(embedder), "sha256": hashlib.sha256(embedder.read_bytes()).hexdigest()}
    detector = {"url": path.name, "sha256": told.sha256, "least_score": 0.5}
    description = {"detector": detector, "embedder": pinned, "threshold": 0.4, "least_quality": 0}
    (folder / "faces.json").write_text(json.dumps(description))
    recogniser = resolve_recogniser(str(folder / "faces.json"))
    people = gallery(recogniser.embedder.sha256, person("ann", [np.eye(8)[0]]))
    return Faces(recogniser=recogniser, terms=Terms(gallery=people, purpose=PURPOSE))
