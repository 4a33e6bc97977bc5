"""All annotators by name. A new one is one file and one line here."""

from collections.abc import Sequence
from typing import Protocol

from vidproc.annotators.actions import Actions
from vidproc.annotators.base import Annotator
from vidproc.annotators.detections import Detections
from vidproc.annotators.embeddings import Embeddings
from vidproc.annotators.faces import Faces
from vidproc.annotators.fusion import Fusion
from vidproc.annotators.objects import Objects
from vidproc.annotators.ocr import PictureText
from vidproc.annotators.quality import Quality
from vidproc.annotators.scenes import Scenes
from vidproc.annotators.shots import Shots
from vidproc.annotators.sounds import Sounds
from vidproc.annotators.text import WrittenText
from vidproc.models.restorer import Restorer


class Factory(Protocol):
    """Makes an annotator from what a job's flags say; `weights` None takes its default.

    `restorer`: takes the noise out of frames for annotators that say what is to be seen; those that measure the signal
    leave it unused. Raises `UsageError` or `WeightsError` before any work.
    """

    def __call__(
        self, weights: str | None = None, *, allow_licences: Sequence[str] = (), restorer: Restorer | None = None
    ) -> Annotator: ...


ANNOTATORS: dict[str, Factory] = {
    "actions": Actions.from_spec,
    "detections": Detections.from_spec,
    "embeddings": Embeddings.from_spec,
    "faces": Faces.from_spec,
    "fusion": Fusion.from_spec,
    "objects": Objects.from_spec,
    "ocr": PictureText.from_spec,
    "quality": Quality.from_spec,
    "scenes": Scenes.from_spec,
    "shots": Shots.from_spec,
    "sounds": Sounds.from_spec,
    "text": WrittenText.from_spec,
}
