"""What stands in the picture: titles, signs, slides, burnt-in subtitles, read off frames into `text`.

PP-OCRv6's small networks, one that finds lines and one that reads them, as the package rapidocr brings them (the extra
`ocr`; Apache-2.0; Chinese, Japanese and what is written in Latin letters). A line that stays is one span, from the
first frame in which it was read to the last; of several readings the one that stood longest counts, in each segment and
then among the segments' own. What differs in a digit is another line: prices, scores and years change one by one.
"""

import importlib.metadata
import importlib.util
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.base import Annotation, Network, OfSegments
from vidproc.annotators.rows import model_id, no_rows, rows_of
from vidproc.errors import TooLarge, UsageError, WeightsError
from vidproc.media.geometry import place
from vidproc.media.markup import sanitised
from vidproc.media.samples import MOST_SPANS, Samples
from vidproc.models.restorer import Restorer
from vidproc.schema import LEDGER, TEXT
from vidproc.views import Frames, Picture, View, view_to_json

ALIKE = 0.8
"""Two readings of one line: twice the characters they have in common, of all that both have."""

_MOST_CHARACTERS = 200
"""Of one line: with `MOST_SPANS` it bounds what a segment may say."""
_MOST_PAIRS = 2_500
"""Of lines that are compared letter by letter at one border of frames: 0.1 s. Of more, only equal ones are joined."""
_THINNEST = 4
"""What is read is widened until one side is at most so many times the other: rapidocr enlarges the short one to 736."""
_FILES = ("PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx")

Span = tuple[int, int, str]
"""From when to when, µs, and what is written."""


@dataclass(frozen=True, kw_only=True)
class PictureText(OfSegments):
    """`package`: the version of rapidocr, which decides what is read. `least_score`: of a line, from 0 to 1."""

    name: ClassVar[str] = "ocr"
    version: ClassVar[int] = 1
    view: ClassVar[Frames] = Frames(fps=0.5, picture=Picture(resize=(720, 1280), letterbox=True))
    views: ClassVar[tuple[View, ...]] = (view,)
    tables: ClassVar[tuple[str, ...]] = (TEXT.name,)
    reads: ClassVar[tuple[str, ...]] = (LEDGER.name, TEXT.name)
    replaces: ClassVar[tuple[str, ...]] = tables

    package: str
    least_score: float = 0.6

    @classmethod
    def from_spec(
        cls,
        weights: str | None = None,
        *,
        allow_licences: Sequence[str] = (),  # noqa: ARG003
        restorer: Restorer | None = None,  # noqa: ARG003  it would take thin strokes for noise
    ) -> Self:
        """Raises `UsageError` where weights are named, or the extra is not installed."""
        if weights is not None:
            raise UsageError(f"ocr has networks of its own: leave out ocr={weights}")
        networks()
        return cls(package=importlib.metadata.version("rapidocr"))

    @property
    def model_id(self) -> str:
        return model_id(
            "ppocrv6_small",
            weights=self.package,
            views=[view_to_json(view) for view in self.views],
            version=self.version,
            settings=[self.least_score, ALIKE],
        )

    def load(self, device: str, *, compiled: bool = False) -> Network:  # noqa: ARG002  another runtime than torch
        """Raises `UsageError` where this node lacks the extra, `WeightsError` where it has another version of it."""
        files = networks()
        if (here := importlib.metadata.version("rapidocr")) != self.package:
            raise WeightsError(f"this node has rapidocr {here}, the driver {self.package}: install the same everywhere")
        return _Reader(files, device, least_score=self.least_score)

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:  # noqa: ARG002
        """The segments' spans, those joined that go on across a border."""
        found = rows[TEXT.name].sort_by([("start_us", "ascending"), ("number", "ascending")])
        spans = zip(*(found[name].to_pylist() for name in ("start_us", "end_us", "text")), strict=True)
        return {TEXT.name: _rows(joined(spans, at=set(rows[LEDGER.name]["start_us"].to_pylist())))}


def networks() -> tuple[Path, ...]:
    """The files of `_FILES` on this node. Raises `UsageError` where the extra is not installed."""
    package = importlib.util.find_spec("rapidocr")
    if package is None or package.origin is None or importlib.util.find_spec("onnxruntime") is None:
        raise UsageError("ocr needs packages that are not installed: pip install 'vidproc[ocr]'")
    found = tuple(Path(package.origin).parent / "models" / name for name in _FILES)
    if missing := [file.name for file in found if not file.exists()]:
        raise UsageError(f"this version of rapidocr brings no {', '.join(missing)}: pip install 'vidproc[ocr]'")
    return found


