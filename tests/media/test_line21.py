"""CEA-608: what byte pairs show, and when."""

import random

import pytest
from made_captions import (
    BS,
    CR,
    DER,
    EDM,
    ENM,
    EOC,
    NOTHING,
    RCL,
    RDC,
    RU2,
    RU3,
    TR,
    Pair,
    channel_2,
    popped,
    rolled,
    row,
    triplets,
    twice,
    typed,
)

from vidproc.media.line21 import Caption, Line21


def shown(*pairs: list[Pair], second: bool = False, known: bool = True) -> list[Caption]:
    """All pairs one after the other, one each µs; then one more µs."""
    line, flat = Line21(known=known), [pair for some in pairs for pair in some]
    for time_us, pair in enumerate(flat):
        line.feed(time_us, triplets(None, pair) if second else triplets(pair))
    line.finish(len(flat))
    return line.captions


def texts(*pairs: list[Pair], second: bool = False) -> list[str]:
    return [caption.text for caption in shown(*pairs, second=second)]


def test_a_caption_pops_on_at_once_and_lasts_until_it_is_erased_or_the_next_is_flipped_in() -> None:
    one, two, three = popped("Hello", "you"), popped("next"), popped("last")
    pairs = [one, [NOTHING] * 5, two, [NOTHING] * 7, twice(EDM), [NOTHING] * 3, three]
    # The first of the two codes acts.
    at = [len(one) - 2, len(one) + 5 + len(two) - 2]
    erased = at[1] + 2 + 7
    last = erased + 2 + 3 + len(three) - 2
    assert shown(*pairs) == [
        Caption(1, at[0], at[1], "Hello\nyou"),
        Caption(1, at[1], erased, "next"),
        Caption(1, last, last + 2, "last"),
    ]


def test_what_was_shown_is_loaded_again_if_nobody_erases_it() -> None:
    assert texts(popped("one"), popped("two", first=15, cleared=False), popped("new", cleared=False)) == [
        "one", "two", "new",
    ]  # fmt: skip
    assert texts(popped("longer"), popped("b", first=15), popped("new", cleared=False)) == ["longer", "b", "newger"]


def test_lines_that_roll_up_are_told_once_each_from_their_first_character_until_they_leave() -> None:
    lines = [rolled("one"), rolled("two"), rolled("three")]
    starts = [6, len(lines[0]) + 6, len(lines[0]) + len(lines[1]) + 6]
    gone = starts[2] - 4  # by the carriage return before the third
    end = sum(map(len, lines))
    assert shown(*lines) == [
        Caption(1, starts[0], gone, "one"), Caption(1, starts[1], end, "two"), Caption(1, starts[2], end, "three")
    ]  # fmt: skip


def test_three_rows_and_a_window_that_moves() -> None:
    line = [twice(RU3, CR), typed("a"), twice(CR), typed("b"), twice(CR), typed("c"), twice(row(2)), typed("d")]
    found = shown(*line)
    # In row 2 the window has room for one row above it; the last row is written over.
    assert [caption.text for caption in found] == ["a", "b", "d"]
    assert found[0].end_us < found[1].end_us == found[2].end_us


def test_painted_on_text_is_one_caption_until_it_is_erased() -> None:
    pairs = [twice(RDC, row(14)), typed("first"), twice(row(15)), typed("second"), twice(EDM)]
    (caption,) = shown(*pairs)
    assert caption == Caption(1, 4, sum(map(len, pairs)) - 2, "first\nsecond")


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (typed("It's"), "It’s"),
        ([(0x2A, 0x5C), (0x5E, 0x5F), (0x60, 0x7B), (0x7C, 0x7D), (0x7E, 0x7F)], "áéíóúç÷Ññ█"),
        (twice((0x11, 0x37)) + typed(" la"), "♪ la"),
        (twice((0x11, 0x37), (0x11, 0x30)), "♪®"),
        (typed("A") + twice((0x12, 0x20)), "Á"),
        (typed("u!") + twice((0x12, 0x27)), "u¡"),
        (typed("Ab") + twice((0x13, 0x30)), "AÄ"),
        (typed("typo") + twice(BS) + typed("e"), "type"),
        (typed("keep not") + twice(row(14, indent=4), DER), "keep"),
        (typed("a") + twice((0x11, 0x2E)) + typed("b"), "a b"),
        (typed("a") + twice((0x17, 0x22)) + typed("b"), "a  b"),
        (twice(row(14, indent=28)) + typed("abcdef"), " " * 28 + "abcf"),
        (typed("one") + twice(row(14, indent=8)) + typed("two"), "one     two"),
        (typed("a") + twice(TR) + typed("other service") + twice(RCL) + typed("b"), "ab"),
    ],
)
def test_characters_and_codes(pairs: list[Pair], text: str) -> None:
    assert texts(twice(RCL, ENM, row(14)), pairs, twice(EOC)) == [text]


def test_a_code_that_came_three_times_acts_twice_and_nulls_do_not_count() -> None:
    assert texts(twice(RCL, row(14)), typed("abcd"), [BS] * 3, twice(EOC)) == ["ab"]
    assert texts(twice(RCL, row(14)), typed("abcd"), [BS, NOTHING, BS], twice(EOC)) == ["abc"]


def test_bytes_of_wrong_parity() -> None:
    line = Line21(known=True)
    for pair in twice(RCL, row(14)) + typed("ab"):
        line.feed(0, triplets(pair))
    line.feed(0, bytes([0xFC, 0x61 ^ 0x80, 0x62]))  # "a" is 0x61 with odd parity as it is
    line.feed(0, bytes([0xFC, 0x94, 0x2C ^ 0x80]))  # a code that nobody can be sure of
    line.feed(0, bytes([0xFC, 0x00, 0x00]))
    line.feed(1, triplets(EOC))
    line.finish(2)
    assert [caption.text for caption in line.captions] == ["ab█b"]


