"""Where bytes live: storage URIs, backends, the layout of a run, the commit protocol, retention.

A new backend is one file with a class that satisfies `storage.backend.Backend`, one line in
`BACKENDS`, and one line in `tests/contract/test_backends.py`.
"""

from typing import Final

BACKENDS: Final[dict[str, str]] = {
    "file": "storage.local:LocalBackend",
    "memory": "storage.memory:MemoryBackend",
}
"""URI scheme to `module:class`; the class is called with the path of the URI."""
