"""The cascade: sizes as in the paper, and what it does with nothing, noise and frames too small to hold a face."""

import numpy as np
import pytest
import torch
from made_faces import SHARED, random_recogniser, real_recogniser
from PIL import Image

from vidproc.errors import WeightsError
from vidproc.models import mtcnn
from vidproc.models.mtcnn import Mtcnn
from vidproc.models.recogniser import resolve_recogniser


def test_outputs_are_as_many_as_the_paper_says() -> None:
    face, move = mtcnn.proposal_network()(torch.zeros(2, 3, 12, 12))
    assert face.shape == (2, 2, 1, 1) and move.shape == (2, 4, 1, 1)
    assert [tuple(y.shape) for y in mtcnn.refinement_network()(torch.zeros(2, 3, 24, 24))] == [(2, 2), (2, 4)]
    assert [tuple(y.shape) for y in mtcnn.output_network()(torch.zeros(2, 3, 48, 48))] == [(2, 2), (2, 4), (2, 10)]
    counts = [sum(p.numel() for p in net().parameters()) for net in
              (mtcnn.proposal_network, mtcnn.refinement_network, mtcnn.output_network)]  # fmt: skip
    assert counts == [6632, 100178, 389040]


def test_faces_lie_in_their_frame_the_surest_first_and_come_out_alike_again() -> None:
    detector = Mtcnn(resolve_recogniser(random_recogniser()).detector, "cpu")
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 48, 64, 3), dtype=np.uint8))
    together = detector.find(frames)
    assert len(together) == 11 and all(len(faces) for faces in together)
    for one, again in zip(together, detector.find(frames), strict=True):
        assert np.array_equal(one.boxes, again.boxes) and np.array_equal(one.points, again.points)
    for faces in together:
        centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        assert ((centres > 0) & (centres < [64, 48])).all()
        assert (np.diff(faces.scores) <= 0).all()


def test_what_is_smaller_than_the_smallest_face_has_none() -> None:
    detector = Mtcnn(resolve_recogniser(random_recogniser()).detector, "cpu")
    assert [len(faces) for faces in detector.find(torch.zeros(2, 5, 64, 3, dtype=torch.uint8))] == [0, 0]
    assert detector.find(torch.zeros(0, 48, 64, 3, dtype=torch.uint8)) == []


def test_grey_has_no_faces_but_noise_must_not_cost_the_earth() -> None:
    """However much P-Net proposes, a frame's proposals are bounded."""
    detector = Mtcnn(resolve_recogniser(random_recogniser()).detector, "cpu")
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 320, 320, 3), dtype=np.uint8))
    x = (frames.permute(0, 3, 1, 2).float() - 127.5) / 128
    with torch.inference_mode():
        frame, squares = detector._proposed(x)
    assert 0 < len(frame) <= 300 and (squares[:, 2:] > squares[:, :2]).all()


def test_files_that_do_not_fit_are_named() -> None:
    from dataclasses import replace

    detector = resolve_recogniser(random_recogniser()).detector
    with pytest.raises(WeightsError, match="do not fit this network of MTCNN"):
        Mtcnn(replace(detector, pnet=detector.rnet), "cpu")


@pytest.mark.parametrize("turn", [False, True])
def test_real_weights_find_the_face_in_known_photos(tmp_path_factory: pytest.TempPathFactory, turn: bool) -> None:
    """One of each of 7 people, 250x250; and where the face is moves with the picture."""
    recogniser = real_recogniser(tmp_path_factory.mktemp("real"))
    detector = Mtcnn(recogniser.detector, "cpu")
    paths = sorted((SHARED / "faces" / "lfw10x10").glob("*/*_0002.jpg"))
    frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    found = detector.find(torch.from_numpy(frames[:, :, ::-1].copy() if turn else frames))
    assert len(paths) == 7
    for faces in found:
        x1, y1, x2, y2 = faces.boxes[0]
        assert x1 < 125 < x2 and y1 < 125 < y2  # LFW is centred on its face
        eyes, nose, mouth = faces.points[0][:2], faces.points[0][2], faces.points[0][3:]
        assert eyes[0, 0] < nose[0] < eyes[1, 0] and eyes[:, 1].max() < nose[1] < mouth[:, 1].min()
