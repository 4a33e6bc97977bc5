"""Captions of real and made videos through the guard, segment by segment, held to FFmpeg's own decoder."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from decoding import SHARED
from made_captions import (
    CR,
    EDM,
    NOTHING,
    RDC,
    Pair,
    channel_2,
    in_h264,
    make_captioned,
    popped,
    rolled,
    row,
    triplets,
    twice,
    typed,
)
from test_subtitles import FRAMES, Read

from vidproc.media.captions import LONGEST_CAPTION_US
from vidproc.media.guard import Guard
from vidproc.media.line21 import Line21
from vidproc.media.markup import sanitised
from vidproc.media.sampling import SEGMENT_US
from vidproc.views import Audio, Text

FPS = 30
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "nobody", "asked", "it", "why"]


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


def placed(*captions: tuple[float, list[Pair]], seconds: float) -> list[Pair]:
    """Pairs by picture: each caption's begin at its time, or when the one before has been sent."""
    pairs: list[Pair] = []
    for at_s, caption in captions:
        pairs += [NOTHING] * (round(at_s * FPS) - len(pairs)) + caption
    return pairs + [NOTHING] * (round(seconds * FPS) - len(pairs))


def said(seed: int, *, seconds: float) -> list[Pair]:
    """Captions of all kinds at all times."""
    chance, at_s, captions = random.Random(seed), 0.5, []
    while at_s < seconds - 8:
        line = " ".join(chance.choices(WORDS, k=chance.randrange(1, 6)))[:31]
        kinds = [
            popped(line),
            popped(line, line[::-1]),
            rolled(line),
            twice(RDC, row(15), EDM) + typed(line),
            channel_2(popped(line, first=15)),
        ]
        captions.append((at_s, chance.choice(kinds) + (twice(EDM) if chance.random() < 0.2 else [])))
        at_s += chance.choice([0.1, 1, 3, 6])
    return placed(*captions, seconds=seconds)


def expected(first: list[Pair], second: list[Pair] | None = None) -> list[tuple[int, int, int, str]]:
    """All of it, read in one go: (stream, start, end, text)."""
    line = Line21(known=True)
    for number, pair in enumerate(first):
        line.feed(round(number * 1e6 / FPS), triplets(pair, second[number] if second is not None else None))
    end_us = round(len(first) * 1e6 / FPS)
    line.finish(end_us)
    found = [(-1 - channel, start, end, sanitised(text, most=2_000)) for channel, start, end, text in line.captions]
    return sorted(found, key=lambda one: (one[1], -one[0]))


def found(read: Read) -> list[tuple[int, int, int, str]]:
    spans = [(span.stream, span.start_us, span.end_us, span.text) for span in read.spans]
    return sorted(spans, key=lambda one: (one[1], -one[0]))


def by_ffmpeg(path: Path) -> list[tuple[int, int, str]]:
    """The first channel as FFmpeg reads it: start and end in ms, and the text."""
    told = []
    with av.open(f"movie={path}[out0+subcc]", format="lavfi") as container:
        stream: Any = container.streams[1]
        for packet in container.demux(stream):
            decoded = stream.codec_context.decode2(packet) if packet.pts is not None else None
            if decoded:
                text = "\n".join(rect.ass.decode().split(",", 8)[-1] for rect in decoded)
                plain = re.sub(r"\{\\[^}]*\}", "", text).replace("\\N", "\n").replace("\\h", " ")
                start_ms = round(decoded.pts / 1000)
                told.append((start_ms, start_ms + decoded.end_display_time, sanitised(plain, most=2_000)))
    return told


