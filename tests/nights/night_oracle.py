"""What the tables must hold after some nights, by brute force: one loop over all nights, one over all videos.

Written from the words of the contract alone, not from the code: whatever is listed and not yet done by tonight's models
is done tonight, once, and its fate follows from its kind. What failed for storage's sake is tried once more the next
night, and then not for half a day: longer than all nights of a test last.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nights.changing_archive import Version

STATUSES = ("labelled", "partial", "empty", "quarantined", "missing")
WHOLE = -1

Unit = tuple[str, str, str]
"""(video_id, annotator, model_id)"""
Fate = tuple[str, str | None]
"""(status, reason)"""

BROKEN: Mapping[str, Fate] = {
    "empty": ("quarantined", "damaged"),
    "letter": ("quarantined", "not_media"),
    "cut": ("quarantined", "damaged"),
    "torn": ("quarantined", "damaged"),
    "missing": ("missing", "missing"),
}
PICTURE: Mapping[str, Fate] = {
    "scene": ("labelled", None),
    "titled": ("labelled", None),
    "long": ("labelled", None),
    "half": ("partial", "damaged"),
}
TEXT: Mapping[str, Fate] = {**dict.fromkeys(PICTURE, ("empty", "no_text")), "titled": ("labelled", None)}
SEGMENTS = {"long": 2}
PASSING = {"missing"}
"""Reasons that are storage's, of those that kinds have."""


@dataclass(frozen=True)
class Night:
    """One run: what was listed, and tonight's model of each annotator. `killed`: before any video was whole."""

    listed: Sequence[Version]
    wanted: Mapping[str, str]
    budget: float
    killed: bool = False


@dataclass
class Expected:
    """The tables' state. `runs`: the rows in order, as far as the nights decide them. `fresh`: of the last night."""

    units: dict[Unit, Fate] = field(default_factory=dict)
    ledger: set[tuple[Unit, int]] = field(default_factory=set)
    videos: dict[str, str] = field(default_factory=dict)
    runs: list[dict[str, int | str | None]] = field(default_factory=list)
    fresh: set[Unit] = field(default_factory=set)
    tries: dict[Unit, int] = field(default_factory=dict)


def expected(nights: Sequence[Night]) -> Expected:
    """The state after these nights."""
    state = Expected()
    newest: dict[tuple[str, str], str] = {}
    for night in nights:
        fresh = {
            (video.video_id, annotator, model): fate_of(video, annotator)
            for video in night.listed
            for annotator, model in night.wanted.items()
            if _is_due((video.video_id, annotator, model), state)
        }
        again = {unit[0] for unit, fate in fresh.items() if unit in state.units and fate[1] in PASSING}
        state.runs.append(_run(night, fresh, len(again)))
        if night.killed:
            continue
        state.fresh = set(fresh)
        state.units |= fresh
        state.tries |= {unit: state.tries.get(unit, 0) + 1 for unit in fresh}
        newest |= {(video_id, annotator): fate[0] for (video_id, annotator, _), fate in fresh.items()}
        kinds = {video.video_id: video.kind for video in night.listed}
        for unit in fresh:
            segments = range(SEGMENTS.get(kinds[unit[0]], 1))
            state.ledger |= {(unit, segment) for segment in (WHOLE, *segments)}
    for video_id in {video_id for video_id, _ in newest}:
        state.videos[video_id] = together({status for (one, _), status in newest.items() if one == video_id})
    return state


def _is_due(unit: Unit, state: Expected) -> bool:
    return unit not in state.units or (state.units[unit][1] in PASSING and state.tries[unit] == 1)


def fate_of(video: Version, annotator: str) -> Fate:
    """What becomes of a video under an annotator."""
    return (BROKEN | (TEXT if annotator == "text" else PICTURE))[video.kind]


def together(statuses: set[str]) -> str:
    """One state of a video for which its annotators came to several."""
    if statuses <= {"labelled", "empty"}:
        return "labelled" if "labelled" in statuses else "empty"
    return statuses.pop() if len(statuses) == 1 else "partial"


def _run(night: Night, fresh: Mapping[Unit, Fate], again: int) -> dict[str, int | str | None]:
    """`again`: how many videos storage did not give on an earlier night either: they cost nothing of the budget."""
    states: dict[str, set[str]] = {}
    for (video_id, _, _), (status, _) in fresh.items():
        states.setdefault(video_id, set()).add(status)
    counts = Counter(together(found) for found in states.values())
    row: dict[str, int | str | None] = {"listed": len(night.listed), "planned": len(states)}
    if night.killed:
        return {**row, **dict.fromkeys(STATUSES, 0), "deferred": len(states), "status": "killed", "exit_code": None}
    exceeded = counts["quarantined"] + counts["missing"] - again > night.budget * (len(states) - again)
    told = ("budget_exceeded", 3) if exceeded else ("done", 0)
    return {**row, **{s: counts[s] for s in STATUSES}, "deferred": 0, "status": told[0], "exit_code": told[1]}
