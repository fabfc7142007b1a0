"""Which network interface processes of several machines find one another by.

gloo takes the address that this machine's name resolves to, which on many systems is one of
loopback's (127.0.1.1 in Debian's /etc/hosts), where nobody else reaches it.
"""

from __future__ import annotations

import os
import socket

_VARIABLE = "GLOO_SOCKET_IFNAME"


def use_interface_towards(host: str) -> None:
    """Has gloo use the interface by which this machine reaches `host`, unless the user named one.

    `host` is an address that all members of the group reach, or one of this machine's own.
    """
    if name := interface_towards(host):
        os.environ.setdefault(_VARIABLE, name)


def interface_towards(host: str) -> str | None:
    """The name of the interface by which this machine reaches a host; None if it does not."""
    import psutil

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # no packet is sent
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == own for address in addresses):
            return str(name)
    return None
