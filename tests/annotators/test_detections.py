"""Boxes: where they lie in the picture, which are left out, and that real networks find what is drawn."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from by_steps import annotated, over_video
from by_steps import said as said_of
from torch import nn

from vidproc.annotators import ANNOTATORS
from vidproc.annotators.detecting import MOST, BoxNetwork, FixedForm, load_finder
from vidproc.annotators.detections import DetectionNetwork, Detections
from vidproc.errors import NotFinite, UsageError, WeightsError
from vidproc.media.samples import Samples
from vidproc.models.detector import PublishedDetector, resolve_detector
from vidproc.models.load_detector import Published, load_detector
from vidproc.models.published_detectors import BUILDERS, VIEW, without_gaps
from vidproc.train.demo_detector import letterboxed
from vidproc.train.drawn_boxes import HELD_OUT
from vidproc.train.synthetic import SHAPES

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 64


@pytest.fixture(scope="module")
def demo() -> Detections:
    made = ANNOTATORS["detections"]("demo")
    assert isinstance(made, Detections)
    return made


def samples(pixels: np.ndarray, *, shown: tuple[int, int] | None = None, first: int = 0) -> Samples:
    starts = (first + np.arange(len(pixels))) * 200_000
    return Samples(starts, starts + 200_000, starts[:, None], pixels, shown=shown)


class Told:
    """A finder that says what it was told, for whatever it is shown. Rows: x1, y1, x2, y2, score, category."""

    def __init__(self, *frames: Sequence[tuple[float, ...]]) -> None:
        longest = max(map(len, frames))
        empty = (0.0, 0.0, 0.0, 0.0, -1.0, -1.0)
        self.found = np.array([[*rows, *[empty] * (longest - len(rows))] for rows in frames], np.float32)

    def boxes(self, data: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.found[: len(array)] for array in data]


def said(annotator: Detections, told: Told, seen: Samples) -> list[dict[str, Any]]:
    [annotation] = DetectionNetwork(annotator, told).annotate([{annotator.view: seen}])
    assert annotation.samples == len(seen) and annotation.tally is None
    return annotation.rows["detections"].to_pylist()


def blank(count: int) -> np.ndarray:
    return np.zeros((count, SIDE, SIDE, 3), np.uint8)


def test_boxes_become_shares_of_the_picture_and_are_cut_to_it(demo: Detections) -> None:
    """Of 1280 × 640 the upper half of the letterbox: what is seen in its grey is nothing."""
    told = Told(
        [
            (0.25, 0.125, 0.5, 0.375, 0.9, 1),
            (-0.5, 0.25, 0.5, 1.5, 0.8, 0),
            (0.1, 0.6, 0.9, 0.9, 0.99, 2),  # in the grey
            (0.2, 0.495, 0.4, 0.9, 0.97, 2),  # less than a pixel of it is in the picture
            (0.5, 0.2, 0.5, 0.4, 0.95, 2),  # no area
            (0.7, 0.4, 0.6, 0.1, 0.95, 2),  # the wrong way round
            (0.1, 0.1, 0.2, 0.2, 0.1, 2),  # unsure
        ],
        [(0.0, 0.0, 1.0, 0.5, 0.7, 4)],
    )
    rows = said(demo, told, samples(blank(2), shown=(1280, 640), first=3))
    assert [row["detection_id"] for row in rows] == ["600000-0", "600000-1", "800000-0"]
    assert [(row["label"], row["label_id"]) for row in rows] == [(SHAPES[i], i) for i in (1, 0, 4)]
    boxes = [[row[side] for side in ("x1", "y1", "x2", "y2")] for row in rows]
    assert boxes == [[0.25, 0.25, 0.5, 0.75], [0.0, 0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]]


def test_without_a_size_the_picture_fills_the_sample(demo: Detections) -> None:
    [row] = said(demo, Told([(0.25, 0.5, 0.75, 1.0, 0.9, 1)]), samples(blank(1)))
    assert [row[side] for side in ("x1", "y1", "x2", "y2")] == [0.25, 0.5, 0.75, 1.0]


def test_at_most_so_many_boxes_the_best_first_equal_ones_as_they_come(demo: Detections) -> None:
    few = Detections(weights=demo.weights, most=3)
    told = Told([(0.1 * i, 0.1, 0.1 * i + 0.1, 0.3, score, i) for i, score in enumerate((0.5, 0.9, 0.7, 0.7, 0.7))])
    rows = said(few, told, samples(blank(1)))
    assert [row["label_id"] for row in rows] == [1, 2, 3]
    assert few.model_id != demo.model_id
    with pytest.raises(UsageError, match="most and batch must be at least 1"):
        Detections(weights=demo.weights, most=0)


def test_the_demo_finds_what_is_drawn_in_letterboxes(demo: Detections) -> None:
    """All segments' frames share batches; each gets its own boxes. 60 pictures that training never saw."""
    drawn = [letterboxed(HELD_OUT + 5000 + i) for i in range(60)]
    seen = [samples(np.stack([one[0] for one in drawn[start:stop]])) for start, stop in ((0, 7), (7, 60))]
    network = demo.load("cpu")
    found = [one.rows["detections"].to_pylist() for one in network.annotate([{demo.view: one} for one in seen])]
    frames = [
        [row for row in rows if row["time_us"] == time]
        for rows, part in zip(found, seen, strict=True)
        for time in part.start_us
    ]
    true = hit = 0
    for (_, boxes, labels), rows in zip(drawn, frames, strict=True):
        true += len(boxes)
        for box, label in zip(boxes / SIDE, labels, strict=True):
            hit += any(row["label_id"] == label and row["score"] > 0.5 and overlap(row, box) > 0.5 for row in rows)
    assert hit > 0.8 * true > 50


