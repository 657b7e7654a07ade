"""A look from outside, for the doctor: at an address, a host, a file system."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

TIMEOUT = (2.0, 4.0)  # seconds to connect, and to wait for an answer


@dataclass(frozen=True)
class Answer:
    """The beginning of an HTTP response. Status 0: there was none, and `text` says why."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


def ask(method: str, url: str, message: object = None) -> Answer:
    """Send an HTTP request as the gateway would: without a proxy, following no redirect."""
    options: dict[str, Any] = {"json": message, "timeout": TIMEOUT, "allow_redirects": False, "stream": True}
    with requests.Session() as session:
        session.trust_env = False
        try:
            response = session.request(method, url, **options)
            start = next(response.iter_content(1000), b"")
        except requests.exceptions.SSLError:
            return Answer(0, "its certificate is not accepted")
        except (requests.RequestException, OSError, ValueError) as error:
            return Answer(0, type(error).__name__)
    return Answer(response.status_code, start.decode("utf-8", "replace"), response.headers)


def is_local(url: str) -> bool:
    """Whether an address is in this machine or network, judging by its host."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private  # loopback is, too
    except ValueError:
        return host == "localhost"


def file_system(path: Path, mounts: str) -> str:
    """Return the kind of file system of a path, from the text of `/proc/mounts`; empty if not found."""
    kinds = {}
    for line in mounts.splitlines():  # of two mounts at one place, the later one counts
        _, place, kind, *_ = line.split(" ")
        kinds[Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place))] = kind
    return next((kinds[place] for place in (path, *path.parents) if place in kinds), "")
