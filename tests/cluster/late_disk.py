"""A folder as another machine would see it, by FUSE: `python -m ... FOLDER AT SECONDS` shows it.

What is known of a file is kept for so many seconds, also that there is none, as a network file
system keeps it; and a lock holds among those alone who see the folder in this way.
"""

import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.slurm import wait_until

ABOUT = ("mode", "nlink", "uid", "gid", "size", "ino", "atime_ns", "mtime_ns", "ctime_ns")
ROOM = ("bavail", "bfree", "blocks", "bsize", "favail", "ffree", "files", "frsize", "namemax")


def missing() -> str:
    """Why there can be none here; nothing if there can."""
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        return f"{error}: apt-get install fuse3; pip install mfusepy"
    return "" if os.geteuid() == 0 and Path("/dev/fuse").exists() else "FUSE needs root here"


@contextmanager
def late_disk(folder: Path, at: Path, seconds: float):
    """See a folder at another place, until the end."""
    at.mkdir()
    command = [sys.executable, "-m", "tests.cluster.late_disk", str(folder), str(at), str(seconds)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.ismount(at), 60)
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=False)
        process.kill()
        process.wait()


def serve(folder: str, at: str, seconds: float) -> None:
    """Show a folder at another place, until that is unmounted."""
    from mfusepy import FUSE, FuseOSError, Operations

    class Seen(Operations):
        """The calls of the system; paths begin with /."""

        use_ns = True

        def getattr(self, path, fh=None):  # noqa: ARG002
            found = os.lstat(folder + path)
            return {f"st_{k.removesuffix('_ns')}": getattr(found, f"st_{k}") for k in ABOUT}

        def readdir(self, path, fh):  # noqa: ARG002
            return [".", "..", *os.listdir(folder + path)]

        def open(self, path, flags):
            return os.open(folder + path, flags)

        def create(self, path, mode, fi=None):  # noqa: ARG002
            return os.open(folder + path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        def read(self, path, size, offset, fh):  # noqa: ARG002
            return os.pread(fh, size, offset)

        def write(self, path, data, offset, fh):  # noqa: ARG002
            return os.pwrite(fh, data, offset)

        def release(self, path, fh):  # noqa: ARG002
            os.close(fh)

        def fsync(self, path, datasync, fh):  # noqa: ARG002
            os.fsync(fh)

        def truncate(self, path, length, fh=None):  # noqa: ARG002
            os.truncate(folder + path, length)

        def utimens(self, path, times=None):
            os.utime(folder + path, ns=times)

        def rename(self, old, new):
            os.rename(folder + old, folder + new)

        def mkdir(self, path, mode):
            os.mkdir(folder + path, mode)

        def unlink(self, path):
            os.unlink(folder + path)

        def rmdir(self, path):
            os.rmdir(folder + path)

        def chmod(self, path, mode):
            os.chmod(folder + path, mode)

        def access(self, path, mode):
            if not os.access(folder + path, mode):
                raise FuseOSError(errno.EACCES)

        def statfs(self, path):
            found = os.statvfs(folder + path)
            return {f"f_{key}": getattr(found, f"f_{key}") for key in ROOM}

    kept = dict.fromkeys(("entry_timeout", "attr_timeout", "negative_timeout"), seconds)
    FUSE(Seen(), at, foreground=True, **kept)


if __name__ == "__main__":
    serve(os.path.realpath(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
