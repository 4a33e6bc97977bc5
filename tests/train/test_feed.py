"""Which samples come in which step, and that each is what a brute-force decoder finds at its time."""

import json
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from media.brute_force import all_frames, nearest, picture
from media.decoding import source_of
from media.made_videos import make_video
from PIL import Image

from vidproc.errors import Damaged, UsageError
from vidproc.media.glimpse import probed
from vidproc.media.guard import close_guards, process_guard
from vidproc.train.augment import Augment
from vidproc.train.examples import EXAMPLES
from vidproc.train.feed import Feed, Look, Part, Sampler
from vidproc.train.streams import prepare, stream
from vidproc.views import Audio, Clips, Frames, Picture

PIXELS = Picture(resize=(24, 32))
CLIPS = Clips(num_frames=3, fps=8, stride_s=1, picture=PIXELS)
Row = dict[str, Any]


def look(
    *, even: bool = False, samples: int = 2, seed: int = 0, view: Any = CLIPS, sound_us: int | None = None
) -> Look:
    return Look(view=view, samples=samples, even=even, seed=seed, sound_us=sound_us)


def feed(examples: pa.Table, looked: Look, *, augment: Sequence[str] = (), **more: Any) -> Feed:
    shape = looked.view.sample_shape if looked.sound_us is None else (looked.sound_us * looked.view.rate // 10**6, 1)
    return Feed(
        examples=examples, look=looked, augment=Augment(augment, sample_shape=shape), sample_shape=shape, **more
    )


def made_up(count: int, *, groups: int = 1) -> pa.Table:
    """Examples of which nothing but the number and the group matters."""
    return pa.table({"number": range(count), "draw": [i % groups for i in range(count)]})


# ---- order


@pytest.mark.parametrize("bank", [None, ()], ids=["stream", "bank"])
@pytest.mark.parametrize("together", [False, True])
def test_an_epoch_is_a_permutation_that_the_seed_decides(bank: Any, together: bool) -> None:
    made = [feed(made_up(13, groups=4), look(seed=seed), bank=bank, together=together) for seed in (0, 1, 0)]
    orders = [[one.order(epoch).tolist() for epoch in range(3)] for one in made]
    assert all(sorted(order) == list(range(26)) for order in orders[0])
    assert len(set(map(tuple, orders[0]))) == 3, "every epoch has its own"
    assert orders[0] == orders[2] and all(a != b for a, b in zip(orders[0], orders[1], strict=True))


def test_samples_that_are_decoded_together_stay_together() -> None:
    order = feed(made_up(9), look(samples=3)).order(0).reshape(9, 3)
    assert (order == order[:, :1] + np.arange(3)).all()
    kept = feed(made_up(9), look(samples=3), bank=()).order(0).reshape(9, 3)
    assert not (kept == kept[:, :1] + np.arange(3)).all(), "what is decoded already is mixed"


@pytest.mark.parametrize("bank", [None, ()], ids=["stream", "bank"])
def test_groups_follow_each_other_where_they_are_together(bank: Any) -> None:
    """Without a bank a group's samples come once; with one, a round of all groups for each sample."""
    made = feed(made_up(12, groups=3), look(samples=2), together=True, bank=bank)
    firsts = set()
    for epoch in range(20):
        numbers = made.order(epoch) // 2
        rounds = [numbers] if bank is None else np.split(numbers, 2)
        for one in rounds:
            groups = one % 3
            assert (np.diff(groups) != 0).sum() == 2, "each group once"
            firsts.add(int(groups[0]))
        if bank is not None:
            assert all(sorted(one) == list(range(12)) for one in rounds), "each example once a round"
    assert firsts == {0, 1, 2}


def test_a_group_s_examples_come_at_the_same_times_with_the_same_changes() -> None:
    made = feed(made_up(12, groups=3), look(samples=2), together=True, bank=())
    for epoch in range(3):
        samples = made.order(epoch).reshape(2, 3, 4) % 2  # rounds, groups, examples of each
        assert (samples == samples[:, :, :1]).all() and set(samples.ravel().tolist()) == {0, 1}
    starts = {tuple(look(samples=2).starts_us(example() | {"draw": draw}, epoch=0)) for draw in made.draws.tolist()}
    assert len(starts) == 3


def test_evaluation_goes_through_all_as_they_are() -> None:
    made = feed(made_up(5), look(even=True))
    assert made.order(0).tolist() == made.order(7).tolist() == list(range(10))
    assert [made.steps(batch) for batch in (1, 3, 10, 32)] == [10, 4, 1, 1]


def test_training_leaves_what_fills_no_batch_for_another_epoch() -> None:
    made = feed(made_up(5), look())
    assert [made.steps(batch) for batch in (1, 3, 10, 32)] == [10, 3, 1, 1]
    seen = {int(i) for epoch in range(20) for step in range(3) for i in Part(3, 0, 1).of(made.order(epoch), step)}
    assert seen == set(range(10))


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("even", [False, True])
def test_parts_split_every_batch_without_loss_or_doubling(workers: int, even: bool) -> None:
    made = feed(made_up(11), look(even=even))
    order = made.order(3)
    for batch in (5, 7, 22, 40):
        for step in range(made.steps(batch)):
            parts = [Part(batch, rank, workers).of(order, step) for rank in range(workers)]
            assert np.concatenate(parts).tolist() == order[step * batch : (step + 1) * batch].tolist()
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


# ---- times


def example(*, start_us: int | None = None, end_us: int | None = None, still: bool = False) -> Row:
    facts = {"start_us": 1_000_000, "end_us": 11_000_000, "still": still}
    return {"start_us": start_us, "end_us": end_us, "facts": json.dumps(facts)}


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((None, None), (1_000_000, 11_000_000)),
        ((2_000_000, 3_000_000), (2_000_000, 3_000_000)),
        ((0, 4_000_000), (1_000_000, 4_000_000)),
        ((9_000_000, 99_000_000), (9_000_000, 11_000_000)),
        ((5_000_000, 5_100_000), (5_000_000, 5_375_000)),  # shorter than a clip: it begins where the label does
    ],
)
def test_random_samples_lie_inside_what_is_labelled(span: tuple[int, int], expected: tuple[int, int]) -> None:
    one = example(start_us=span[0], end_us=span[1])
    starts = [look(samples=4).starts_us(one | {"draw": 3}, epoch=epoch) for epoch in range(50)]
    flat = np.concatenate(starts)
    assert flat.min() >= expected[0] and flat.max() + CLIPS.span_us <= expected[1]
    room = expected[1] - expected[0] - CLIPS.span_us
    if room:
        assert flat.min() < expected[0] + 0.1 * room and flat.max() > expected[0] + 0.9 * room
        assert len(set(map(tuple, starts))) == 50, "other times in every epoch"
        assert starts[0] != look(samples=4).starts_us(one | {"draw": 4}, epoch=0)
        assert starts[0] != look(samples=4, seed=1).starts_us(one | {"draw": 3}, epoch=0)
    assert starts[0] == look(samples=4).starts_us(one | {"draw": 3}, epoch=0)


