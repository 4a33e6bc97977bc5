"""What the byte pairs of CEA-608 captions show, and when: pop-on, paint-on and roll-up, in all four channels.

    line = Line21(known=True)
    line.feed(time_us, triplets)      # of each picture, in the order of their times
    line.captions                     # what has been and gone, as (channel, start_us, end_us, text)

Rules and characters are those of 47 CFR 15.119 and CTA-608-E. Where they leave it open: codes come twice, and nulls
between the two change nothing. A caption is what comes and goes together: all rows of a pop-on or paint-on caption,
each row alone of one that rolls up. Colours, styles and places are left out; so are the text services and XDS.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

CHANNELS = (1, 2, 3, 4)
"""CC1 and CC2 are sent in the first field of a picture, CC3 and CC4 in the second."""

_ROWS, _COLUMNS = 15, 32
_WRONG = 0x80
"""In place of a byte whose parity is wrong: as a character it shows a block, and no code has it."""

_BASIC = {code: chr(code) for code in range(0x20, 0x7F)} | dict(
    zip((0x27, 0x2A, 0x5C, 0x5E, 0x5F, 0x60, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F, _WRONG), "’áéíóúç÷Ññ██", strict=True)
)
_SPECIAL = "®°½¿™¢£♪à èâêîôû"
_EXTENDED = {0x12: "ÁÉÓÚÜü‘¡*’—©℠•“”ÀÂÇÈÊËëÎÏïÔÙùÛ«»", 0x13: "ÃãÍÌìÒòÕõ{}\\^_|~ÄäÖöß¥¤¦ÅåØø┌┐└┘"}
_LEAVE_TEXT = frozenset({0x20, 0x25, 0x26, 0x27, 0x29, 0x2A, 0x2B, 0x2C, 0x2E, 0x2F})
"""The commands that mean something to captions while text is sent."""
_PREAMBLE_ROWS = {
    0x10: (11, None), 0x11: (1, 2), 0x12: (3, 4), 0x13: (12, 13), 0x14: (14, 15), 0x15: (5, 6), 0x16: (7, 8),
    0x17: (9, 10),
}  # fmt: skip


class Caption(NamedTuple):
    """A piece of text. `channel`: one of `CHANNELS`."""

    channel: int
    start_us: int
    end_us: int
    text: str


class _Mode(Enum):
    POP_ON, PAINT_ON, ROLL_UP = range(3)


@dataclass(eq=False)
class _Row:
    number: int
    cells: dict[int, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(self.cells.get(column, " ") for column in range(max(self.cells, default=-1) + 1))


@dataclass(eq=False)
class _Open:
    """What is on the screen, and since when."""

    start_us: int
    rows: list[_Row]
    painted: bool = False


class Line21:
    """The captions of one picture stream.

    `known`: the first pair is the stream's first. Otherwise it is not known what a decoder holds; `unknown_us` is when
    something of that was shown last.
    """

    def __init__(self, *, known: bool) -> None:
        self.captions: list[Caption] = []
        self.unknown_us: int | None = None
        self._channels = [_Channel(number, self, known=known) for number in CHANNELS]
        self._fields = _Field(self._channels[:2], xds=False), _Field(self._channels[2:], xds=True)

    @property
    def since_us(self) -> list[int]:
        """When each of the captions came that are on the screen."""
        return [one.start_us for channel in self._channels for one in channel.open]

    def feed(self, time_us: int, triplets: bytes) -> None:
        """The `cc_data` of one picture: three bytes a pair; the first says whether it counts, and its field."""
        for head, first, second in zip(*(iter(triplets),) * 3, strict=False):
            if head & 4 and head & 3 < 2:
                self._fields[head & 3].feed(time_us, first, second)

    def finish(self, time_us: int) -> None:
        """Nothing more will come; what is shown is shown until then."""
        for channel in self._channels:
            channel.clear(time_us)


class _Field:
    """Sorts the pairs of one field by their channel. `xds`: it has other data, too."""

    def __init__(self, channels: list["_Channel"], *, xds: bool) -> None:
        self._channels, self._xds = channels, xds
        self._channel: _Channel | None = None
        self._last: tuple[int, int] | None = None  # a code that may come once more

    def feed(self, time_us: int, first: int, second: int) -> None:
        first, second = _checked(first), _checked(second)
        if first == second == 0:
            return
        if 0x10 <= first < 0x20:
            if second != _WRONG:
                self._code(time_us, first, second)
            return
        self._last = None
        if 0 < first < 0x10:
            if self._xds:  # until the next code of a caption
                self._channel = None
        elif self._channel is not None:
            for byte in (first, second):
                if byte >= 0x20:
                    self._channel.put(time_us, _BASIC[byte])

    def _code(self, time_us: int, first: int, second: int) -> None:
        if (first, second) == self._last:
            self._last = None
            return
        self._last = first, second
        self._channel = self._channels[first >> 3 & 1]
        if second >= 0x20:
            self._channel.code(time_us, first & 0x17, second)


def _checked(byte: int) -> int:
    """The seven bits below the parity, which is odd; a byte of nothing at all is a null, too."""
    return byte & 0x7F if byte.bit_count() & 1 or not byte else _WRONG


class _Channel:
    """The two memories of one channel: what is shown, and what is being loaded."""

    def __init__(self, number: int, line: Line21, *, known: bool) -> None:
        self._number, self._line = number, line
        self._mode: _Mode | None = None
        self._text = False  # what comes is for the text services, until the next code of a caption
        self._shown: dict[int, _Row] = {}
        self._hidden: dict[int, _Row] = {}
        self._shown_known = self._hidden_known = self._depth_known = known
        self._row, self._column, self._depth = _ROWS, 0, 2
        self.open: list[_Open] = []

    def code(self, time_us: int, first: int, second: int) -> None:
        """A code: a character, a place, a style or a command."""
        if self._text and (first not in (0x14, 0x15) or second not in _LEAVE_TEXT):
            return
        if second >= 0x40:
            self._preamble(time_us, first, second)
        elif first == 0x11:
            self.put(time_us, _SPECIAL[second & 0xF] if second >= 0x30 else " ")  # a style takes the place of a space
        elif first in _EXTENDED:  # it follows a plain character for decoders that do not know it
            self._column = max(0, self._column - 1)
            self.put(time_us, _EXTENDED[first][second & 0x1F])
        elif first == 0x17 and 0x21 <= second <= 0x23:
            self._column = min(self._column + second - 0x20, _COLUMNS - 1)
        elif first in (0x14, 0x15) and second < 0x30:
            self._command(time_us, second)

    def put(self, time_us: int, character: str) -> None:
        """Write where the cursor is. Beyond the last column the last character is written over."""
        if self._text:
            return
        if self._mode is None:
            self._line.unknown_us = time_us
            return
        memory = self._hidden if self._mode is _Mode.POP_ON else self._shown
        row = memory.setdefault(self._row, _Row(self._row))
        row.cells[min(self._column, _COLUMNS - 1)] = character
        self._column = min(self._column + 1, _COLUMNS)
        if self._mode is not _Mode.POP_ON and character != " ":
            self._appears(time_us, row)

    def _appears(self, time_us: int, row: _Row) -> None:
        if any(row in one.rows for one in self.open):
            return
        painted = self._mode is _Mode.PAINT_ON
        if painted and not self._shown_known:
            self._line.unknown_us = time_us
        if painted and self.open and self.open[-1].painted:
            self.open[-1].rows.append(row)
        else:
            self.open.append(_Open(time_us, [row], painted))

    def clear(self, time_us: int) -> None:
        """Erase what is shown."""
        self._shown, self._shown_known = {}, True
        self._close(time_us)

    def _close(self, time_us: int) -> None:
        """Note what is no longer shown."""
        left = set(self._shown.values())
        for one in [one for one in self.open if left.isdisjoint(one.rows)]:
            self.open.remove(one)
            text = "\n".join(row.text for row in sorted(one.rows, key=lambda row: row.number))
            if text.strip() and one.start_us < time_us:
                self._line.captions.append(Caption(self._number, one.start_us, time_us, text))

    def _preamble(self, time_us: int, first: int, second: int) -> None:
        """Where to write next; captions that roll up move there with all their rows."""
        row = _PREAMBLE_ROWS[first][second >> 5 & 1]
        if row is None:
            return
        if self._mode is _Mode.ROLL_UP:
            self._move(time_us, row - self._row, base=row)
        self._row, self._column = row, (second >> 1 & 7) * 4 if second & 0x10 else 0

    def _move(self, time_us: int, by: int, *, base: int) -> None:
        """Move all rows; what leaves the window above the base row is erased."""
        rows = list(self._shown.values())
        for row in rows:
            row.number += by
        self._shown = {row.number: row for row in rows if max(0, base - self._depth) < row.number <= base}
        self._close(time_us)

    def _command(self, time_us: int, second: int) -> None:
        self._text = second in (0x2A, 0x2B) or (self._text and second in (0x2C, 0x2E))
        match second:
            case 0x20:
                self._mode = _Mode.POP_ON
            case 0x21:
                self._column = max(0, self._column - 1)
                self._erase(time_us, self._column, self._column + 1)
            case 0x24:
                self._erase(time_us, self._column, _COLUMNS)
            case 0x25 | 0x26 | 0x27:
                self._roll_up(time_us, depth=second - 0x23)
            case 0x28:
                self.put(time_us, " ")
            case 0x29:
                self._mode = _Mode.PAINT_ON
            case 0x2C:
                self.clear(time_us)
            case 0x2D:
                self._return(time_us)
            case 0x2E:
                self._hidden, self._hidden_known = {}, self._hidden_known or self._mode is not None
            case 0x2F:
                self._flip(time_us)

    def _erase(self, time_us: int, first: int, last: int) -> None:
        """Erase cells of a row. Of which nothing is left was a caption until now."""
        memory = self._hidden if self._mode is _Mode.POP_ON else self._shown
        row = memory.get(self._row)
        if row is None:
            return
        if all(first <= column < last for column in row.cells):
            del memory[self._row]
            self._close(time_us)
            return
        for column in range(first, last):
            row.cells.pop(column, None)

    def _roll_up(self, time_us: int, *, depth: int) -> None:
        if self._mode is None:
            self._line.unknown_us = time_us
        if self._mode is not _Mode.ROLL_UP:
            self._hidden, self._hidden_known = {}, True
            self._row, self._column = _ROWS, 0
            self.clear(time_us)
        self._mode, self._depth, self._depth_known = _Mode.ROLL_UP, depth, True
        self._move(time_us, 0, base=self._row)

    def _return(self, time_us: int) -> None:
        if self._mode is None:  # only captions that roll up have this code
            self._mode = _Mode.ROLL_UP
        if self._mode is not _Mode.ROLL_UP:
            return
        if not self._depth_known:
            self._line.unknown_us = time_us
        self._move(time_us, -1, base=self._row)
        self._column = 0

    def _flip(self, time_us: int) -> None:
        """What was loaded is shown, and what was shown can be written to."""
        if not self._hidden_known:
            self._line.unknown_us = time_us
        self._mode = _Mode.POP_ON
        self._shown, self._hidden = self._hidden, self._shown
        self._shown_known, self._hidden_known = self._hidden_known, self._shown_known
        self._close(time_us)
        rows = [self._shown[number] for number in sorted(self._shown)]
        if rows:
            self.open.append(_Open(time_us, rows))
