"""Text streams through the guard, segment by segment: every span once, exact, whatever else is decoded with it."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from decoding import SHARED, decode_all, source_of
from made_subtitles import Cue, Track, cue, make_subtitled

from vidproc.errors import Damaged, KilledWorker, NoStreams
from vidproc.media import samples, subtitles
from vidproc.media.answers import checked_answer, checked_text
from vidproc.media.decode import layout, request_of
from vidproc.media.glimpse import probed
from vidproc.media.guard import Guard, run_verified
from vidproc.media.samples import CHAPTER, TextSpan, text_bytes, text_samples
from vidproc.media.sampling import Span, segments
from vidproc.media.sources import open_source
from vidproc.media.subtitles import SegmentText
from vidproc.views import Audio, Frames, Picture, Text, View, view_from_json, view_to_json

FRAMES = Frames(fps=2, picture=Picture(resize=(24, 32)))
MINUTE = [
    (0, 400, "at once"),
    (500, 1500, "first"),
    (1_000, 3_000, "over the first"),
    (28_900, 600, "before the border"),
    (29_500, 2_500, "across the border"),
    (29_999, 100, "just before"),
    (30_000, 1_000, "on the border"),
    (30_000, 900, "on the border, too"),
    (31_500, 70_000, "longer than the video"),
    (59_999, 1, "a millisecond"),
    (60_000, 3_500, "at the next border"),
    (64_100, 500, "near the end"),
]


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


class Read:
    """A file's text as the pipeline reads it: its facts, and of every segment the spans, the answer and the pixels."""

    def __init__(self, guard: Guard, path: Path, *views: View, only: Sequence[int] | None = None) -> None:
        source = source_of(path)
        self.facts = probed(guard, source)
        self.video = Span(self.facts["start_us"], self.facts["end_us"])
        self.spans: list[TextSpan] = []
        self.answers: list[dict[str, Any]] = []
        self.whole = True
        views = views or (Text(),)
        for number, segment in enumerate(segments(self.video)):
            if only is None or number in only:
                self._read(guard, source, views, segment)

    def _read(self, guard: Guard, source: Any, views: Sequence[View], segment: Span) -> None:
        places, size = layout(views, video=self.video, segment=segment, still=self.facts["still"])
        request = request_of(views, self.facts, segment=segment)
        with open_source(source) as opened:
            answer, _ = run_verified(guard, "decode", request, opened, output_bytes=size)
        checked_answer(answer, views, [shape for _, shape in places])
        self.answers.append(answer)
        if Text() not in views:
            return
        spans, whole = checked_text(answer, video=self.video, segment=segment)
        self.spans += spans
        self.whole &= whole

    def of(self, stream: int) -> list[tuple[int, int, str]]:
        return [(span.start_us, span.end_us, span.text) for span in self.spans if span.stream == stream]


def expected(cues: Sequence[tuple[int, int, str]], *, end_ms: int) -> list[tuple[int, int, str]]:
    return [(start * 1000, min(start + length, end_ms) * 1000, text) for start, length, text in cues]


def by_ffmpeg(path: Path, stream_index: int) -> list[tuple[int, int, str]]:
    """All spans of one stream in µs, as FFmpeg's own decoders read them: (start, end, text). Independent of ours."""
    found = []
    with av.open(str(path), metadata_errors="ignore") as container:
        stream: Any = container.streams[stream_index]
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            decoded = stream.codec_context.decode2(packet)
            text = "\n".join(rect.ass.decode().split(",", 8)[-1] for rect in decoded) if decoded else ""
            text = re.sub(r"\{\\[^}]*\}", "", text).replace("\\N", "\n").replace("\\{", "{").replace("\\}", "}").strip()
            start, end = (Fraction(time) * packet.time_base for time in (packet.pts, packet.pts + packet.duration))
            if text:
                found.append((int(start * 1_000_000), int(end * 1_000_000), text))
    return found


def lateness_ms(path: Path) -> int:
    """How far behind its time, by the frames before it, a text packet lies at the most."""
    most, now = 0, 0
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.dts is not None and packet.stream_index == 0:
                now = packet.dts
            elif packet.dts is not None:
                most = max(most, now - packet.dts)
    return most


