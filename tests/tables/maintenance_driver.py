"""Runs a maintenance verb and dies right before its k-th step; or commits beside it. Run by the tests of maintenance.

    python maintenance_driver.py kill VERB BASE WORK STRIDE [ARGUMENT]
    python maintenance_driver.py write TABLES SEED ROUNDS

kill   Per STRIDEth step k, a fork of this process works in a copy of BASE, WORK/<k>. What counts as a step is what
       changes the store: put, create, delete, a Delta transaction or checkpoint. Prints a k beyond the last step.
write  Commits appends and replacements as SEED says, as fast as it can; prints nothing.
"""

import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable
from made_rows import segment_parts, unit_keys

from vidproc.tables.commit import Commits, replace_units
from vidproc.tables.compaction import compact
from vidproc.tables.forgetting import Likeness, forget_person, forget_videos
from vidproc.tables.store import Store
from vidproc.tables.vacuum import vacuum

VERBS: dict[str, Callable[[str, str], Any]] = {
    "compact": lambda url, _: list(compact(url, target_bytes=2**20)),
    "vacuum": lambda url, _: vacuum(url, older_than_h=0),
    "forget": forget_videos,
    "forget_person": forget_person,
    "forget_alike": lambda folder, name: forget_person(
        f"{folder}/tables", name, likeness=Likeness(f"{folder}/gallery", 0.4)
    ),
}


def die_before(at: int) -> None:
    passed = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            if threading.current_thread().name != "lease-heartbeat":
                if passed == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                passed += 1
            return function(*args, **kwargs)

        return step

    steps = ((Store, "put"), (Store, "create"), (Store, "delete"))
    for owner, name in (*steps, (DeltaTable, "create_write_transaction"), (DeltaTable, "create_checkpoint")):
        setattr(owner, name, counted(getattr(owner, name)))


def kill(verb: str, base: str, work: str, stride: str, argument: str = "") -> None:
    for k in range(0, 1000, int(stride)):
        trial = Path(work) / str(k)
        shutil.copytree(base, trial)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                die_before(k)
                VERBS[verb](str(trial), argument)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:
            print(k)
            return
        assert code == -signal.SIGKILL, (verb, k, code)


def write(url: str, seed: str, rounds: str) -> None:
    """Some segments of some videos, each round; now and then one video is labelled anew and replaces what was there."""
    chance = random.Random(int(seed))
    with Commits.open(url, run_id="run-1") as commits:
        for i in range(int(rounds)):
            if i and chance.random() < 0.4:
                video_id, model_id = f"{chance.randrange(i):032x}", f"net-{chance.randrange(2)}"
                new = segment_parts(url, video_id, [0, 1, 2], n_segments=3, model_id=model_id)
                replaced = replace_units(unit_keys(video_id, model_id=model_id))
                commits.commit(new, replace={"labels": replaced["labels"], "ledger": replaced["ledger"]})
            else:
                commits.commit(segment_parts(url, f"{i:032x}", [0, 1], n_segments=2, model_id="net-0"))


if __name__ == "__main__":
    {"kill": kill, "write": write}[sys.argv[1]](*sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)
