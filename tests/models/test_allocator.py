"""Freed memory stays with the process: seen by the page faults that using it again costs."""

import subprocess
import sys

import pytest

from vidproc.models.allocator import keep_freed_memory

_FAULTS = """
import resource, sys, threading
import torch
from torch import nn
from vidproc.models.allocator import keep_freed_memory

def work():
    if sys.argv[1] == "keep":
        assert keep_freed_memory()
    widths = ((3, 16), (16, 16), (16, 32), (32, 32))
    layers = [layer for w, o in widths for layer in (nn.Conv2d(w, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())]
    network, pictures = nn.Sequential(*layers), torch.rand(8, 3, 128, 128)
    for step in range(10):
        if step == 5:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network(pictures).square().mean().backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

torch.set_num_threads(1)
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
    assert faults["leave"] > 5_000
    assert faults["keep"] < faults["leave"] / 2


def test_elsewhere_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
