"""A folder for temporary files where the usual ones cannot be written, as in a read-only container.

Importing torchvision needs one: ``torch._dynamo.package`` (2.15) asks for it. Python knows ``TMPDIR``, ``/tmp``,
``/var/tmp``, ``/usr/tmp`` and the working directory; Linux has shared memory besides, which containers keep writable.
"""

import os
import tempfile

_SHARED_MEMORY = "/dev/shm"


def ensure_temporary_folder() -> None:
    """Let ``tempfile``, in this process, take shared memory if there is nothing else.

    Raises:
        ImportError: that is not there either.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        if not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
            raise ImportError(
                "PyTorch needs a folder for temporary files, and none can be written; set TMPDIR to one that can"
            ) from None
        tempfile.tempdir = _SHARED_MEMORY


ensure_temporary_folder()