@pytest.mark.skipif(not SHARED.exists(), reason="needs shared data")
@pytest.mark.parametrize(
    "views", [(), (Text(), FRAMES), (Text(), Audio(rate=8_000, channels=1))], ids=["text", "pictures", "sound"]
)
def test_real_captions(guard: Guard, views: Any) -> None:
    path = SHARED / "videos/subtitles/sintel-captions.ts"
    read = Read(guard, path, *views)
    assert read.facts["has_subtitles"] and read.facts["has_text_stream"] and read.whole
    assert [(span.stream, span.start_us, span.end_us, span.text) for span in read.spans] == [
        (-2, 11_000_000, 14_000_000, "ASUKA ███, ██ f Japanese"),
        (-2, 15_000_000, 16_958_333, '██ ██████████, ███ "█████ ███\n█████████ ████████ ██\n███████████".'),
        (-2, 16_958_333, 20_000_000, "█ █ █"),
    ]
    ours = [(round(s.start_us / 1000), round(s.end_us / 1000), s.text) for s in read.spans]
    assert ours[:2] == by_ffmpeg(path), "which tells no caption that is still shown at the end"


def test_pop_on_captions_are_those_that_ffmpeg_reads(guard: Guard, tmp_path: Path) -> None:
    chance = random.Random(1)
    captions = [
        (1 + 2 * number, popped(*(" ".join(chance.choices(WORDS, k=3)) for _ in range(chance.randrange(1, 3)))))
        for number in range(16)
    ]
    pairs = placed(*captions, (34, twice(EDM)), seconds=36)
    path = make_captioned(tmp_path / "a.ts", [triplets(pair) for pair in pairs])
    ours = [(round(s.start_us / 1000), round(s.end_us / 1000), s.text) for s in Read(guard, path).spans]
    theirs = by_ffmpeg(path)
    assert len(theirs) == 16 and [one[2] for one in ours] == [one[2] for one in theirs]
    assert all(
        abs(a - b) <= 1
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one[:2], other[:2], strict=True)
    )


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "libx264"), ("a.mp4", "libx264"), ("a.ts", "libx264"), ("a.mkv", "mpeg2video")]
)
def test_segments_read_what_one_reading_of_the_whole_finds(guard: Guard, tmp_path: Path, name: str, codec: str) -> None:
    first, second = said(2, seconds=95), said(3, seconds=95)
    pictures = [triplets(*pairs) for pairs in zip(first, second, strict=True)]
    path = make_captioned(tmp_path / name, pictures, codec=codec)
    wanted = expected(first, second)
    assert {one[0] for one in wanted} == {-2, -3, -4, -5} and len(wanted) > 60
    shift_us = (read := Read(guard, path)).facts["start_us"]
    wanted = [(stream, start + shift_us, end + shift_us, text) for stream, start, end, text in wanted]
    assert_near(found(read), wanted)
    both, pictures = Read(guard, path, Text(), FRAMES), Read(guard, path, FRAMES)
    assert_near(found(both), wanted)
    for one, other in zip(both.answers, pictures.answers, strict=True):
        assert one["frame_us"][1] == other["frame_us"][0] and one["frames"] <= other["frames"] + 2 * FPS


def assert_near(ours: Any, wanted: Any) -> None:
    """The same, but for the rounding of time stamps."""
    assert [(one[0], one[3]) for one in ours] == [(one[0], one[3]) for one in wanted]
    assert (
        max(
            abs(a - b)
            for one, other in zip(ours, wanted, strict=True)
            for a, b in zip(one[1:3], other[1:3], strict=True)
        )
        < 1_000
    )


def test_a_caption_that_was_loaded_long_before_it_is_shown(guard: Guard, tmp_path: Path) -> None:
    """Nothing is erased before it: what is loaded must be known from as far back."""
    loaded = popped("early", cleared=False)
    pairs = placed((1, popped("one", cleared=False)), (9, loaded[:-2]), (33, loaded[-2:]), seconds=40)
    path = make_captioned(tmp_path / "a.mkv", [triplets(pair) for pair in pairs])
    assert_near(found(Read(guard, path)), expected(pairs))
    assert [one[3] for one in found(Read(guard, path, only=[1]))] == ["early"]


def test_a_caption_that_is_never_erased_ends_in_time(guard: Guard, tmp_path: Path) -> None:
    pairs = placed((1, popped("for ever")), seconds=95)
    path = make_captioned(tmp_path / "a.mkv", [triplets(pair) for pair in pairs])
    ((_, start_us, end_us, text),) = found(Read(guard, path))
    assert text == "for ever" and start_us < SEGMENT_US and end_us == SEGMENT_US + LONGEST_CAPTION_US


