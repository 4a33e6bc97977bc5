"""Freed memory stays with the process: seen by the page faults that using it again costs."""

import subprocess
import sys

import pytest

from vidproc.models.allocator import keep_freed_memory

_FAULTS = """
import resource, sys, threading
import torch
from vidproc.models.allocator import keep_freed_memory

def work():
    if sys.argv[1] == "keep":
        assert keep_freed_memory()
    for step in range(20):
        if step == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        activations = [torch.ones(2 << 20) for _ in range(3)]
        del activations
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)  # as Ray Train runs its function
thread.start()
thread.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {}
    for mode in ("keep", "leave"):
        told = subprocess.run([sys.executable, "-c", _FAULTS, mode], check=True, capture_output=True, text=True).stdout
        faults[mode] = int(told.split()[-1])
    assert faults["leave"] > 2 * 2048  # the pages of 8 MiB, several times
    assert faults["keep"] < faults["leave"] / 10


def test_elsewhere_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
