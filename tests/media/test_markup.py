"""Plain text from packets full of markup, and what no text may hold."""

import random
import time
import unicodedata

import pytest

from vidproc.media.markup import sanitised, shown

ASS = b"3,0,Default,Someone,0,0,0,,"
SHOWN = [
    ("srt", b"plain", "plain"),
    ("srt", b'<i>two</i>\r\n<font color="#fff">lines</font>', "two\nlines"),
    ("srt", b"{\\an8}top {literal} I <3 you, a < b > c", "top {literal} I <3 you, a < b > c"),
    ("srt", b"{y:i}micro", "micro"),
    ("srt", b"one<br>two<BR />three", "one\ntwo\nthree"),
    ("srt", b"Q&A &amp; &lt;b&gt; &copy &#233;", "Q&A & <b> &copy \u00e9"),
    ("srt", b"\xef\xbb\xbfmark", "mark"),
    ("srt", b"caf\xe9", "caf\ufffd"),
    ("webvtt", b"<v Mary>Hello <00:19.000><c.yellow>you</c>&nbsp;&lrm;there", "Hello you there"),
    ("ass", ASS + b"{\\i1}Hi, you{\\i0}\\Ntwo\\hwords\\nmore", "Hi, you\ntwo words more"),
    ("ass", ASS + b"{\\p1}m 0 0 l 9 9{\\p0}words{\\pos(1,2)\\p4}m 1 1", "words"),
    ("ass", ASS + b"{a comment}said \\{braced\\} {unclosed", "said {braced} {unclosed"),
    ("ass", b"0,0,Default ,Olly,,,,,This is it, all of it.", "This is it, all of it."),
    ("ass", b"Dialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,old", "old"),
    ("ass", b"no, event", ""),
    ("mov_text", b"\x00\x05hello\x00\x00\x00\x12styl", "hello"),
    ("mov_text", b"\x00\x06\xfe\xff\x00h\x00i", "hi"),
    ("mov_text", b"\x00\x06\xff\xfeh\x00i\x00", "hi"),
    ("mov_text", b"\xff\xffshort", "short"),
    ("mov_text", b"\x00\x00", ""),
    ("mov_text", b"\x00", ""),
]


@pytest.mark.parametrize(("codec", "payload", "text"), SHOWN)
def test_what_is_shown(codec: str, payload: bytes, text: str) -> None:
    assert shown(payload, codec) == text


def test_what_a_text_may_hold() -> None:
    said = " a\u00a0\tb \x00\x1b[0m\r\n\n \u2028c\u200b\u202e d\ufeff\u2066 \u200dx \U0001f469\u200d\U0001f680 \ud83d "
    assert sanitised(said, most=100) == "a b [0m\nc d \u200dx \U0001f469\u200d\U0001f680"
    assert sanitised("x" * 50, most=10) == "x" * 10
    assert sanitised("\U0010ffff\ufffe\ufdd0x", most=10).endswith("x")


def test_any_bytes_give_text_that_tables_hold() -> None:
    rng = random.Random(0)
    pieces = [
        b"<i>",
        b"{\\p1}",
        b"{",
        b"}",
        b"&lt;",
        b"&#x202e;",
        b"\xff",
        b"\x00",
        "\u202e\u200d\u2028\U0001f600".encode(),
        b",",
        b"\\N",
    ]
    for _ in range(300):
        payload = b"".join(rng.choice([*pieces, rng.randbytes(3), b"word "]) for _ in range(rng.randrange(60)))
        for codec in ("srt", "webvtt", "ass", "mov_text"):
            text = shown(payload, codec)
            text.encode()
            assert sanitised(text, most=2_000) == text
            kinds = {unicodedata.category(c) for c in text if c not in "\n\u200c\u200d"}
            assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}, (payload, text)


@pytest.mark.parametrize("piece", [b"{", b"{\\", b"{\\p1}", b"<a", b"<0", b"&a", b"&#", b"\\{", b"<i>", b"\n", b" "])
def test_long_markup_costs_no_more_than_its_length(piece: bytes) -> None:
    for codec, start in (("srt", b""), ("webvtt", b""), ("ass", ASS), ("mov_text", b"\xff\xff")):
        began = time.process_time()
        assert len(shown(start + piece * (2_000_000 // len(piece)), codec)) <= 2_000
        assert time.process_time() - began < 0.5
