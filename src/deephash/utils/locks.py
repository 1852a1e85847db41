"""Keep two processes out of one place: a lock on a file that names its holder.

The operating system releases a lock when its process ends, however it ends, so a lock file that
was left behind by a killed process locks nothing. Filesystems that cannot lock files (some Lustre
and network mounts) are used without a lock, after one warning: a marker that only looks like a
lock would keep a run from being resumed after its machine was lost.
"""

import contextlib
import errno
import logging
import os
import socket
import stat
import time
from pathlib import Path
from typing import Self

from filelock import lock_descriptor

from deephash.errors import WriteError
from deephash.utils.progress import tell

WAIT, POLL = 1.0, 0.1
"""Seconds after which a waiting process says so, and between two attempts."""

UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""Errors by which a filesystem says that it cannot lock files."""

READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors of a lock file that may be read and not written."""

LOOKS, LOOK_AGAIN = 5, 0.005
"""How often ``is_locked`` looks, and seconds in between: another look takes the lock briefly."""

HOLDER_BYTES = 400
"""Bytes of a lock file that are read: the holder's name."""

log = logging.getLogger("deephash")

_warned = False


class Lock:
    """A locked file. As a context manager it is released and removed at the end.

    Attributes:
        path: of the file.
        exclusive: whether it keeps others out; False on a filesystem that cannot lock files.
    """

    def __init__(self, path: Path, descriptor: int, exclusive: bool):
        self.path = path
        self.exclusive = exclusive
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path) -> "Lock | None":
        """Lock a file, which is made if it does not exist, without waiting.

        Args:
            path: of the file; its folder must exist. What the file holds is replaced.

        Returns:
            The lock, or None if another process or thread holds it.

        Raises:
            WriteError: the file cannot be made, or is a link or no regular file.

        Example:
            >>> lock = Lock.acquire(Path(".lock"))
            >>> Lock.acquire(Path(".lock")) is None
            True
            >>> lock.release()
        """
        descriptor = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise _not_a_lock_file(path)
            try:
                exclusive = locked = lock_descriptor(descriptor, blocking=False)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise WriteError(path, error) from error
                exclusive, locked = False, True
                _warn(path, error)
            # The previous holder may have removed the file between opening and locking it.
            if not locked or not _is_at(path, descriptor):
                os.close(descriptor)
                return None
            with contextlib.suppress(OSError):  # a full disk: the lock is held, if unnamed
                os.ftruncate(descriptor, 0)
                os.write(descriptor, process_name().encode())
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        return cls(path, descriptor, exclusive)

    @classmethod
    def wait(cls, path: Path, purpose: str) -> "Lock":
        """Lock a file once nobody else holds it; say who does if that takes long.

        Args:
            path: of the file.
            purpose: what the holder does, such as ``which decodes the same images``.

        Raises:
            WriteError: as ``acquire``.
        """
        start, told = time.monotonic(), False
        while (lock := cls.acquire(path)) is None:
            if not told and time.monotonic() - start > WAIT:
                told = True
                tell(f"waiting for {holder(path) or 'another process'}, {purpose}")
            time.sleep(POLL)
        return lock

    def release(self) -> None:
        """Remove the file and let others lock it; a second call does nothing."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        with contextlib.suppress(OSError):  # the folder was removed or became read-only
            if _is_at(self.path, descriptor):
                self.path.unlink()
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Look whether another process or thread holds a lock, without changing the file.

    Args:
        path: of the lock file.

    Returns:
        True if it is held. False if nobody holds it, if there is no such file, and where that
        cannot be known, as on a filesystem that cannot lock files.
    """
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_AGAIN)
        try:
            try:
                descriptor = _open(path, os.O_RDWR)
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise
                descriptor = _open(path, os.O_RDONLY)
            try:
                if lock_descriptor(descriptor, blocking=False):
                    return False
            finally:
                os.close(descriptor)
        except OSError:
            return False
    return True


def holder(path: Path) -> str:
    """Return the process that a lock file names, such as ``process 12 on host``; empty if none."""
    try:
        descriptor = _open(path, os.O_RDONLY)
        try:
            text = os.read(descriptor, HOLDER_BYTES).decode(errors="replace").strip()
        finally:
            os.close(descriptor)
    except OSError:
        return ""
    return "".join(letter for letter in text if letter.isprintable())


def process_name() -> str:
    """Return what a lock file says of its holder: this process and its machine."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _open(path: Path, flags: int) -> int:
    """Open a lock file itself, not what a link of its name points to, without blocking."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        if path.is_symlink() or path.is_dir():
            raise _not_a_lock_file(path) from error
        raise WriteError(path, error) from error


def _not_a_lock_file(path: Path) -> WriteError:
    kind = "a symbolic link" if path.is_symlink() else "a folder" if path.is_dir() else None
    reason = f"it is {kind or 'a hard link, or not a regular file'}, and locks are regular files"
    return WriteError(path, reason, "Delete it, if nothing else needs it.")


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _warn(path: Path, error: OSError) -> None:
    global _warned
    if not _warned:
        _warned = True
        log.warning(
            "files cannot be locked in %s (%s): locking is off, so see to it yourself that no two"
            " processes train in one folder",
            path.parent,
            error.strerror,
        )
