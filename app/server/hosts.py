"""Which names a studio answers to, and which pages may speak to it.

A browser sends a page's requests to wherever the page's script says, and a name of a stranger may point at this
machine. What tells friend from foe is what a script can't forge: the name that the request was sent to (``Host``), the
page that it came from (``Origin``), and what the browser says of the two (``Sec-Fetch-*``).
"""

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")  # addresses to listen at that mean all of this machine's
TUNNELS = ".gradio.live"  # where --share is reached
NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
PLACE = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(?::(\d{1,5}))?", re.ASCII)
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Hosts:
    """Names of a studio.

    Attributes:
        names: those it answers to, in lower case; addresses without brackets.
        trusted: those of `names` whose pages may also speak to it under another of its names, as those behind a
            reverse proxy do.
        any_address: whether it answers to every address in figures, none of which can be pointed elsewhere.
        tunnel: whether it answers to names that Gradio's tunnel gives.
        everyone: whether nobody is asked anything: it is public, and holds nothing that a visitor could not have.
    """

    names: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()
    any_address: bool = False
    tunnel: bool = False
    everyone: bool = False

    def knows(self, name: str) -> bool:
        if name in self.names:
            return True
        if self.tunnel and name.endswith(TUNNELS):
            return True
        return _is_loopback(name) or (self.any_address and _is_address(name))

    def refusal(self, headers: Headers, method: str = "GET") -> str | None:
        """Why a request is turned away, in one sentence; None for those that are welcome."""
        if self.everyone:
            return None
        places = [*headers.getlist("host"), *_listed(headers.getlist("x-forwarded-host"))]
        called = [_parse(place) for place in places]
        if not headers.getlist("host") or None in called:
            return "This request does not say in a readable way which host it is for."
        for name, _ in called:
            if not self.knows(name):
                told = f"The studio does not answer to the name {name!r:.80}"
                return f"{told}; whoever runs it can allow a name by --allow-host NAME."
        for origin in headers.getlist("origin"):
            if not self._may_speak(origin, called):
                return f"Pages of {origin!r:.80} may not speak to this studio; open its own page instead."
        return None if headers.getlist("origin") else _refuse_foreign(headers, method)

    def _may_speak(self, origin: str, called: list[tuple[str, int | None]]) -> bool:
        try:
            scheme, place = urlsplit(origin).scheme, _parse(urlsplit(origin).netloc)
        except ValueError:
            return False
        if place is None or scheme not in PORTS:
            return False
        usual = PORTS[scheme]
        return place[0] in self.trusted or any(
            (name, port or usual) == (place[0], place[1] or usual) for name, port in called
        )


def hosts_at(address: str, allowed: Iterable[str] = (), share: bool = False, public: bool = False) -> Hosts:
    """The names of a studio that listens at an address.

    Args:
        address: the name or address it listens at.
        allowed: further names, such as a reverse proxy has.
        share: whether Gradio's tunnel leads to it as well.
        public: whether it is everybody's anyway, such as on a public Space.

    Raises:
        ValueError: a name is none.
    """
    trusted = frozenset(map(_checked, allowed))
    names = {"localhost", address.lower().strip("[]"), *trusted} - {""}
    elsewhere = address not in LOOPBACK
    if elsewhere:
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    return Hosts(frozenset(names), trusted, address in EVERYWHERE, share, public)


def _checked(name: str) -> str:
    found = name.strip().lower().strip("[]")
    if not (NAME.fullmatch(found) or _is_address(found)):
        raise ValueError(
            f"{name!r:.80} is no name of a host; write it as in studio.example.org, without http:// or port"
        )
    return found


def _parse(place: str) -> tuple[str, int | None] | None:
    """Name in lower case and port of ``NAME:PORT``; None where it is written otherwise."""
    match = PLACE.fullmatch(place.strip().lower())
    return (match[1].strip("[]"), int(match[2]) if match[2] else None) if match else None


def _listed(values: Iterable[str]) -> list[str]:
    return [part for value in values for part in value.split(",") if part.strip()]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and (ip_address(name).is_loopback or name == "0.0.0.0"))


def _refuse_foreign(headers: Headers, method: str) -> str | None:
    """What other pages embed says no Origin; a link that somebody follows is welcome."""
    if headers.get("sec-fetch-site") not in ("cross-site", "same-site"):
        return None
    if method == "GET" and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document"):
        return None
    return "Other pages may not embed this studio; open its own page instead."