def overlap(row: dict[str, Any], box: np.ndarray) -> float:
    mine = np.array([row[side] for side in ("x1", "y1", "x2", "y2")])
    both = np.prod(np.clip(np.minimum(mine[2:], box[2:]) - np.maximum(mine[:2], box[:2]), 0, None))
    area = sum(np.prod(one[2:] - one[:2]) for one in (mine, box))
    return float(both / (area - both))


def test_boxes_do_not_depend_on_their_company(demo: Detections) -> None:
    """Bit for bit: a run that is killed and resumed puts segments into other batches."""
    pixels = np.stack([letterboxed(HELD_OUT + i)[0] for i in range(6)])
    network = demo.load("cpu")
    parts = [samples(pixels[a:b], first=a) for a, b in ((0, 1), (1, 4), (4, 6))]
    together = network.annotate([{demo.view: one} for one in parts])
    for part, joint in zip(parts, together, strict=True):
        [alone] = network.annotate([{demo.view: part}])
        assert alone.rows["detections"].num_rows and alone.rows["detections"].equals(joint.rows["detections"])


def test_numbers_that_are_none_are_an_error_not_an_empty_frame(demo: Detections) -> None:
    network = load_detector(demo.weights, "cpu")
    with torch.no_grad():
        next(iter(network.parameters())).fill_(torch.nan)
    finder = BoxNetwork(FixedForm(network), demo.weights, device="cpu", batch=1, least=1)
    with pytest.raises(NotFinite, match="scored with no number"):
        finder.boxes([blank(1)])