@pytest.mark.parametrize(
    "kind",
    [("mkv", "subrip", "libx264"), ("mkv", "ass", "mpeg4"), ("webm", "webvtt", "libvpx"), ("mkv", "webvtt", "libx264")],
)
@pytest.mark.parametrize("late_ms", [0, 1_500], ids=["in_order", "late"])
def test_every_span_is_found_once_with_its_exact_times(
    guard: Guard, tmp_path: Path, kind: tuple[str, str, str], late_ms: int
) -> None:
    ending, codec, picture = kind
    track = Track(codec, [cue(codec, *given) for given in MINUTE])
    path = make_subtitled(tmp_path / f"a.{ending}", [track], seconds=65, picture=picture, late_ms=late_ms)
    read = Read(guard, path)
    assert read.video == Span(0, 65_000_000) and read.whole
    assert read.of(1) == expected(MINUTE, end_ms=65_000)
    assert [(start, text) for start, _, text in read.of(1)] == [(start, text) for start, _, text in by_ffmpeg(path, 1)]
    assert late_ms == 0 or lateness_ms(path) >= 400, "the muxer has put them in order"


def test_timed_text_of_mp4(guard: Guard, tmp_path: Path) -> None:
    """It has no gaps and no overlaps: a packet without text ends the one before."""
    cues = [(start, 700, f"line {start}") for start in range(500, 64_000, 1_300)]
    gaps = [(start + 700, 600, "") for start, _, _ in cues]
    given = sorted(cues + gaps)
    path = make_subtitled(
        tmp_path / "a.mp4", [Track("mov_text", [cue("mov_text", *one) for one in given], "ger")], seconds=65
    )
    read = Read(guard, path)
    assert read.of(1) == expected(cues, end_ms=65_000) == by_ffmpeg(path, 1)
    assert {span.language for span in read.spans} == {"ger"}


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_two_streams_each_with_its_language(guard: Guard, tmp_path: Path, name: str) -> None:
    codecs = ("mov_text", "mov_text") if name == "a.mp4" else ("subrip", "ass")
    tracks = [
        Track(codec, [cue(codec, at, 900, f"{language} {at}") for at in range(1_000, 39_000, 2_000)], language)
        for codec, language in zip(codecs, ("eng", "fre"), strict=True)
    ]
    path = make_subtitled(tmp_path / name, tracks, seconds=40)
    read = Read(guard, path)
    for stream, language in ((1, "eng"), (2, "fre")):
        times = range(1_000, 39_000, 2_000)
        assert read.of(stream) == [(at * 1000, at * 1000 + 900_000, f"{language} {at}") for at in times]
        assert {span.language for span in read.spans if span.stream == stream} == {language}


def test_text_changes_nothing_of_pixels_and_sound_and_they_nothing_of_it(guard: Guard, tmp_path: Path) -> None:
    track = Track("subrip", [cue("subrip", *given) for given in MINUTE])
    path = make_subtitled(tmp_path / "a.mkv", [track], seconds=65, sound=True)
    facts = probed(guard, source_of(path))
    plain = decode_all(guard, path, [FRAMES, Audio()], facts)
    both = decode_all(guard, path, [FRAMES, Audio(), Text()], facts)
    for view in (0, 1):
        np.testing.assert_array_equal(plain.joined(view), both.joined(view))
    assert plain.frame_us == [times[:2] for times in both.frame_us]
    assert [answer["coverage"] for answer in plain.answers] == [answer["coverage"] for answer in both.answers]
    assert Read(guard, path, FRAMES, Audio(), Text()).spans == Read(guard, path).spans
    assert all("text" not in answer for answer in plain.answers)


def test_sparse_text_does_not_make_a_segment_read_the_whole_file(guard: Guard, tmp_path: Path) -> None:
    track = Track("subrip", [cue("subrip", 1_000, 500, "first"), cue("subrip", 145_000, 500, "last")])
    path = make_subtitled(tmp_path / "a.mkv", [track], seconds=150, sound=True)
    read = Read(guard, path, only=[0, 2, 4])
    size = path.stat().st_size
    assert [span.text for span in read.spans] == ["first", "last"]
    assert size > 2_500_000
    assert all(answer["bytes_read"] < size / 2 for answer in read.answers), [a["bytes_read"] for a in read.answers]
    assert all(answer["frames"] == 0 for answer in read.answers), "pictures that nobody asked for are not decoded"


