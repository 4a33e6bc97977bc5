"""A face recogniser: one description that names a detector, an embedding network and what it takes to be recognised.

    {"detector": {"pnet": {"url": "pnet.pt", "sha256": "…"}, "rnet": {…}, "onet": {…},
                  "licence": "MIT", "provenance": "…"},
     "embedder": {"url": "s3://bucket/ir50.safetensors", "sha256": "…"},
     "threshold": 0.42}

In place of MTCNN's three networks the detector may be one Keypoint R-CNN that `jobs/train.py --task detection` made:

    {"detector": {"url": "keypoints.safetensors", "sha256": "…"}, …}

URLs without a scheme lie beside the description. The embedder and a Keypoint R-CNN have their own sidecars at
<url>.json, as a training writes them. No faces' weights ship with this package: most that are published may not be used
commercially. Needs no torch.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vidproc.errors import WeightsError
from vidproc.models.detection_spec import FACE_KEYPOINTS, DetectionSpec
from vidproc.models.detector import Detector
from vidproc.models.embedder import Embedder
from vidproc.models.fetch import checked_bytes, read_text
from vidproc.models.sidecar import as_view, check_licence, described
from vidproc.views import Frames, Picture

DEFAULT_VIEW = Frames(fps=2, picture=Picture(resize=(640, 640), letterbox=True))

_Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class File:
    """A file of parameters, and the SHA-256 of its bytes."""

    url: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FaceDetector:
    """The three networks of MTCNN (Zhang et al. 2016, arXiv:1604.02878), under the names that facenet-pytorch gives.

    `least_px`: side of the smallest face that is looked for, in pixels of the view: time grows with 1 / least_px².
    `thresholds`: score from which each network hands a face on.
    """

    pnet: File
    rnet: File
    onet: File
    licence: str = Field(min_length=1)
    provenance: str = Field(min_length=1)
    least_px: int = Field(default=24, ge=12, le=512)
    thresholds: tuple[_Share, _Share, _Share] = (0.6, 0.7, 0.9)

    @property
    def architecture(self) -> str:
        return "mtcnn"

    @property
    def files(self) -> tuple[File, ...]:
        return self.pnet, self.rnet, self.onet

    @property
    def settings(self) -> list[Any]:
        """What else decides what is found, for the model's name."""
        return [self.least_px, self.thresholds]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class KeypointFaceDetector:
    """A Keypoint R-CNN whose one category is `face`, and its keypoints a face's five.

    `least_score`: from which on a box is a face.
    """

    network: Detector
    least_score: _Share = 0.7

    def __post_init__(self) -> None:
        found, keypoints = self.network, self.network.detection.keypoints
        names = None if keypoints is None else keypoints.names
        if names != FACE_KEYPOINTS or found.categories != ("face",):
            raise ValueError(
                f"{found.url} is a {found.architecture} for {found.categories[:5]} with the keypoints {names}: wanted "
                f"is a keypoint_rcnn for ('face',) with the keypoints {FACE_KEYPOINTS}, as jobs/train.py --task "
                "detection makes it, or MTCNN's pnet, rnet and onet"
            )

    @property
    def architecture(self) -> str:
        return self.network.architecture

    @property
    def licence(self) -> str:
        return self.network.licence

    @property
    def files(self) -> tuple[File, ...]:
        return (File(url=self.network.url, sha256=self.network.sha256),)

    @property
    def settings(self) -> list[Any]:
        """What else decides what is found, for the model's name."""
        spec = TypeAdapter(DetectionSpec).dump_python(self.network.detection, mode="json")
        return [self.least_score, spec, self.network.mean, self.network.std]


def _kind_of(detector: Any) -> str:
    """Which of the two a description means: a Keypoint R-CNN is one file, MTCNN three."""
    one = "url" in detector if isinstance(detector, Mapping) else isinstance(detector, KeypointFaceDetector)
    return "keypoint_rcnn" if one else "mtcnn"


