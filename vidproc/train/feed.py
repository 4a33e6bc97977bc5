"""From examples to samples, step by step: what each worker trains on depends on seed, epoch and position alone.

An epoch is a permutation of all examples, seeded; a step takes the next `batch` of it, and worker r of n the r-th part
of that. So one worker or many see the same steps, and a restart needs to know the step alone. Samples are decoded by
the label job's decoder: anew in each epoch, or once, and kept in Ray's object store.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.errors import Damaged, InputError
from vidproc.media.glimpse import glimpses
from vidproc.media.guard import Guard, process_guard
from vidproc.media.sources import Source
from vidproc.train.augment import Augment
from vidproc.views import Audio, SignalView

_RANDOM, _AUGMENT = 1, 2
"""What a seed is for: the times of samples, or the changes to them."""

Items = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How samples are taken of one example: `samples` of them, at random times or (`even`) evenly spaced.

    `sound_us`: how long a piece of sound is. `seed`: of the run.
    """

    view: SignalView
    samples: int
    even: bool
    seed: int
    sound_us: int | None = None

    def starts_us(self, example: Mapping[str, Any], *, epoch: int) -> list[int]:
        """When the samples of an example start. A sample fits into the labelled span, where that is long enough.

        Examples with the same `draw` have theirs at the same shares of their spans.
        """
        facts = json.loads(example["facts"])
        if facts["still"]:
            return [facts["start_us"]] * self.samples
        start = facts["start_us"] if example["start_us"] is None else max(example["start_us"], facts["start_us"])
        end = facts["end_us"] if example["end_us"] is None else min(example["end_us"], facts["end_us"])
        span_us = (self.sound_us or 0) if isinstance(self.view, Audio) else self.view.span_us
        room = max(0, end - start - span_us)
        if self.even:  # the middles of as many equal parts, as uniform-N protocols take them
            shares = (np.arange(self.samples) + 0.5) / self.samples
        else:
            shares = np.random.default_rng([self.seed, _RANDOM, epoch, example["draw"]]).uniform(size=self.samples)
        return [int(start + room * share) for share in shares]


def decoded(guard: Guard, example: Mapping[str, Any], look: Look, *, epoch: int) -> npt.NDArray[Any]:
    """The samples of one example: uint8 or int16 [samples, …]. Raises the typed input errors."""
    starts = look.starts_us(example, epoch=epoch)
    facts = json.loads(example["facts"])
    if facts["still"] and not isinstance(look.view, Audio):
        picture = glimpses(guard, Source.of(example), facts, look.view, starts_us=starts[:1])
        return np.repeat(picture, len(starts), axis=0)
    return glimpses(guard, Source.of(example), facts, look.view, starts_us=starts, sound_us=look.sound_us)


