"""What befalls a cluster in a test of chaos: a schedule drawn from a seed, and its execution while a job runs."""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from places import Namespaces, Places
from ray_nodes import RayNodes

ACTOR = "MapWorker(MapBatches(Annotate))"
SILENCE_S = 20.0
KINDS = ("decode node", "network node", "actors", "cable", "silence")


@dataclass(frozen=True)
class Blow:
    """One thing that happens, so many seconds after the job has planned."""

    at_s: float
    what: str
    node: str


def drawn(kind: str, *, seed: int, lasting_s: float) -> list[Blow]:
    """The blows of one kind, or of all ("everything"), within a run that takes `lasting_s` undisturbed."""
    chance = random.Random(f"{kind} {seed}")
    if kind == "everything":
        parts = [drawn(one, seed=seed, lasting_s=lasting_s) for one in ("decode node", "actors", "cable")]
        return sorted((blow for part in parts for blow in part), key=lambda blow: blow.at_s)
    moment = lasting_s * chance.uniform(0.1, 0.5)
    if kind == "decode node":
        victim = chance.choice(("decode-1", "decode-2"))
        return [Blow(moment, "kill", victim), Blow(moment + chance.uniform(2, 8), "add", "decode-3")]
    if kind == "network node":
        return [Blow(moment, "kill", "network-1"), Blow(moment + chance.uniform(2, 8), "add", "network-2")]
    if kind == "actors":
        gaps = [chance.uniform(4, 9) for _ in range(6)]
        return [Blow(sum(gaps[: number + 1]), "kill actor", "any") for number in range(len(gaps))]
    return [Blow(moment, kind, chance.choice(("decode-1", "decode-2", "network-1")))]


@dataclass
class Chaos:
    """Deals the blows in a thread of its own, from `begin` until they are over or `end` is called."""

    cluster: RayNodes
    places: Places
    blows: Sequence[Blow]
    dealt: list[str] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._deal, daemon=True)
        self._menders: list[threading.Thread] = []

    def begin(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in (self._thread, *self._menders):
            thread.join()
        assert not self.failed, self.failed

    def _deal(self) -> None:
        try:
            for blow in self.blows:
                if self._ended.wait(max(0.0, self._began + blow.at_s - time.monotonic())):
                    return
                told = self._strike(blow)
                self.dealt.append(f"{time.monotonic() - self._began:.1f} s: {told}")
        except BaseException as error:
            self.failed.append(error)

    def _strike(self, blow: Blow) -> str:
        cluster = self.cluster
        match blow.what:
            case "kill":
                cluster.kill(blow.node)
            case "add" if blow.node.startswith("network"):
                cluster.add(blow.node, cpus=1, network=1)
            case "add":
                cluster.add(blow.node, cpus=1, decode=1)
            case "kill actor":
                return self._kill_an_actor()
            case "cable":
                assert isinstance(self.places, Namespaces)
                places = self.places
                places.plug(blow.node, in_=False)
                self._later(lambda: places.plug(blow.node, in_=True))
            case "silence":
                node = cluster.nodes[blow.node]
                node.send(signal.SIGSTOP)
                self._later(lambda: node.send(signal.SIGCONT))
        return f"{blow.what} {blow.node}"

    def _later(self, mend: Callable[[], None]) -> None:
        """What is broken is mended after `SILENCE_S`, also if the job ends before."""

        def wait_and_mend() -> None:
            time.sleep(SILENCE_S)
            mend()
            self.dealt.append(f"{time.monotonic() - self._began:.1f} s: mended")

        self._menders.append(threading.Thread(target=wait_and_mend))
        self._menders[-1].start()

    def _kill_an_actor(self) -> str:
        """Waits for one, if it has just died: a job cannot go on whose actors never live to see a batch."""
        while not self._ended.is_set():
            for node in list(self.cluster.nodes.values()):
                for process in node.processes(ACTOR):
                    with suppress(psutil.Error):
                        process.kill()
                        return f"kill actor {process.pid} on {node.place.name}"
            self._ended.wait(0.2)
        return "no actor to kill"