def test_even_samples_are_the_middles_of_equal_parts() -> None:
    one = example(start_us=2_000_000, end_us=6_375_000)  # 4 s of room for the start
    for epoch in (0, 1):
        found = look(even=True, samples=4).starts_us(one | {"draw": 0}, epoch=epoch)
        assert found == [2_500_000, 3_500_000, 4_500_000, 5_500_000]
    assert look(even=True, samples=1).starts_us(one | {"draw": 0}, epoch=0) == [4_000_000]


def test_a_picture_has_one_time_and_sound_the_room_that_its_length_leaves() -> None:
    assert look(samples=3).starts_us(example(still=True) | {"draw": 0}, epoch=0) == [1_000_000] * 3
    hears = look(view=Audio(), even=True, samples=1, sound_us=4_000_000)
    assert hears.starts_us(example() | {"draw": 0}, epoch=0) == [4_000_000]


# ---- samples


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Three of two seconds, of which no two frames are alike."""
    folder = tmp_path_factory.mktemp("videos")
    yield [
        make_video(folder / f"{i}.mp4", "libx264", [k * 80 for k in range(25 * (i + 1))], size=(64, 48))
        for i in range(3)
    ]
    close_guards()


def rows_of(paths: Sequence[Path]) -> list[Row]:
    return [
        {**vars(source_of(path)), "start_us": None, "end_us": None, "label": '"a"', "split": "train", "group": "g"}
        for path in paths
    ]


def examples_of(paths: Sequence[Path]) -> pa.Table:
    facts = [json.dumps(probed(process_guard(), source_of(path))) for path in paths]
    table = pa.Table.from_pylist(rows_of(paths), schema=EXAMPLES).append_column("facts", [facts])
    return table.append_column("draw", [list(range(len(paths)))])


def by_brute_force(path: Path, view: Clips | Frames, start_us: int) -> np.ndarray:
    frames = {time_us: frame for time_us, frame, _ in all_frames(str(path))}
    times = np.array(sorted(frames))
    chosen = [frames[nearest(times, start_us + offset)] for offset in view.offsets_us]
    return np.stack([picture(frame, view.picture, None) for frame in chosen]).reshape(view.sample_shape)


@pytest.mark.parametrize("even", [False, True])
def test_samples_are_what_a_brute_force_decoder_finds_at_their_times(videos: list[Path], even: bool) -> None:
    made = feed(examples_of(videos), look(even=even))
    sampler = Sampler(made)
    for epoch in (0, 1):
        items = made.order(epoch)[:4]
        data, taken = sampler.samples(items, epoch=epoch)
        assert taken.tolist() == items.tolist() and data.dtype == np.uint8
        for sample, item in zip(data, items.tolist(), strict=True):
            one = made.examples.slice(item // 2, 1).to_pylist()[0]
            start_us = made.look.starts_us(one | {"draw": item // 2}, epoch=epoch)[item % 2]
            assert np.array_equal(sample, by_brute_force(videos[item // 2], CLIPS, start_us))


def test_changes_are_told_by_epoch_and_item_alone(videos: list[Path]) -> None:
    sampler = Sampler(feed(examples_of(videos), look(even=True), augment=["shift", "flip", "colour"]))
    whole, _ = sampler.samples(np.arange(6), epoch=2)
    parts = [sampler.samples(np.array(items), epoch=2)[0] for items in ([5, 0], [3], [1, 2, 4])]
    assert np.array_equal(np.concatenate(parts), whole[[5, 0, 3, 1, 2, 4]])
    other, _ = sampler.samples(np.arange(6), epoch=3)
    assert all((a != b).any() for a, b in zip(whole, other, strict=True))


def test_what_is_broken_by_now_gives_way_to_another_one_of_its_batch(videos: list[Path], tmp_path: Path) -> None:
    paths = [tmp_path / path.name for path in videos]
    for copy, path in zip(paths, videos, strict=True):
        copy.write_bytes(path.read_bytes())
    made = feed(examples_of(paths), look(even=True))
    before, _ = Sampler(made).samples(np.arange(6), epoch=0)
    paths[1].unlink()
    data, taken = Sampler(made).samples(np.array([0, 2, 5, 3]), epoch=0)
    assert taken[[0, 2]].tolist() == [0, 5] and set(taken[[1, 3]].tolist()) <= {0, 5}
    assert np.array_equal(data, before[taken]), "the items that are told are those of the samples"
    paths[0].write_bytes(b"another file by now")
    with pytest.raises(Damaged, match=r"none of the examples \[0, 1\] can be decoded any more: was the archive moved"):
        Sampler(made).samples(np.array([2, 0, 1]), epoch=0)


def test_no_item_is_no_sample(videos: list[Path]) -> None:
    data, taken = Sampler(feed(examples_of(videos[:1]), look())).samples(np.arange(0), epoch=0)
    assert data.shape == (0, *CLIPS.sample_shape) and data.dtype == np.uint8 and len(taken) == 0


def test_samples_of_sound(tmp_path: Path) -> None:
    heard = np.random.default_rng(0).integers(-20_000, 20_000, 32_000).astype("<i2")
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(heard.tobytes())
    made = feed(
        examples_of([tmp_path / "noise.wav"]), look(view=Audio(rate=16_000), even=True, samples=3, sound_us=500_000)
    )
    data, _ = Sampler(made).samples(np.arange(3), epoch=0)
    assert data.shape == (3, 8000, 1) and data.dtype == np.int16
    for piece, start_us in zip(data[..., 0], (250_000, 750_000, 1_250_000), strict=True):
        first = start_us * 16_000 // 1_000_000
        assert np.array_equal(piece, heard[first : first + 8000])


@pytest.mark.parametrize("view", [Frames(fps=1, picture=PIXELS), CLIPS], ids=["frames", "clips"])
def test_samples_of_a_picture_are_the_picture(tmp_path: Path, view: Frames | Clips) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data, _ = Sampler(feed(examples_of([tmp_path / "a.png"]), look(view=view))).samples(np.arange(2), epoch=0)
    assert data.shape == (2, *view.sample_shape)
    assert np.array_equal(data, np.broadcast_to(pixels, data.shape))


# ---- through Ray


@pytest.mark.ray
def test_samples_that_are_kept_are_those_that_would_be_decoded(
    ray_cluster: None, videos: list[Path], tmp_path: Path
) -> None:
    """What fails is left out, and the numbers of what comes after it are counted anew. A part may be empty."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no medium at all")
    table = pa.Table.from_pylist(rows_of([videos[0], broken, *videos[1:]]), schema=EXAMPLES)
    looked = look(even=True, samples=1)
    found = prepare(table, looked, decode=True, cpus=0.5)
    assert found.failed == {"not_media": 1}
    assert found.examples["uri"].to_pylist() == [str(path) for path in videos]
    expected, _ = Sampler(feed(examples_of(videos), looked)).samples(np.arange(3), epoch=0)
    made = feed(found.examples, looked, bank=found.bank)
    assert np.array_equal(Sampler(made).samples(np.arange(3), epoch=0)[0], expected)
    streamed: list[tuple[int, list[int]]] = []
    for rank in range(2):
        part = Part(batch=2, rank=rank, workers=2)
        for step, data, items in stream(made, part, first=0, stop=made.steps(2), actors=1, cpus=0.5):
            assert np.array_equal(data, expected[items])
            streamed.append((step, items.tolist()))
    assert sorted(streamed) == [(0, [0]), (0, [1]), (1, [2])]
    with pytest.raises(UsageError, match=r"none of the 1 examples can be used: \{'not_media': 1\}"):
        prepare(table.slice(1, 1), looked, decode=False, cpus=0.5)