@dataclass(frozen=True, kw_only=True, eq=False)
class Feed:
    """All samples of one split; light, and sent to every process. Item i is sample i % samples of example i // samples.

    `examples`: `EXAMPLES` with `facts` and `draw`. `together`: an epoch goes from group to group. `bank`: references to
    tables (`number`, `samples`) of what is decoded already.
    """

    examples: pa.Table
    look: Look
    augment: Augment
    sample_shape: tuple[int, ...]
    together: bool = False
    bank: tuple[Any, ...] | None = None

    @property
    def draws(self) -> Items:
        """Of each example the number that its random times and changes are drawn from."""
        numbers: Items = self.examples["draw"].to_numpy()
        return numbers

    @property
    def items(self) -> int:
        return int(self.examples.num_rows) * self.look.samples

    def order(self, epoch: int) -> Items:
        """The epoch's items; of evaluation as they are. Samples that are decoded together stay together."""
        if self.look.even:
            return np.arange(self.items)
        rng = np.random.default_rng([self.look.seed, epoch])
        samples = self.look.samples
        if self.bank is None:
            return (self._shuffled(rng)[:, None] * samples + np.arange(samples)).reshape(-1)
        if not self.together:
            return rng.permutation(self.items)
        draw = self.draws
        which = rng.permuted(np.tile(np.arange(samples), (int(draw.max()) + 1, 1)), axis=1)
        orders = [self._shuffled(rng) for _ in range(samples)]
        return np.concatenate([order * samples + which[draw[order], i] for i, order in enumerate(orders)])

    def _shuffled(self, rng: np.random.Generator) -> Items:
        """The examples in a new order; where groups are together, the groups are, and the examples within them."""
        shuffled = rng.permutation(self.examples.num_rows)
        if not self.together:
            return shuffled
        place = rng.permutation(int(self.draws.max()) + 1)
        return shuffled[np.argsort(place[self.draws[shuffled]], kind="stable")]

    def steps(self, batch: int) -> int:
        """Steps of an epoch. In training, what does not fill a batch is left for another epoch, unless it is all."""
        return -(-self.items // batch) if self.look.even else max(1, self.items // batch)


@dataclass(frozen=True)
class Part:
    """Which part of every batch one worker takes: part `rank` of `workers`."""

    batch: int
    rank: int
    workers: int

    def of(self, order: Items, within: int) -> Items:
        """This worker's items of the epoch's step number `within`."""
        chosen = order[within * self.batch : (within + 1) * self.batch]
        return chosen[self.rank * len(chosen) // self.workers : (self.rank + 1) * len(chosen) // self.workers]


class Sampler:
    """One process's way from items to samples: a guarded decoder, or the tables of what is decoded already."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._draws = feed.draws
        self._guard = process_guard() if feed.bank is None else None
        self._decoded: tuple[tuple[int, int], npt.NDArray[Any] | None] = ((-1, -1), None)
        self._kept: dict[int, npt.NDArray[Any]] = {}
        if feed.bank is not None:
            import ray

            for table in ray.get(list(feed.bank)):
                self._kept |= zip(table["number"].to_pylist(), self._views(table["samples"]), strict=True)

    def samples(self, items: Items, *, epoch: int) -> tuple[npt.NDArray[Any], Items]:
        """The items' samples [items, …], changed at random, and the items that they are of.

        What cannot be decoded now gives way to another item of the same call: steps must not change their number.
        Raises `Damaged` if none of them can be decoded.
        """
        found = [self._sample(int(item), epoch) for item in items]
        good = [i for i, sample in enumerate(found) if sample is not None]
        if len(items) and not good:
            numbers = sorted({int(i) // self.feed.look.samples for i in items})
            raise Damaged(f"none of the examples {numbers} can be decoded any more: was the archive moved?")
        taken = [i if sample is not None else good[i % len(good)] for i, sample in enumerate(found)]
        count, seed = self.feed.look.samples, [self.feed.look.seed, _AUGMENT, epoch]
        drawn = self._draws[items // count] * count + items % count
        changed = [self.feed.augment(found[i], [*seed, int(n)]) for i, n in zip(taken, drawn, strict=True)]  # type: ignore[arg-type]
        shape = (0, *self.feed.sample_shape)
        return np.stack(changed) if changed else np.empty(shape, self._kind), items[taken]

    @property
    def _kind(self) -> type[np.int16] | type[np.uint8]:
        return np.int16 if isinstance(self.feed.look.view, Audio) else np.uint8

    def _views(self, column: pa.ChunkedArray) -> Iterator[npt.NDArray[Any]]:
        """Each row's samples where they lie in shared memory: a scalar of the column would be a copy of all of them."""
        for chunk in column.chunks:
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            for start, end in pairwise(ends.tolist()):
                raw = np.frombuffer(data, np.uint8)[start:end].view(self._kind)
                yield raw.reshape(self.feed.look.samples, *self.feed.sample_shape)

    def _sample(self, item: int, epoch: int) -> npt.NDArray[Any] | None:
        number, sample = divmod(item, self.feed.look.samples)
        if self._guard is None:
            return self._kept[number][sample]  # type: ignore[no-any-return]
        if self._decoded[0] != (number, epoch):
            self._decoded = (number, epoch), self._decode(self._guard, number, epoch)
        samples = self._decoded[1]
        return None if samples is None else samples[sample]

    def _decode(self, guard: Guard, number: int, epoch: int) -> npt.NDArray[Any] | None:
        example = self.feed.examples.slice(number, 1).to_pylist()[0]
        try:
            return decoded(guard, example, self.feed.look, epoch=epoch)
        except InputError:
            return None