def test_out_of_memory_halves_the_batch(demo: Detections) -> None:
    class Narrow(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 2:
                raise torch.OutOfMemoryError("no room")
            return images.new_zeros(len(images), MOST * 6)

    finder = BoxNetwork(Narrow(), demo.weights, device="cpu", batch=8, least=1)
    assert [one.shape for one in finder.boxes([blank(3), blank(4)])] == [(3, MOST, 6), (4, MOST, 6)]
    assert finder.batch == 1, "7, 3, 1"


# ---- torchvision's own


def test_coco_s_numbers_without_a_name_are_left_out() -> None:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights as Entry

    categories, outputs = without_gaps(Entry.COCO_V1.meta["categories"])
    assert len(categories) == 80 and len(outputs) == 91 and outputs[0] == -1
    assert (categories[outputs[1]], categories[outputs[90]]) == ("person", "toothbrush")
    assert sum(place < 0 for place in outputs) == 11


def published(path: Path, name: str, **outputs: Any) -> PublishedDetector:
    """The checkpoint there, as one of torchvision's names would describe it. `outputs`: and `categories`."""
    return PublishedDetector(
        url=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence="MIT",
        provenance="a test",
        architecture=name,
        view=VIEW,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        **outputs,
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_published_networks_load_and_their_gaps_are_dropped(name: str, tmp_path: Path) -> None:
    """With random weights: here nothing can be downloaded. As published with frozen norms, which count no batches."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model(name, weights=None, weights_backbone=None)
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state if "mobilenet" in name else network.state_dict(), tmp_path / "net.pth")
    categories, outputs = without_gaps(["__background__", *(f"c{i}" if i % 3 else "N/A" for i in range(90))])
    described = published(tmp_path / "net.pth", name, categories=categories, outputs=outputs)
    loaded = load_detector(described, "cpu")
    assert isinstance(loaded, Published)
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value), key
    boxes, whole = torch.tensor([[0.0, 0.0, 32.0, 64.0]]).repeat(3, 1), torch.zeros(1, 3, 64, 64)
    loaded.network = nn.Module()
    loaded.network.forward = lambda _: [{"boxes": boxes, "scores": torch.rand(3), "labels": torch.tensor([1, 2, 3])}]
    [found] = loaded(whole)
    assert found["labels"].tolist() == [0, 1] and found["boxes"].tolist() == [[0, 0, 0.5, 1]] * 2
    wrong = PublishedDetector(**{**vars(described), "outputs": outputs[:50]})
    with pytest.raises(WeightsError, match=f"do not fit {name}"):
        load_detector(wrong, "cpu")


def test_a_published_network_runs_on_the_device(tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    torch.save(get_model(name, weights=None, weights_backbone=None).state_dict(), tmp_path / "net.pth")
    described = published(tmp_path / "net.pth", name, categories=("a",), outputs=(-1, *[0] * 90))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    [found] = load_finder(described, device="cpu", batch=None).boxes([pixels])
    assert found.shape == (1, MOST, 6) and (found[..., 4] <= 1).all()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ResNet50_Weights.IMAGENET1K_V2", "'resnet50' is no detector that is known"),
        ("FasterRCNN_ResNet50_FPN_V2_Weights.NONE", "see torchvision's list of weights"),
        ("demo:boxes", r"use one of \[.*demo:detections"),
        ("demo:objects", "does not describe a detector"),
        ("net.bin", "no checkpoint: use demo, a torchvision name such as FasterRCNN"),
    ],
)
def test_weights_that_are_no_detector_say_what_would_be(spec: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        resolve_detector(spec)


# ---- end to end


def moving(path: Path, *, seconds: int, size: tuple[int, int], cut: int | None = None) -> list[tuple[float, float]]:
    """A bright square of 40 pixels that goes from left to right over grey, as video; its centres, frame by frame.

    From frame number `cut` on it does so over another ground.
    """
    width, height = size
    centres = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(10 * seconds):
            behind = (70, 90, 80) if cut is None or number < cut else (30, 30, 110)
            picture = np.full((height, width, 3), behind, np.uint8)
            x, y = 30 + (width - 60) * number / (10 * seconds), height / 2
            left, top = round(x - 20), round(y - 20)
            picture[top : top + 40, left : left + 40] = (230, 210, 60)
            centres.append((left + 20, top + 20))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return centres


SIZE = (240, 136)
SECONDS = 34


def check(rows: list[dict[str, Any]], tracks: list[dict[str, Any]], centres: list[tuple[float, float]]) -> None:
    """Boxes lie in the picture and on the thing; one track holds nearly all of them, across the segments' border."""
    looked = SECONDS * 5
    on_it = 0
    for row in rows:
        assert 0 <= row["x1"] < row["x2"] <= 1 and 0 <= row["y1"] < row["y2"] <= 1
        assert 0 <= row["time_us"] < SECONDS * 1_000_000
        x, y = centres[row["time_us"] // 100_000]
        box = np.array([x - 20, y - 20, x + 20, y + 20]) / np.tile(SIZE, 2)
        surest = row["detection_id"].endswith("-0")  # the box may have a second, less sure name
        on_it += surest and row["label"] == "square" and overlap(row, box) > 0.5
    assert on_it >= 0.95 * looked
    longest = max(tracks, key=lambda track: track["n_detections"])
    assert longest["label"] == "square" and longest["n_detections"] >= 0.95 * looked
    assert longest["start_us"] < 1_000_000 and 33_000_000 < longest["end_us"] <= 34_000_000


def followed(demo: Detections, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Detections and tracks of a file."""
    found, facts = annotated(demo, path)
    assert (facts["displayed_width"], facts["displayed_height"]) == SIZE
    return said_of(found, "detections").to_pylist(), over_video(demo, found, facts)["tracks"].to_pylist()


def test_a_drawn_thing_is_found_and_followed_across_a_segment_border(demo: Detections, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    centres = moving(path, seconds=SECONDS, size=SIZE)
    check(*followed(demo, path), centres)


@pytest.mark.parametrize("cut", [15, 16])
def test_no_track_goes_on_across_a_cut(demo: Detections, tmp_path: Path, cut: int) -> None:
    """Although the thing is where it would have been. Cuts on a frame that the detector sees, and between two."""
    moving(tmp_path / "a.mp4", seconds=3, size=SIZE, cut=cut)
    _, tracks = followed(demo, tmp_path / "a.mp4")
    cut_us = cut * 100_000
    assert sum(track["n_detections"] >= 5 for track in tracks) == 2
    for track in tracks:
        times = [int(name.split("-")[0]) for name in track["detection_ids"]]
        assert times[-1] < cut_us or times[0] >= cut_us
        assert not track["start_us"] < cut_us < track["end_us"], "nor does its span"


@pytest.mark.ray
@pytest.mark.slow
def test_label_fills_both_tables(ray_cluster: None, tmp_path: Path) -> None:
    """The same through `label` itself, its commits and `derive`."""
    from vidproc.pipeline import label
    from vidproc.pipeline.options import LabelConfig
    from vidproc.tables.query import connect

    (tmp_path / "archive").mkdir()
    centres = moving(tmp_path / "archive" / "a.mp4", seconds=SECONDS, size=SIZE)
    config = LabelConfig(
        archive=(str(tmp_path / "archive"),),
        tables=str(tmp_path / "tables"),
        annotators=("detections",),
        weights={"detections": "demo"},
    )
    assert label.run(config) == 0
    tables = connect(config.tables)
    check(*(tables.sql(f"FROM {name}").to_arrow_table().to_pylist() for name in ("detections", "tracks")), centres)