AnyFaceDetector = Annotated[
    Annotated[FaceDetector, Tag("mtcnn")] | Annotated[KeypointFaceDetector, Tag("keypoint_rcnn")],
    Discriminator(_kind_of),
]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FaceRecogniser:
    """What finds faces, what tells them apart, and when a face counts as that of a person.

    `threshold`, `margin`: a face is a person's if its cosine to the nearest picture of theirs is at least `threshold`,
    and by `margin` above that to anybody else. `calibrate` finds a threshold for a false accept rate.
    `least_quality`: faces below are `unfit`: nothing is said of them.
    `votes`: in a video, as many good faces of one track must agree, and `vote_share` of all its good ones.
    `view`: the frames that are looked at; a description without one takes a Keypoint R-CNN's own.
    """

    detector: AnyFaceDetector
    embedder: Embedder
    threshold: float = Field(gt=0, lt=1)
    margin: float = Field(default=0.05, ge=0, lt=1)
    least_quality: _Share = 0.3
    votes: int = Field(default=3, ge=1)
    vote_share: _Share = 0.3
    view: Annotated[Frames, BeforeValidator(as_view)] = DEFAULT_VIEW
    protocol: str = ""


def resolve_recogniser(url: str, *, allow_licences: Sequence[str] = ()) -> FaceRecogniser:
    """The recogniser that `url` describes, all bytes that it needs already here and checked.

    Raises `WeightsError` when a piece cannot be had, was altered, does not fit its description, or has a licence
    neither open nor allowed by `allow_licences`.
    """
    if not url.endswith(".json"):
        raise WeightsError(
            f"weights {url!r} are no face recogniser: give the URL of its description, which ends in .json (no faces' "
            "weights ship with this package)"
        )
    try:
        fields = json.loads(read_text(url))
        if not isinstance(fields, dict):
            raise ValueError("it must be a JSON object")
        fields = _beside(fields, url.rpartition("/")[0])
        pinned = File(**fields["embedder"])
        embedder = described(pinned.url, Embedder, what="an embedder", or_use="the URL of one")
        if _kind_of(fields.get("detector")) == "keypoint_rcnn":
            detector = _keypoint_rcnn(fields["detector"])
            fields = {"view": detector.network.view, **fields, "detector": detector}
        recogniser = FaceRecogniser(**{**fields, "embedder": embedder})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise WeightsError(f"{url} does not describe a face recogniser: {problems}") from error
    except KeyError as error:
        raise WeightsError(f"{url} does not describe a face recogniser: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{url} does not describe a face recogniser: {error}") from error
    if embedder.sha256 != pinned.sha256:
        raise WeightsError(
            f"{url} is for an embedder with the SHA-256 {pinned.sha256}, but {pinned.url} has {embedder.sha256}: its "
            "threshold holds for no other network; calibrate one for this"
        )
    for file in recogniser.detector.files:
        checked_bytes(file.url, sha256=file.sha256)
    check_licence(f"{url} (detector)", recogniser.detector.licence, allowed=allow_licences)
    check_licence(f"{url} (embedder)", embedder.licence, allowed=allow_licences)
    return recogniser


def _keypoint_rcnn(told: Mapping[str, Any]) -> KeypointFaceDetector:
    """As a description tells of it: its file, and perhaps from which score on a box is a face."""
    settings = dict(told)
    pinned = File(**{name: settings.pop(name) for name in ("url", "sha256") if name in told})
    network = described(pinned.url, Detector, what="a faces' detector", or_use="the URL of one")
    if network.sha256 != pinned.sha256:
        raise ValueError(
            f"it is for a detector with the SHA-256 {pinned.sha256}, but {pinned.url} has {network.sha256}: correct it "
            "if the change was meant"
        )
    return KeypointFaceDetector(network=network, **settings)


def _beside(fields: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The same fields, with the URL of every file made whole."""
    found = dict(fields)
    for name, value in fields.items():
        if isinstance(value, dict):
            found[name] = _beside(value, folder)
    url = found.get("url")
    if isinstance(url, str) and folder and not url.startswith("/") and "://" not in url:
        found["url"] = f"{folder}/{url}"
    return found
