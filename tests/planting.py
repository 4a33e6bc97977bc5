"""Poisonous videos: valid ones that crash, hang or starve the decoding child where `FOLDER` is on PYTHONPATH.

    path.write_bytes(poisoned(video_bytes, "segfault"))            # at probe and decode
    path.write_bytes(poisoned(video_bytes, "decode/segfault"))     # at decode alone

The faults are those of `poison/sitecustomize.py`: segfault, sleep, busy, memory, kill, exit, kill_sandbox, error,
garbage, no_answer, brackets, wrong_answer, half_message, huge_message, short_question, vast_question, read_forever.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "poison"


def poisoned(video: bytes, fault: str) -> bytes:
    """The video with an MP4 `free` box at its end that names the fault; other containers ignore it as well."""
    mark = b"POISON:" + fault.encode()
    if len(mark) > 32:
        raise ValueError(f"{fault!r} is too long: at most 25 characters")
    return video + (40).to_bytes(4, "big") + b"free" + mark.ljust(32, b"\0")
