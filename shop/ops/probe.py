"""What the doctor's checks share: a finding, the case, and a look at an address, a host, a file system."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

from shop import security
from shop.config import Settings

TIMEOUT = (2.0, 4.0)  # seconds to connect, and to wait for an answer


@dataclass(frozen=True)
class Answer:
    """The beginning of an HTTP response. Status 0: there was none, and `text` says why."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """The result of a check. A warning or failure says how to fix it."""

    level: Literal["ok", "note", "skip", "warn", "FAIL"]
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Case:
    """What the checks look at: settings, the response of the gateway's server, whether to create a real invoice, and
    the file for the shape of its reply."""

    settings: Settings
    gateway: Answer
    create_test_invoice: bool = False
    record: Path | None = None

    @property
    def is_sandbox(self) -> bool:
        """Whether the gateway is the sandbox. It says so itself, and only counts in this network."""
        says_so = self.gateway.status == 200 and self.gateway.text.startswith("sandbox")
        return says_so and is_local(self.settings.amwal_project_url)

    def quote(self, said: object, *more_secrets: str) -> str:
        """Return another program's message, short and printable, or nothing of it if it repeats a secret."""
        text = str(said)
        if security.repeats_a_secret(self.settings, text, *more_secrets):
            return security.NOT_SHOWN
        return re.sub(r"[^ -~]", "?", text.strip().partition("\n")[0])[:160]


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
