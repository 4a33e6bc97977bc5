"""Writes an evaluation and dies right before its k-th step. Run by test_evaluations.

    python evaluations_driver.py BASE WORK

BASE holds an older evaluation. Per step k, a fork of this process works in a copy, WORK/<k>. What counts as a step is
what changes the store: put, create, and a Delta transaction. Prints how many steps there are.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from vidproc.tables.evaluations import Evaluation, write_evaluations
from vidproc.tables.store import Store


def evaluation_rows(value: float = 1.0, *, model_id: str = "net-1", labels: str = "ab") -> list[Evaluation]:
    """One figure of all examples and one of each label, all of the same value."""
    return [
        Evaluation(model_id=model_id, dataset="shapes", protocol="center", metric="recall", slice=where, value=value)
        for where in ("", *(f"label={name}" for name in labels))
    ]


def die_before(at: int) -> None:
    passed = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            if passed == at:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1
            return function(*args, **kwargs)

        return step

    for owner, name in ((Store, "put"), (Store, "create"), (DeltaTable, "create_write_transaction")):
        setattr(owner, name, counted(getattr(owner, name)))


def main() -> None:
    base, work = map(Path, sys.argv[1:])
    for k in range(100):
        shutil.copytree(base, work / str(k))
        pid = os.fork()
        if not pid:
            die_before(k)
            write_evaluations(str(work / str(k)), evaluation_rows(value=2.0), lease_s=60.0)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            print(k)
            return


if __name__ == "__main__":
    main()
