"""Which labels are kinds of which: a taxonomy that weights carry, and what parents score by it. Needs no torch.

A taxonomy is JSON, in a sidecar under `taxonomy` or in a file of its own (`--taxonomies NAME=URL`):

    {"source": "WordNet 3.1", "licence": "WordNet-3.1", "parents": {"beagle": ["dog"], "dog": ["animal"]}}

A parent scores at least what each of its children does, whatever the network thinks: of labels that exclude each other
(softmax) the sum over those below it, which is the probability of any of them; of others (sigmoids) the largest.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass as checked

from vidproc.errors import WeightsError
from vidproc.models.fetch import read_text

Scores = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Taxonomy:
    """`source`: whose it is. `licence`: its SPDX name, asked for as that of weights is. `parents`: label → parents."""

    source: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    parents: dict[str, tuple[str, ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> "Taxonomy":
        self.order()
        return self

    def order(self) -> list[str]:
        """All its labels, children before their parents. Raises ValueError where one is its own ancestor."""
        try:
            return list(TopologicalSorter(self.parents).static_order())[::-1]
        except CycleError as error:
            raise ValueError(f"labels are their own ancestors: {' < '.join(error.args[1][::-1])}") from None

    def above(self, categories: Sequence[str]) -> list[str]:
        """The parents that are no categories, by name: labels that the network itself does not know.

        Raises ValueError for labels that are neither categories nor above one.
        """
        known = set(categories)
        for label in self.order():
            if label in known:
                known.update(self.parents.get(label, ()))
        if unknown := sorted({*self.parents, *(one for all_ in self.parents.values() for one in all_)} - known):
            few = ", ".join(map(repr, unknown[:5]))
            raise ValueError(
                f"{len(unknown)} labels of the taxonomy, such as {few}, are neither categories of the network nor "
                "above one: name each label as the categories do, or leave it out"
            )
        return sorted(known - set(categories))


def read_taxonomy(url: str) -> Taxonomy:
    """The taxonomy in a JSON file. Raises `WeightsError` when it cannot be read, is none, or says no licence."""
    try:
        return Taxonomy(**json.loads(read_text(url)))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise WeightsError(f"{url} is no taxonomy: {problems}") from error
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{url} is no taxonomy: it must be a JSON object with source, licence and parents: {error}"
        ) from error


@dataclass(frozen=True, eq=False)
class Lineage:
    """A taxonomy laid over a network's categories.

    `labels`: the categories, then the parents that are none, by name; positions in it are `label_id`s.
    `families`: (parents' ids, ids of the categories among and below them, ids of their children), children first.
    `order`: the categories' ids, parents before their children: which of equal scores comes first.
    """

    labels: tuple[str, ...]
    categories: int
    families: tuple[tuple[Ids, Ids, Ids], ...]
    order: Ids

    def scores(self, of_categories: Scores, *, exclusive: bool) -> Scores:
        """[samples, categories] → [samples, labels]. `exclusive`: of the categories only one holds (softmax)."""
        samples = len(of_categories)
        found = np.zeros((samples, len(self.labels)), np.float32)
        found[:, : self.categories] = of_categories
        for parents, below, children in self.families:
            if exclusive:
                total = np.take(of_categories, below, axis=1).sum(axis=1, dtype=np.float64)
                found[:, parents] = np.minimum(total, 1).astype(np.float32)[:, None]
            most = np.take(found, np.concatenate([parents, children]), axis=1).max(axis=1)
            found[:, parents] = most[:, None]  # also where a sum was rounded to less than its parts
        return found

    def least(self, of_categories: Scores) -> Scores:
        """float32 [categories] → [labels]: of a parent the least of what is below it, so that it is said with them."""
        found = np.concatenate([of_categories, np.full(len(self.labels) - self.categories, np.inf, np.float32)])
        for parents, below, _ in self.families:
            found[parents] = of_categories[below].min()
        return found


def lineage(taxonomy: Taxonomy | None, categories: Sequence[str]) -> Lineage:
    """Raises ValueError as `Taxonomy.above` does. Categories of one name are all meant by it."""
    order = np.arange(len(categories))
    if taxonomy is None:
        return Lineage(tuple(categories), len(categories), (), order)
    labels = (*categories, *taxonomy.above(categories))
    ids: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        ids.setdefault(label, []).append(number)
    children: dict[str, list[str]] = {}
    for child, parents in taxonomy.parents.items():
        for parent in parents:
            children.setdefault(parent, []).append(child)
    below: dict[str, set[int]] = {}
    families = []
    height = np.zeros(len(labels), np.int64)
    for at, label in enumerate(taxonomy.order()):
        own = {number for number in ids[label] if number < len(categories)}
        below[label] = own.union(*(below[child] for child in children.get(label, ())))
        height[ids[label]] = at + 1
        if label in children:
            under = [number for child in children[label] for number in ids[child]]
            families.append(tuple(np.array(sorted(one), np.int64) for one in (ids[label], below[label], under)))
    return Lineage(labels, len(categories), tuple(families), np.argsort(-height[: len(categories)], kind="stable"))  # type: ignore[arg-type]