class _Reader:
    def __init__(self, files: Sequence[Path], device: str, *, least_score: float) -> None:
        import onnxruntime
        import torch
        from rapidocr import RapidOCR

        finder, reader = files
        runtime = "EngineConfig.onnxruntime"
        # PyPI's onnxruntime knows no GPU; onnxruntime-gpu has the same module
        on_gpu = device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        self.read: Any = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": least_score,
                "Global.use_cls": False,  # whether a line is upside down: in videos it hardly ever is
                "Det.model_path": str(finder),
                "Rec.model_path": str(reader),
                f"{runtime}.intra_op_num_threads": torch.get_num_threads(),
                f"{runtime}.use_cuda": on_gpu,
                # lines differ in width: a search for the fastest algorithm would be one for each
                f"{runtime}.cuda_ep_cfg.cudnn_conv_algo_search": "HEURISTIC",
            }
        )

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """Rows of lines that stay within each segment as they are."""
        return [self._annotation(segment.get(PictureText.view)) for segment in segments]

    def _annotation(self, frames: Samples | None) -> Annotation:
        if frames is None:
            return Annotation(rows={TEXT.name: no_rows(TEXT)})
        lines = [
            (start, end, text)
            for picture, start, end in zip(frames.data, frames.start_us.tolist(), frames.end_us.tolist(), strict=True)
            for text in self._lines(picture, frames.shown)
        ]
        spans = joined(lines)
        reason = TooLarge.reason if len(spans) > MOST_SPANS else None
        return Annotation(rows={TEXT.name: _rows(spans[:MOST_SPANS])}, samples=len(frames), reason=reason)

    def _lines(self, frame: npt.NDArray[np.uint8], shown: tuple[int, int] | None) -> list[str]:
        """Of one frame, uint8 [height, width, RGB], from the upper left."""
        if shown is not None:
            lies = place(PictureText.view.picture, shown)
            frame = frame[: max(lies.height, lies.width // _THINNEST), : max(lies.width, lies.height // _THINNEST)]
        found = self.read(np.ascontiguousarray(frame[..., ::-1]))  # which wants BGR
        texts = (sanitised(text, most=_MOST_CHARACTERS) for text in found.txts or ())
        return [text for text in texts if text]


def _rows(spans: Sequence[Span]) -> pa.Table:
    together = groupby(start for start, _, _ in spans)
    columns = {
        "start_us": [start for start, _, _ in spans],
        "end_us": [end for _, end, _ in spans],
        "source": ["picture"] * len(spans),
        "stream": [0] * len(spans),
        "number": [number for _, starts in together for number, _ in enumerate(starts)],
        "name": [None] * len(spans),
        "language": [None] * len(spans),
        "text": [text for _, _, text in spans],
    }
    return rows_of(TEXT, columns)


@dataclass
class _Standing:
    """A line that was read in every frame since `start_us`, and for how long as what. `order`: of its first reading."""

    order: int
    start_us: int
    end_us: int
    readings: Counter[str]

    def __post_init__(self) -> None:
        self.text = self.readings.most_common(1)[0][0]
        # spaces between words are what readers get wrong most
        self.key = "".join(self.text.casefold().split())
        self.digits = [character for character in self.key if character.isdecimal()]


def joined(lines: Iterable[Span], *, at: Collection[int] | None = None) -> list[Span]:
    """Lines sorted by start, those joined that follow each other without a gap and read alike; in the same order.

    `at`: the only times, µs, at which any are joined; None: all.
    """
    over: list[tuple[int, Span]] = []
    standing: list[_Standing] = []
    for start, together in groupby(enumerate(lines), key=lambda numbered: numbered[1][0]):
        fresh = [_Standing(order, start, end, Counter({text: end - start})) for order, (_, end, text) in together]
        ending = [one for one in standing if one.end_us == start] if at is None or start in at else []
        pairs = _pairs(ending, fresh)
        continued = {before.order for before, _ in pairs}
        over += [
            (one.order, (one.start_us, one.end_us, one.text))
            for one in standing
            if one.end_us <= start and one.order not in continued
        ]
        standing = [one for one in standing if one.end_us > start]
        longer = {
            line.order: _Standing(before.order, before.start_us, line.end_us, before.readings + line.readings)
            for before, line in pairs
        }
        standing += [longer.get(line.order, line) for line in fresh]
    over += [(one.order, (one.start_us, one.end_us, one.text)) for one in standing]
    return [span for _, span in sorted(over, key=lambda numbered: numbered[0])]


def _pairs(before: Sequence[_Standing], after: Sequence[_Standing]) -> list[tuple[_Standing, _Standing]]:
    """Which lines go on as which, each once: equal ones first, then those that are most alike, with the same digits."""
    left, found, others = list(before), [], []
    for line in after:
        same = next((one for one in left if one.key == line.key), None)
        if same is None:
            others.append(line)
        else:
            left.remove(same)
            found.append((same, line))
    if not 0 < len(left) * len(others) <= _MOST_PAIRS:
        return found
    for line in others:
        pair, best, chosen = SequenceMatcher(None, "", line.key, autojunk=False), ALIKE, None
        for one in left:
            pair.set_seq1(one.key)
            if one.digits == line.digits and pair.quick_ratio() >= best and (alike := pair.ratio()) >= best:
                best, chosen = alike, one
        if chosen is not None:
            left.remove(chosen)
            found.append((chosen, line))
    return found