@pytest.mark.parametrize("views", [(), (Text(), FRAMES)], ids=["text", "pictures"])
def test_a_caption_that_lasts_far_into_the_next_segment(guard: Guard, tmp_path: Path, views: Any) -> None:
    pairs = placed((25, popped("long")), (57, twice(EDM)), seconds=95)
    empty = b"\x00\x00\x00" * 3  # what some encoders fill up with
    path = make_captioned(tmp_path / "a.mkv", [empty + triplets(pair) for pair in pairs])
    assert_near(found(Read(guard, path, *views)), expected(pairs))


def test_captions_in_a_track_of_their_own(guard: Guard, tmp_path: Path) -> None:
    pairs = placed(*((1 + 3 * number, popped(f"line {number}")) for number in range(12)), seconds=40)
    source = make_captioned(tmp_path / "a.ts", [triplets(pair) for pair in pairs])
    path = tmp_path / "a.mov"
    with (
        av.open(f"movie={source}[out0+subcc]", format="lavfi") as given,
        av.open(str(source)) as pictures,
        av.open(str(path), "w") as out,
    ):
        into = [out.add_stream_from_template(given.streams[1]), out.add_stream_from_template(pictures.streams[0])]
        packets = [*given.demux(given.streams[1]), *pictures.demux(video=0)]
        for packet in sorted((p for p in packets if p.dts is not None), key=lambda p: p.dts * p.time_base):
            packet.stream = into[packet.stream.type == "video"]
            out.mux(packet)
    read = Read(guard, path)
    assert read.facts["has_captions"] and read.facts["has_text"]
    assert [one[3] for one in found(read)] == [f"line {number}" for number in range(12)]
    assert_near(found(read), [(-2, s, e, t) for _, s, e, t in found(Read(guard, source))])


def test_pictures_without_keyframes_are_those_that_are_decoded_without_captions(guard: Guard, tmp_path: Path) -> None:
    """They are refreshed bit by bit: the first passes come too late, and what goes further ahead must not be cut."""
    options = {"x264-params": "intra-refresh=1:keyint=118:bframes=0"}
    pictures = [triplets(pair) for pair in said(5, seconds=45)]
    path = make_captioned(tmp_path / "a.mkv", pictures, options=options, size=(1920, 48))
    both, alone = Read(guard, path, Text(), FRAMES), Read(guard, path, FRAMES)
    assert [one["frame_us"][1] for one in both.answers] == [one["frame_us"][0] for one in alone.answers]


def test_a_packet_full_of_messages_is_read_in_no_time(guard: Guard, tmp_path: Path) -> None:
    path = make_captioned(
        tmp_path / "a.mkv", [triplets(pair) for pair in placed((1, popped("line")), seconds=4)],
        mark=lambda packet, user: in_h264(packet, user) + b"\xb5\x00\x31GA94\x03\x5f" * 20_000,
    )  # fmt: skip
    assert [one[3] for one in found(Read(guard, path))] == ["line"]


def test_empty_captions_make_no_text_and_hostile_ones_no_harm(guard: Guard, tmp_path: Path) -> None:
    empty = Read(guard, make_captioned(tmp_path / "a.mkv", [triplets(NOTHING)] * 60))
    assert empty.facts["has_captions"] and empty.spans == [] and empty.whole
    none = Read(guard, make_captioned(tmp_path / "b.mkv", [b""] * 60))
    assert not none.facts["has_captions"] and not none.facts["has_text"]
    chance = random.Random(4)
    noise = [chance.randbytes(93) for _ in range(1_200)]
    hostile = Read(
        guard, make_captioned(tmp_path / "c.mkv", noise, mark=lambda p, user: in_h264(in_h264(p, user), user))
    )
    assert all(0 <= s.start_us < s.end_us <= 40_000_000 for s in hostile.spans)
    cut = make_captioned(
        tmp_path / "d.mkv", [triplets(CR)] * 60, mark=lambda p, user: p + b"\xb5\x00\x31" + user[: chance.randrange(9)]
    )
    assert Read(guard, cut).spans == []