def test_frames_far_apart_do_not_cut_the_text_short(guard: Guard, tmp_path: Path) -> None:
    """The last frame that is wanted lies long before the segment's end."""
    track = Track("subrip", [cue("subrip", *given) for given in MINUTE])
    path = make_subtitled(tmp_path / "a.mkv", [track], seconds=65)
    rare = Frames(fps=0.05, picture=FRAMES.picture)
    assert Read(guard, path, rare, Text()).spans == Read(guard, path).spans
    plain = decode_all(guard, path, [rare], probed(guard, source_of(path)))
    frames = [answer["frames"] for answer in Read(guard, path, rare, Text()).answers]
    assert frames == [answer["frames"] for answer in plain.answers], "what is read on for text is not decoded"


def test_a_video_that_begins_late_or_ends_early_holds_its_text(guard: Guard, tmp_path: Path) -> None:
    """What shows before the video begins is cut; what is over by then, or starts after its end, belongs to nothing."""
    given = [
        (100, 500, "over"),
        (4_000, 2_000, "on already"),
        (5_500, 500, "inside"),
        (9_900, 900, "cut"),
        (10_000, 5, "late"),
    ]
    track = Track("subrip", [cue("subrip", *one) for one in given])
    path = make_subtitled(tmp_path / "a.mkv", [track], seconds=5, start_ms=5_000)
    read = Read(guard, path)
    assert read.video == Span(5_000_000, 10_000_000)
    assert read.of(1) == [
        (5_000_000, 6_000_000, "on already"),
        (5_500_000, 6_000_000, "inside"),
        (9_900_000, 10_000_000, "cut"),
    ]


