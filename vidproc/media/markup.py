"""What a subtitle shows, as plain text: SubRip, WebVTT, ASS and MP4's timed text, without their markup.

The packets are read here and not by FFmpeg's decoders: those turn everything into ASS, where a brace that was typed can
no longer be told from one that is markup, and they refuse a packet whose UTF-8 is broken. Time grows with length alone.
"""

import html
import re
import unicodedata

MOST_CHARACTERS = 2_000
"""Of one span's text: what is longer is cut."""

_MOST_BYTES = 1 << 16
_NEW_LINES = re.compile("\r\n|[\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_BREAK = re.compile(r"<br\s?/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,500}>|<\d[\d:.]{3,20}>")  # the second: WebVTT's times inside a cue
_OVERRIDE = re.compile(r"\{(?:\\|[CcFfoPSsYy]:)[^{}]{0,500}\}")  # ASS's or MicroDVD's, which players take in SubRip
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_DRAWING = re.compile(r"\\p(\d)")
_JOINERS = "\u200c\u200d"
"""The only invisible format characters with a meaning of their own: in Persian, in Indian scripts, in emoji."""


def shown(payload: bytes, codec: str) -> str:
    """The text that a packet of one of `subtitles.CODECS` shows: lines apart by a line feed, "" if it shows none.

    Bytes that are no UTF-8 become U+FFFD.
    """
    payload = payload[:_MOST_BYTES]
    if codec in ("ass", "ssa"):
        text = _of_ass(_decoded(payload))
    elif codec == "mov_text":
        text = _without_tags(_of_timed_text(payload))
    else:
        text = _OVERRIDE.sub("", _without_tags(_decoded(payload)))
    return sanitised(_ENTITY.sub(lambda found: html.unescape(found[0]), text), most=MOST_CHARACTERS)


def sanitised(value: str, *, most: int) -> str:
    """At most `most` characters that every table can hold: the only control character is the line feed.

    Lines are trimmed, spaces single, empty lines left out; half surrogates and invisible format characters too, which
    could make a text look like another one. Applied twice it changes nothing more.
    """
    text = _NEW_LINES.sub("\n", value[: 4 * most])
    text = "".join(_kept(character) for character in text)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)[:most].rstrip()


def _kept(character: str) -> str:
    """The character, a space in place of any other blank, or nothing."""
    if character.isprintable() or character == "\n" or character in _JOINERS:
        return character
    kind = unicodedata.category(character)
    if kind == "Zs" or character == "\t":
        return " "
    unassigned = kind in ("Cn", "Co") and ord(character) & 0xFFFE != 0xFFFE  # newer than this Python's tables
    return character if unassigned else ""


def _without_tags(text: str) -> str:
    return _TAG.sub("", _BREAK.sub("\n", text))


def _decoded(payload: bytes) -> str:
    return payload.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")


def _of_timed_text(payload: bytes) -> str:
    """3GPP TS 26.245, 5.17: the text's length in 16 bits, the text in UTF-8, or in UTF-16 behind a mark; boxes."""
    text = payload[2 : 2 + int.from_bytes(payload[:2])]
    if text[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return text.decode("utf-16", errors="replace")
    return _decoded(text)


def _of_ass(event: str) -> str:
    """The ninth field of an event as Matroska stores it: order, layer, style, name, three margins, effect, text.

    What stands in braces is override codes or a comment; after `\\p1` come outlines to draw, up to `\\p0`.
    """
    before = 9 if event.startswith("Dialogue:") else 8  # the oldest files have the whole line, with its two times
    fields = event.split(",", before)
    if len(fields) <= before:
        return ""
    text = fields[before]
    pieces, drawing, at = [], False, 0
    while (start := _unescaped(text, at)) >= 0 and (end := text.find("}", start)) >= 0:
        pieces.append("" if drawing else text[at:start])
        for level in _DRAWING.findall(text, start, end):
            drawing = level != "0"
        at = end + 1
    pieces.append("" if drawing else text[at:])
    plain = "".join(pieces)
    for code, meaning in ((r"\N", "\n"), (r"\n", " "), (r"\h", " "), (r"\{", "{"), (r"\}", "}")):
        plain = plain.replace(code, meaning)
    return plain


def _unescaped(text: str, at: int) -> int:
    """Where the next brace opens that has no backslash before it; -1 if none does."""
    start = text.find("{", at)
    while start > at and text[start - 1] == "\\":
        start = text.find("{", start + 1)
    return start
