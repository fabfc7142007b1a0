"""Names that Kubernetes takes, made from ours."""

from __future__ import annotations

import hashlib
import re

LONGEST_RUN = 47
"""Characters of a RayJob's or RayService's name: KubeRay makes the names of pods of it."""
LONGEST_CLUSTER = 53
"""Characters of a RayCluster's name."""
DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")

_HASH = 8


def dns_name(name: str, longest: int) -> str:
    """A name of at most `longest` characters, of lower-case letters, digits and `-`.

    A name that has to be changed ends in a hash of what it was, so that two stay two.
    """
    if len(name) <= longest and DNS_1035.match(name):
        return name
    cleaned = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not cleaned[:1].isalpha():
        cleaned = f"job-{cleaned}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH]
    return f"{cleaned[: longest - _HASH - 1].rstrip('-')}-{digest}"
