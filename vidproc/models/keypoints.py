"""Faces and five points of each by one Keypoint R-CNN, trained here: the other way to what `mtcnn.py` finds.

Imports torch, and torchvision for its three seconds.
"""

import torch
from torch import Tensor, nn

from vidproc.errors import NotFinite
from vidproc.models.inputs import Inputs
from vidproc.models.load_detector import last_layers, load_detector
from vidproc.models.mtcnn import FrameFaces
from vidproc.models.recogniser import KeypointFaceDetector

_FRAMES_AT_ONCE = {"cpu": 1, "cuda": 8}
"""On a CPU the boxes of several frames are looked at together, and the last bits of each may depend on how many."""


class KeypointFaces:
    """The network on a device. Raises `WeightsError` when the checkpoint does not fit its sidecar."""

    def __init__(self, detector: KeypointFaceDetector, device: str) -> None:
        self.detector, self.device = detector, torch.device(device)
        self.network = load_detector(detector.network, device)
        about = detector.network
        self.inputs = Inputs(mean=about.mean, std=about.std, sound=False, device=self.device)
        self._broken: list[Tensor] = []
        for module in last_layers(self.network):
            module.register_forward_hook(self._look)

    def _look(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._broken.append(~torch.isfinite(output).all())

    @torch.inference_mode()
    def find(self, frames: Tensor) -> list[FrameFaces]:
        """uint8 [frames, height, width, 3] → the faces of each; the same frames give the same faces, bit for bit.

        Raises `NotFinite` where the network makes no numbers: torchvision would silently find nothing.
        """
        at_once = _FRAMES_AT_ONCE[self.device.type]
        pieces = (frames[start : start + at_once] for start in range(0, len(frames), at_once))
        return [faces for piece in pieces for faces in self._find(piece.to(self.device))]

    def _find(self, pixels: Tensor) -> list[FrameFaces]:
        self._broken.clear()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            found = self.network(self.inputs(pixels.float()))
        if torch.stack(self._broken).any():
            raise NotFinite("a frame's faces are no numbers: the detector's weights are damaged, or overflow on it")
        size = pixels.new_tensor([pixels.shape[2], pixels.shape[1]], dtype=torch.float32)
        return [self._sure(one, size) for one in found]

    def _sure(self, found: dict[str, Tensor], size: Tensor) -> FrameFaces:
        """The faces of one frame that are sure enough, in its pixels. `size`: its width and height."""
        sure = found["scores"] >= self.detector.least_score
        boxes, points = found["boxes"][sure] * size.repeat(2), found["keypoints"][sure][..., :2] * size
        return FrameFaces(*(one.float().cpu().numpy() for one in (boxes, points, found["scores"][sure])))