def test_without_a_length_a_span_lasts_until_the_next_of_its_stream(guard: Guard, tmp_path: Path) -> None:
    cues = [Cue(1_000, 0, b"one"), Cue(4_000, 0, b"two"), Cue(29_000, 0, b"three"), Cue(31_000, 0, b"four")]
    path = make_subtitled(tmp_path / "a.mkv", [Track("subrip", cues)], seconds=35)
    found = [(start // 1000, end // 1000) for start, end, _ in Read(guard, path).of(1)]
    assert found == [(1_000, 4_000), (4_000, 29_000), (29_000, 31_000), (31_000, 35_000)]


@pytest.mark.parametrize("picture", [None, "libx264"], ids=["sound_only", "picture"])
def test_sound_with_text(guard: Guard, tmp_path: Path, picture: str | None) -> None:
    track = Track("subrip", [cue("subrip", *given) for given in MINUTE])
    path = make_subtitled(tmp_path / "a.mkv", [track], seconds=65, picture=picture, sound=True)
    read = Read(guard, path)
    assert read.of(2 if picture else 1) == expected(MINUTE, end_ms=65_000)
    assert read.facts["has_audio"] and read.facts["has_text"] and read.facts["has_picture"] is (picture is not None)


def test_text_alone_is_a_video_of_its_own_length(guard: Guard, tmp_path: Path) -> None:
    given = [(1_000, 2_000, "one"), (29_000, 12_000, "long"), (45_000, 20_000, "last")]
    path = make_subtitled(
        tmp_path / "a.mkv", [Track("subrip", [cue("subrip", *one) for one in given])], seconds=0, picture=None
    )
    read = Read(guard, path)
    assert (read.facts["has_picture"], read.facts["has_audio"], read.facts["codec"]) == (False, False, "srt")
    assert read.video == Span(1_000_000, 65_000_000)
    assert read.of(0) == expected(given, end_ms=65_000)


def test_a_container_with_an_empty_text_stream_alone_holds_nothing(guard: Guard, tmp_path: Path) -> None:
    path = make_subtitled(tmp_path / "a.mkv", [Track("subrip", [])], seconds=0, picture=None)
    with pytest.raises((NoStreams, Damaged)):
        probed(guard, source_of(path))


def test_chapters_and_their_titles(guard: Guard, tmp_path: Path) -> None:
    chapters = [(0, 12_000, "The <i>start</i>"), (12_000, 30_000, None), (30_000, 99_000, "The\x07 end")]
    path = make_subtitled(tmp_path / "a.mkv", [], seconds=40, chapters=chapters)
    read = Read(guard, path)
    assert read.facts["has_text"] and not read.facts["has_subtitles"]
    assert read.of(CHAPTER) == [(0, 12_000_000, "The <i>start</i>"), (30_000_000, 40_000_000, "The end")]


def test_a_video_without_text_says_so(guard: Guard, tmp_path: Path) -> None:
    path = make_subtitled(tmp_path / "a.mp4", [], seconds=2)
    read = Read(guard, path)
    assert not read.facts["has_text"] and read.spans == []


def test_subtitles_that_are_pictures_are_no_text(guard: Guard, tmp_path: Path) -> None:
    path = make_subtitled(tmp_path / "a.mkv", [Track("hdmv_pgs_subtitle", [Cue(500, 500, b"\x80\x00\x00")])], seconds=2)
    read = Read(guard, path)
    assert read.facts["has_subtitles"] and not read.facts["has_text"]
    assert read.spans == []


def test_hostile_text(guard: Guard, tmp_path: Path) -> None:
    payloads = [
        b"caf\xe9 \xff\xfe",
        b"<i>" * 20_000 + b"deep" + b"</i>" * 20_000,
        b"nul\x00 bell\x07 esc\x1b[31m red \xe2\x80\xae gnirts",
        b"{" * 60_000,
        b"x" * 5_000_000,
        b"&#0;&#55296;&lt;b&gt;&amp;lt;",
        b"",
        b"<script>alert(1)</script>'; DROP TABLE text; --",
    ]
    cues = [Cue(i * 200, 100, payload) for i, payload in enumerate(payloads)]
    path = make_subtitled(tmp_path / "a.mkv", [Track("subrip", cues)], seconds=2)
    said = {start // 200_000: text for start, _, text in Read(guard, path).of(1)}
    assert said[0] == "caf\ufffd \ufffd\ufffd"
    assert said[2] == "nul bell esc[31m red gnirts"
    assert said[4] == "x" * 2_000
    assert said[5] == "\ufffd\ufffd<b>&lt;"
    assert said[7] == "alert(1)'; DROP TABLE text; --"
    assert all(len(text) <= 2_000 for text in said.values()) and 6 not in said


def test_a_file_cut_off_keeps_the_text_before_the_cut(guard: Guard, tmp_path: Path) -> None:
    track = Track("subrip", [cue("subrip", at, 500, str(at)) for at in range(0, 20_000, 1_000)])
    path = make_subtitled(tmp_path / "a.mkv", [track], seconds=20)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    read = Read(guard, path)
    starts = [start for start, _, _ in read.of(1)]
    assert 5 <= len(starts) < 20 and starts == [at * 1_000_000 for at in range(len(starts))]
    assert all(end <= read.video.end_us for _, end, _ in read.of(1))


# --- limits, and answers that are not believed --------------------------------------------------------------------


def packet(start_ms: int, payload: bytes, *, index: int = 1) -> Any:
    class Fake(SimpleNamespace):
        def __bytes__(self) -> bytes:
            return payload

    context = SimpleNamespace(name="srt")
    return Fake(stream_index=index, pts=start_ms, duration=100, stream=SimpleNamespace(codec_context=context))


def gathered(monkeypatch: pytest.MonkeyPatch, packets: Sequence[Any], **limits: int) -> SegmentText:
    for name, value in limits.items():
        monkeypatch.setattr(subtitles, name, value)
    text = SegmentText(Span(0, 30_000_000), Span(0, 30_000_000))
    text.follow([SimpleNamespace(index=1, time_base=Fraction(1, 1000), language="eng")])
    for one in packets:
        text.add(one)
    return text


def test_more_text_than_the_limits_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    packets = [packet(i * 100, b"word") for i in range(10)]
    text = gathered(monkeypatch, packets)
    assert len(text.spans()) == 10 and text.whole
    text = gathered(monkeypatch, packets, MOST_SPANS=7)
    assert len(text.spans()) == 7 and not text.whole
    text = gathered(monkeypatch, packets, MOST_SPANS=100, MOST_SEGMENT_CHARACTERS=30)
    assert len(text.spans()) == 7 and not text.whole


SPAN = [1, 1_000, 2_000, "eng", "text"]
WRONG: list[list[Any]] = [
    [-6, 1 << 40, "1"],
    [-1, 30_000_000, 2_000, 1.5],
    [60_000_001, None],
    [None, 5],
    [None, ["x"]],
]


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {"spans": [SPAN]},
        {"spans": [SPAN], "whole": 1},
        {"spans": SPAN, "whole": True},
        {"spans": [SPAN] * (samples.MOST_SPANS + 1), "whole": True},
        {"spans": [[1, 0, 1000, "", "x" * 2_000]] * 300, "whole": True},
        *[
            {"spans": [[*SPAN[:place], value, *SPAN[place + 1 :]]], "whole": True}
            for place, values in enumerate(WRONG)
            for value in values
        ],
    ],
)
def test_a_child_s_answer_about_text_is_not_believed_blindly(told: Any) -> None:
    with pytest.raises(KilledWorker):
        checked_text({"text": told}, video=Span(0, 60_000_000), segment=Span(0, 30_000_000))


def test_a_child_s_text_is_cleaned_again() -> None:
    told = {
        "spans": [[1, 0, 5, "en\x00g" * 50, "a\ud800\x1b\u202eb" + "c" * 9_000], [1, 0, 5, "", "\x00"]],
        "whole": True,
    }
    [span], whole = checked_text({"text": told}, video=Span(0, 10), segment=Span(0, 10))
    assert whole and span.text.startswith("abc") and len(span.text) == 2_000
    assert len(span.language) <= samples.MOST_LANGUAGE and span.language.isprintable()


def test_text_travels_to_the_networks_as_it_was() -> None:
    spans = [TextSpan(2, 5, 9, "eng", "one\ntwo \U0001f600"), TextSpan(CHAPTER, 0, 10, "", "é")]
    found = text_samples(text_bytes(spans, whole=False))
    assert found.start_us.tolist() == [5, 0] and found.end_us.tolist() == [9, 10] and not found.whole
    assert found.data.tolist() == [(2, "eng", "one\ntwo \U0001f600"), (CHAPTER, "", "é")]
    assert len(text_samples(text_bytes([], whole=True))) == 0


def test_the_view_as_json() -> None:
    assert view_to_json(Text()) == '{"kind": "text"}'
    assert view_from_json('{"kind": "text"}') == Text()


# --- real files ---------------------------------------------------------------------------------------------------

NASA = [
    (210_000, 4_260_000, "NAR: This is the optical and science segment of the Webb"),
    (4_260_000, 8_350_000, "space telescope in one of the largest cleanrooms in the world"),
    (8_350_000, 12_470_000, "at NASA\u2019s Goddard Space Flight Center in Greenbelt, Maryland."),
    (12_470_000, 16_570_000, "This half of the observatory element successfully"),
]
REAL = {
    "subtitles/exo_sample_with_srt.mkv": {2: ("eng", [(0, 1_234_000, "This is the first subtitle.")])},
    "subtitles/exo_sample_with_ssa.mkv": {2: ("", [(0, 500_000, "This is the first subtitle.")])},
    "nasa_13013.mp4": {2: ("eng", NASA), 5: ("eng", NASA)},
}


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
@pytest.mark.parametrize("name", REAL)
def test_real_subtitles_read_by_hand(guard: Guard, name: str) -> None:
    """Exact, but for what shows before the picture begins or after it has ended."""
    path = SHARED / "videos" / name
    read = Read(guard, path)
    start, end = read.video.start_us, read.video.end_us
    assert {span.stream for span in read.spans} == set(REAL[name])
    for stream, (language, lines) in REAL[name].items():
        assert by_ffmpeg(path, stream) == lines
        assert read.of(stream) == [(max(at, start), min(until, end), text) for at, until, text in lines]
        assert {span.language for span in read.spans if span.stream == stream} == {language}
