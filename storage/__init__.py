"""Where bytes live: storage URIs, backends, the layout of a run, the commit protocol, retention.

A new backend is one file with a class that satisfies `storage.backend.Backend` and a function that
opens it, one line in `BACKENDS`, and one line in `tests/contract/test_backends.py`.
"""

from typing import Final

BACKENDS: Final[dict[str, str]] = {
    "file": "storage.local:open_local",
    "memory": "storage.memory:open_memory",
    "s3": "storage.s3:open_s3",
}
"""URI scheme to `module:function`; the function is called with the URI."""
