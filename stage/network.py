"""This machine's addresses, free ports and time zone."""

import os
import socket
import sys
from zoneinfo import ZoneInfo

LOOPBACK = "127.0.0.1"


def lan_address() -> str:
    """Return this machine's IPv4 address in the network, or loopback without one.

    Connecting a UDP socket sends nothing; it only selects the address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 9))
            address = str(probe.getsockname()[0])
        except OSError:
            return LOOPBACK
    return address if can_listen(address, 0) else LOOPBACK


def free_port(host: str, wanted: int) -> int:
    """Return the wanted port, or the next one that is free on `host` and on loopback.

    Raises:
        OSError: if 50 ports in a row are in use.
    """
    for port in range(wanted, wanted + 50):
        if can_listen(host, port) and can_listen(LOOPBACK, port):
            return port
    raise OSError(f"ports {wanted} to {wanted + 49} are all in use")


def can_listen(host: str, port: int) -> bool:
    """Return whether a server could listen at this address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # where the option would let two servers share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def time_zone() -> str:
    """Return the name of this machine's time zone, where the system tells it; UTC elsewhere."""
    place = os.path.realpath("/etc/localtime")
    name = os.environ.get("TZ", "").lstrip(":") or place.partition("zoneinfo/")[2]
    try:
        return ZoneInfo(name).key
    except (KeyError, ValueError, OSError):
        return "UTC"
