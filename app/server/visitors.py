"""Who asks: the address that a request comes from, which is what a visitor can't change at will.

Sessions can be made up by the thousand, so what is shared out, such as room for uploads, is counted by address.
"""

from collections.abc import MutableMapping
from ipaddress import IPv6Address, ip_address
from typing import Any

from starlette.datastructures import Headers

from yoso_core.turns import ASKER

VISITOR = ASKER  # of the request that is being answered; the engine takes turns by it
WHO = "yoso.visitor"  # the same in the request's scope, which is kept with what waits
HOME = 64  # bits of an IPv6 address that belong to one connection


def visitor_of(scope: MutableMapping[str, Any], behind_proxy: bool = False) -> str:
    """The address of who asks; "" where it is unknown.

    Args:
        scope: of the request.
        behind_proxy: whether all come through one proxy, which adds the address that it sees to ``X-Forwarded-For``.
    """
    found = (scope.get("client") or ("",))[0]
    if behind_proxy:
        through = Headers(scope=scope).get("x-forwarded-for", "")
        found = through.rpartition(",")[2].strip() or found
    try:
        address = ip_address(found)
    except ValueError:
        return found
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> HOME << HOME))
    return str(address)
