"""Faces and five points of each, by three small networks in a row. Imports torch.

MTCNN (Zhang et al. 2016, arXiv:1604.02878). P-Net looks at every place of a pyramid of the frame and proposes boxes,
R-Net looks at each of them, O-Net again and at more pixels. Parameters have the names of facenet-pytorch's files.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align

from vidproc.errors import WeightsError
from vidproc.models.load import load_saved, named_state
from vidproc.models.recogniser import FaceDetector, File
from vidproc.models.sidecar import Checkpoint

_CELL, _STRIDE = 12, 2
"""P-Net sees 12x12 pixels, and moves by 2."""
_SHRINK = 0.709
"""From one floor of the pyramid to the next: half the area."""
_FRAMES_AT_ONCE = 8
_FACES_AT_ONCE = 256
_MOST_OF_A_FLOOR, _MOST_OF_A_FRAME = 1000, 300
"""Proposals that are followed up: noise has thousands."""
_OVERLAP_OF_A_FLOOR, _OVERLAP = 0.5, 0.7

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FrameFaces:
    """The faces of one frame, the surest first, in pixels of it: [faces, 4], [faces, 5, 2], [faces]."""

    boxes: Floats
    points: Floats
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)


class CascadeNetwork(nn.Module):
    """Layers one after another, and several heads on the last one's output."""

    def __init__(self, layers: dict[str, nn.Module], heads: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in (layers | heads).items():
            self.add_module(name, module)
        self._layers, self._heads = tuple(layers), tuple(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        for name in self._layers:
            x = self._modules[name](x)  # type: ignore[misc]
        return [self._modules[name](x) for name in self._heads]  # type: ignore[misc]


class FlattenByColumns(nn.Module):
    """[batch, channels, height, width] → [batch, width * height * channels]: the first weights came from Matlab."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1).flatten(1)


def _layers(*convolutions: tuple[int, int], pools: tuple[int, ...]) -> dict[str, nn.Module]:
    """Convolutions (channels, kernel) with PReLU, the first `pools` of them followed by a pool that strides by 2."""
    layers: dict[str, nn.Module] = {}
    before = 3
    for i, (channels, kernel) in enumerate(convolutions, start=1):
        layers[f"conv{i}"], layers[f"prelu{i}"] = nn.Conv2d(before, channels, kernel), nn.PReLU(channels)
        if i <= len(pools):
            layers[f"pool{i}"] = nn.MaxPool2d(pools[i - 1], 2, ceil_mode=True)
        before = channels
    return layers


def proposal_network() -> CascadeNetwork:
    """Normalised frames [n, 3, height, width] → face or not [n, 2, …] and how to move the box [n, 4, …], each place."""
    layers = _layers((10, 3), (16, 3), (32, 3), pools=(2,))
    return CascadeNetwork(layers, {"conv4_1": nn.Conv2d(32, 2, 1), "conv4_2": nn.Conv2d(32, 4, 1)})


def refinement_network() -> CascadeNetwork:
    """[n, 3, 24, 24] → face or not [n, 2], how to move the box [n, 4]."""
    layers = _layers((28, 3), (48, 3), (64, 2), pools=(3, 3))
    layers |= {"flatten": FlattenByColumns(), "dense4": nn.Linear(576, 128), "prelu4": nn.PReLU(128)}
    return CascadeNetwork(layers, {"dense5_1": nn.Linear(128, 2), "dense5_2": nn.Linear(128, 4)})


def output_network() -> CascadeNetwork:
    """[n, 3, 48, 48] → face or not [n, 2], how to move the box [n, 4], five x then five y in shares of it [n, 10]."""
    layers = _layers((32, 3), (64, 3), (64, 3), (128, 2), pools=(3, 3, 2))
    layers |= {"flatten": FlattenByColumns(), "dense5": nn.Linear(1152, 256), "prelu5": nn.PReLU(256)}
    heads: dict[str, nn.Module] = {f"dense6_{i}": nn.Linear(256, outputs) for i, outputs in ((1, 2), (2, 4), (3, 10))}
    return CascadeNetwork(layers, heads)


def _loaded(network: CascadeNetwork, file: File, detector: FaceDetector, device: torch.device) -> CascadeNetwork:
    told = Checkpoint(url=file.url, sha256=file.sha256, licence=detector.licence, provenance=detector.provenance)
    saved = load_saved(told)
    try:
        network.load_state_dict(named_state(saved, layout="torchvision", network=network), strict=True)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"weights {file.url} do not fit this network of MTCNN: {error}") from error
    return network.eval().requires_grad_(False).to(device)


class Mtcnn:
    """The three networks on a device. Raises `WeightsError` when a checkpoint does not fit."""

    def __init__(self, detector: FaceDetector, device: str) -> None:
        self.detector, self.device = detector, torch.device(device)
        made = (proposal_network(), refinement_network(), output_network())
        self._nets = [_loaded(net, file, detector, self.device) for net, file in zip(made, detector.files, strict=True)]

    @torch.inference_mode()
    def find(self, frames: Tensor) -> list[FrameFaces]:
        """uint8 [frames, height, width, 3] → the faces of each; the same frames give the same faces, bit for bit."""
        found: list[FrameFaces] = []
        for start in range(0, len(frames), _FRAMES_AT_ONCE):
            pixels = frames[start : start + _FRAMES_AT_ONCE].to(self.device)
            found += self._find((pixels.permute(0, 3, 1, 2).float() - 127.5) / 128)
        return found

    def _find(self, x: Tensor) -> list[FrameFaces]:
        frame, squares = self._proposed(x)
        frame, squares = self._refined(x, frame, squares)
        face, move, points = self._apply(2, x, frame, squares, 48)
        scores = face.softmax(1)[:, 1]
        boxes = _moved(squares, move)
        places = squares[:, None, :2] + points.reshape(-1, 2, 5).mT * _sizes(squares)[:, None]
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes.new_tensor([x.shape[3], x.shape[2]])
        sure = (scores >= self.detector.thresholds[2]) & ((centre > 0) & (centre < size)).all(dim=1)
        columns = [column[sure].cpu().numpy() for column in (frame, boxes, places, scores)]
        return [_of_frame(*(column[columns[0] == i] for column in columns[1:])) for i in range(len(x))]

    def _refined(self, x: Tensor, frame: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        face, move = self._apply(1, x, frame, squares, 24)
        scores = face.softmax(1)[:, 1]
        sure = (scores >= self.detector.thresholds[1]).nonzero()[:, 0]
        boxes = _moved(squares[sure], move[sure])
        kept = batched_nms(boxes, scores[sure], frame[sure], _OVERLAP)
        return frame[sure][kept], _squares(boxes[kept])

    def _proposed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Frame number and square of each place that may be a face."""
        height, width = x.shape[2:]
        scale = _CELL / self.detector.least_px
        floors = []
        while min(height, width) * scale >= _CELL:
            floors.append(self._floor(x, (round(height * scale), round(width * scale))))
            scale *= _SHRINK
        if not floors:  # the frame is smaller than the smallest face
            return x.new_empty(0).long(), x.new_empty(0, 4)
        frame, boxes, scores = (torch.cat(parts) for parts in zip(*floors, strict=True))
        kept = batched_nms(boxes, scores, frame, _OVERLAP)
        kept = kept[_rank(frame[kept]) < _MOST_OF_A_FRAME]
        return frame[kept], _squares(boxes[kept])

    def _floor(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        face, move = self._nets[0](F.interpolate(x, size, mode="area"))
        score = face.softmax(1)[:, 1]
        frame, row, column = (score >= self.detector.thresholds[0]).nonzero(as_tuple=True)
        scores, moves = score[frame, row, column], move[frame, :, row, column]
        order = torch.argsort(scores, descending=True, stable=True)
        order = order[_rank(frame[order]) < _MOST_OF_A_FLOOR]
        frame, scores = frame[order], scores[order]
        corner = torch.stack([column[order], row[order]], dim=1).float() * _STRIDE
        shrunk = corner.new_tensor([size[1] / x.shape[3], size[0] / x.shape[2]])
        boxes = torch.cat([corner / shrunk, (corner + _CELL) / shrunk], dim=1)
        kept = batched_nms(boxes, scores, frame, _OVERLAP_OF_A_FLOOR)
        return frame[kept], _moved(boxes[kept], moves[order][kept]), scores[kept]

    def _apply(self, which: int, x: Tensor, frame: Tensor, boxes: Tensor, side: int) -> list[Tensor]:
        """The network's outputs for each box, cut out as squares of `side`; what lies outside the frame is grey."""
        rois = torch.cat([frame[:, None].to(boxes.dtype), boxes], dim=1)
        pieces = torch.split(rois, _FACES_AT_ONCE)
        if not len(rois):
            pieces = (rois.new_tensor([[0, 0, 0, 1, 1]]),)
        outputs = [self._nets[which](roi_align(x, piece, side, aligned=True)) for piece in pieces]
        return [torch.cat(parts)[: len(rois)] for parts in zip(*outputs, strict=True)]


def _rank(group: Tensor) -> Tensor:
    """Of each element how many of its group come before it."""
    order = torch.argsort(group, stable=True)
    grouped = group[order]
    place = torch.arange(len(group), device=group.device)
    rank = torch.empty_like(place)
    rank[order] = place - torch.searchsorted(grouped, grouped)
    return rank


def _sizes(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]


def _moved(boxes: Tensor, by: Tensor) -> Tensor:
    """Boxes with each edge moved by a share of width or height."""
    sizes = _sizes(boxes)
    return boxes + by * torch.cat([sizes, sizes], dim=1)


def _squares(boxes: Tensor) -> Tensor:
    """The squares around the same centres, as long as the longer sides."""
    half = _sizes(boxes).amax(dim=1, keepdim=True) / 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _of_frame(boxes: Floats, points: Floats, scores: Floats) -> FrameFaces:
    """The surest first; of two of which one lies mostly inside the other, only the surer."""
    order = np.lexsort((boxes[:, 1], boxes[:, 0], -scores))
    kept: list[int] = []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for i in order:
        low, high = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        if not (common > _OVERLAP * np.minimum(areas[i], areas[kept])).any():
            kept.append(int(i))
    return FrameFaces(boxes[kept], points[kept], scores[kept])