def test_four_channels() -> None:
    line = Line21(known=True)
    first = popped("one") + channel_2(popped("two"))
    second = [*popped("three"), (0x01, 0x03), *typed("Title"), (0x0F, 0x1D), *channel_2(popped("four"))]
    for number in range(max(len(first), len(second))):
        pairs = [some[number] if number < len(some) else NOTHING for some in (first, second)]
        line.feed(number, triplets(*pairs))
    line.finish(1_000)
    assert sorted((caption.channel, caption.text) for caption in line.captions) == [
        (1, "one"), (2, "two"), (3, "three"), (4, "four"),
    ]  # fmt: skip


def test_what_a_later_start_cannot_know_is_told() -> None:
    after = [popped("shown", cleared=False), popped("known")]
    line = Line21(known=False)
    flat = [pair for some in after for pair in some]
    for time_us, pair in enumerate(flat):
        line.feed(time_us, triplets(pair))
    assert line.unknown_us == len(after[0]) - 2
    assert Line21(known=True).unknown_us is None
    rolls = Line21(known=False)
    for time_us, pair in enumerate(twice(CR, row(15)) + typed("goes on")):
        rolls.feed(time_us, triplets(pair))
    rolls.finish(100)
    assert rolls.unknown_us == 0 and [caption.text for caption in rolls.captions] == ["goes on"]


def test_switching_to_rolling_up_erases_both_memories() -> None:
    pairs = [popped("old"), twice(RCL, ENM, row(14)), typed("loaded"), twice(RU2, CR), typed("new"), twice(EOC)]
    assert texts(*pairs) == ["old", "new"]


def late(pairs: dict[float, list[Pair]], *, start_s: float, end_s: float = 60) -> tuple[Line21, list[Caption]]:
    """What a reading from some time on finds, and what one of the whole finds; each text begins at its second."""
    whole, later = Line21(known=True), Line21(known=False)
    for at_s, some in pairs.items():
        for number, pair in enumerate(some):
            time_us = round(at_s * 1e6) + number * 33_333
            whole.feed(time_us, triplets(pair))
            if time_us >= start_s * 1e6:
                later.feed(time_us, triplets(pair))
    for line in (whole, later):
        line.finish(round(end_s * 1e6))
    return later, whole.captions


@pytest.mark.parametrize(
    ("pairs", "unknown_s"),
    [
        ({20: twice(RDC, row(14)) + typed("on"), 28: twice(EDM), 40: twice(row(15)) + typed("world")}, 40),
        ({20: twice(RDC, row(14)) + typed("hello"), 40: twice(RDC, row(15)) + typed("world")}, 40),
        ({20: twice(RCL), 25: twice(ENM, row(15)) + typed("lost?"), 31: twice(EOC)}, 31),
        ({0: twice(RU3, CR, row(15)), **{t: twice(CR) + typed("abc") for t in range(3, 43, 3)}}, 42),
        ({20: twice(RU2, CR, row(15)) + typed("old"), 31: twice(RU2) + typed("more")}, 31),
    ],
    ids=[
        "painted in a mode set before",
        "painted beside",
        "loaded in a mode set before",
        "rolls by a depth",
        "goes on",
    ],
)
def test_a_later_start_knows_what_it_cannot_know(pairs: dict[float, list[Pair]], unknown_s: float) -> None:
    later, whole = late(pairs, start_s=24)
    assert later.captions != [one for one in whole if one.start_us >= 24_000_000]
    assert later.unknown_us is not None and unknown_s <= later.unknown_us / 1e6 < unknown_s + 1


def test_text_services_leave_captions_alone() -> None:
    service = twice(TR, row(14), DER, BS, (0x17, 0x21), (0x12, 0x20)) + typed("page") + twice(CR)
    assert texts(popped("shown", first=15), service, twice(EDM)) == ["shown"]
    loaded = twice(RCL, ENM, row(15)) + typed("ab")
    assert texts(loaded, service, twice(RCL), typed("cd"), twice(EOC)) == ["abcd"]
    first, second = shown(twice(RU2, CR), typed("one"), service, twice(RU2, CR), typed("two"))
    assert [first.text, second.text] == ["one", "two"] and first.end_us == second.end_us


def test_a_row_that_is_erased_to_be_painted_anew_is_a_caption_of_its_own() -> None:
    pairs = [twice(RDC, row(15)), typed("hello"), twice(row(15), DER), typed("bye"), twice(EDM)]
    assert shown(*pairs) == [Caption(1, 4, 9, "hello"), Caption(1, 11, 13, "bye")]


def test_what_is_no_code_in_the_first_field_is_passed_over() -> None:
    assert texts(twice(RCL, row(15)), typed("ab"), [(0x01, 0x03)], typed("cd"), twice(EOC)) == ["abcd"]


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_can_be_read(seed: int) -> None:
    chance, line = random.Random(seed), Line21(known=False)
    codes = [RCL, EOC, RU2, RDC, CR, EDM, *(row(number) for number in (1, 2, 11, 15))]
    for time_us in range(3_000):
        pair = chance.choice(codes) if chance.random() < 0.5 else (chance.randrange(256), chance.randrange(256))
        line.feed(time_us, triplets(pair) if chance.random() < 0.5 else chance.randbytes(chance.randrange(99)))
    line.finish(3_000)
    assert line.captions
    for channel, start_us, end_us, text in line.captions:
        assert 1 <= channel <= 4 and 0 <= start_us < end_us <= 3_000 and text.strip() and len(text) <= 15 * 33
