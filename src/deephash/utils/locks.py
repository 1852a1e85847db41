"""File locks that name their holder.

The operating system releases a lock when its process ends, so a lock file of a killed process locks
nothing. Filesystems without file locks (some Lustre and network mounts) are used without a lock,
after a warning: a marker file would prevent a run from being resumed after its machine was lost.
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
"""Seconds after which a waiting process prints a line, and between two attempts."""

UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""Errors of filesystems without file locks."""

READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors of lock files without permission to write."""

LOOKS, LOOK_AGAIN = 5, 0.005
"""Attempts of ``is_locked``, which take the lock briefly, and the seconds between them."""

HOLDER_BYTES = 400
"""Limit on the bytes of a lock file that are read."""

log = logging.getLogger("deephash")

_warned = False


class Lock:
    """A locked file; as a context manager it is released and removed at the end.

    Attributes:
        path: of the file.
        exclusive: False on a filesystem without file locks.
    """

    def __init__(self, path: Path, descriptor: int, exclusive: bool):
        self.path = path
        self.exclusive = exclusive
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path) -> "Lock | None":
        """Create and lock a file without waiting.

        Args:
            path: the file; its folder must exist. The content is replaced.

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
            with contextlib.suppress(OSError):  # a full disk: locked without a name
                os.ftruncate(descriptor, 0)
                os.write(descriptor, process_name().encode())
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        return cls(path, descriptor, exclusive)

    @classmethod
    def wait(cls, path: Path, purpose: str) -> "Lock":
        """Lock a file as soon as it is free; print its holder if that takes long.

        Args:
            path: the file.
            purpose: of the holder, such as ``which decodes the same images``.

        Raises:
            WriteError: as ``acquire``.
        """
        start, announced = time.monotonic(), False
        while (lock := cls.acquire(path)) is None:
            if not announced and time.monotonic() - start > WAIT:
                announced = True
                tell(f"waiting for {holder(path) or 'another process'}, {purpose}")
            time.sleep(POLL)
        return lock

    def release(self) -> None:
        """Remove and unlock the file; a second call does nothing."""
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
    """Return whether another process or thread holds a lock, without changing the file.

    False also if there is no such file, or on a filesystem without file locks.
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
    """Return the name of this process and its machine, as written to lock files."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _open(path: Path, flags: int) -> int:
    """Open a lock file without following links and without blocking."""
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
    """Return whether an open file is still the one at its path."""
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
            " processes write in one folder",
            path.parent,
            error.strerror,
        )
