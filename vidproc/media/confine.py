"""Takes from a decoding child what decoding does not need: `confine`, called once in the child, cannot be undone.

Afterwards the child can read, write and seek on what it holds, map memory, run threads and end itself. It cannot look
into another process, signal one, start one, open or alter a file or a connection, or loosen any of this: resource
limits, no capabilities (for a child of root), and a seccomp filter that answers EPERM to the system calls of `_DENIED`
and ENOSYS to those that are newer than it, the x32 twins of old ones among them.

On other machines than x86_64 and aarch64, and on kernels that refuse the filter, the child goes on without it; the
limits hold (no open files, no processor time or memory beyond the request's), but it can then reach into processes of
the same user.

Sources: seccomp(2), capabilities(7), <linux/filter.h>, <linux/seccomp.h>, <linux/audit.h>; the numbers of the system
calls are those of <asm/unistd_64.h> for x86_64 and <asm-generic/unistd.h> for aarch64.
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITIES_3 = 0x20080522
_CLONE_THREAD = 0x10000

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Per machine: its column below, and its AUDIT_ARCH, by which the filter tells calls of another ABI."""

_DENIED: dict[str, tuple[int | None, int | None]] = {
    # reaching into other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # signalling them, by way of a descriptor's owner as well (fcntl and ioctl)
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    # undoing its own limits, touching those of others
    "prctl": (157, 167),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    # new processes and programs
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    # connections
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "recvmsg": (47, 212),
    "recvmmsg": (299, 243),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # files
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
    "open_by_handle_at": (304, 265),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    # other views of the system
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    # doors that the kernel often had to mend
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "modify_ldt": (154, None),
}
"""System calls that decoding does not need: name → number on (x86_64, aarch64), None where there is none."""

_KILL, _TGKILL, _CLONE, _CLONE3 = (62, 129), (234, 131), (56, 220), (435, 435)
_FIRST_UNKNOWN = 450
"""Later system calls came after this list was made; libc does without them if they are not there."""

# Instructions of the filter's machine, struct sock_filter; a jump names how many to skip if true and if false.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; of the argument its lower, first half
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def confine(limits: dict[str, Any], parent: int) -> None:
    """Confine this process to `limits` (those of `Limits`), and have it die with `parent`."""
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the request above took hold
        os._exit(1)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
    seconds = int(limits["seconds"]) + 5
    for what, value in (
        (resource.RLIMIT_DATA, int(limits["memory_bytes"])),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (value, value))
    if platform.machine() in _MACHINES and sys.maxsize > 1 << 32:
        _install(libc, _program(platform.machine(), os.getpid()))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    for capability in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:  # not allowed to, or past the last one
            break
    header, nothing = struct.pack("=Ii", _CAPABILITIES_3, 0), bytes(24)
    libc.capset(header, nothing)


def _install(libc: ctypes.CDLL, program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), described, 0, 0)


def _program(machine: str, pid: int) -> bytes:
    """The filter for process `pid`: a run of checks, each of which answers or leaves the call to the next."""
    column, arch = _MACHINES[machine]
    denied = [numbers[column] for numbers in _DENIED.values()]
    own = _do(_IF_EQUAL, pid, 0, 1)
    return b"".join(
        [
            _do(_LOAD, _ARCH),
            _do(_IF_EQUAL, arch, 1, 0),
            _refuse(errno.EPERM),
            _do(_LOAD, _NUMBER),
            _do(_IF_AT_LEAST, _FIRST_UNKNOWN, 0, 1),
            _refuse(errno.ENOSYS),
            _do(_IF_EQUAL, _CLONE3[column], 0, 1),  # its flags lie in memory, out of sight; libc then takes clone
            _refuse(errno.ENOSYS),
            _allow_only_if(_KILL[column], own),  # abort() and os.kill(os.getpid()) shall end a child as they say
            _allow_only_if(_TGKILL[column], own),
            _allow_only_if(_CLONE[column], _do(_IF_ANY_BIT, _CLONE_THREAD, 0, 1)),
            *(_do(_IF_EQUAL, number, 0, 1) + _refuse(errno.EPERM) for number in denied if number is not None),
            _do(_RETURN, _ALLOW),
        ]
    )


def _allow_only_if(number: int, test: bytes) -> bytes:
    """Allow system call `number` if `test` of its first argument holds; refuse it otherwise."""
    allow = _do(_RETURN, _ALLOW)
    return _do(_IF_EQUAL, number, 0, 4) + _do(_LOAD, _FIRST_ARGUMENT) + test + allow + _refuse(errno.EPERM)


def _refuse(error: int) -> bytes:
    return _do(_RETURN, _ERROR | error)


def _do(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
