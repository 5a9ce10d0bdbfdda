"""Who a studio answers, by the names in a request's head."""

import socket

import httpx
import pytest
from starlette.datastructures import Headers

from app.server.hosts import Hosts, hosts_at

OWN = socket.gethostname().lower()
LOCAL = hosts_at("127.0.0.1")
WIDE = hosts_at("0.0.0.0")


def ask(hosts: Hosts, host: str | None, method: str = "POST", **more: str) -> bool:
    """Whether a request is welcome; `more` are its other headers, "_" for "-"."""
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    return hosts.refusal(Headers(headers | ({"host": host} if host is not None else {})), method) is None


HOME = ["127.0.0.1:7860", "localhost", "LOCALHOST:7860", "[::1]:7860", "0.0.0.0:7860", "127.8.0.1"]
STRANGE = ["evil.example", "x.localhost", "localhost.", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]:80"]
STRANGE += ["8.8.8.8", "2130706433", "0", "0x7f.1", "127.1", "", "a b", "localhost:x", "localhost@evil.example", "::1"]


@pytest.mark.parametrize("host", HOME)
def test_a_local_studio_answers_to_the_loopback(host):
    assert ask(LOCAL, host) and ask(hosts_at("::1"), host) and ask(hosts_at("localhost"), host)


@pytest.mark.parametrize("host", [*STRANGE, None, OWN])
def test_a_local_studio_answers_to_no_other_name(host):
    assert not ask(LOCAL, host)


def test_a_studio_of_a_network_answers_to_addresses_and_its_machine():
    for host in (*HOME, "192.168.0.7:7860", "[fe80::1]:7860", "10.0.0.1", OWN, f"{OWN.partition('.')[0]}.local:7860"):
        assert ask(WIDE, host) and ask(hosts_at("::"), host)
    for host in ("evil.example", "x.localhost", f"{OWN}.evil.example"):
        assert not ask(WIDE, host)
    one = hosts_at("192.168.0.7")
    assert ask(one, "192.168.0.7:80") and ask(one, OWN) and not ask(one, "192.168.0.8")
    assert ask(hosts_at("Studio.lan"), "studio.lan:7860")


def test_a_name_can_be_allowed():
    behind = hosts_at("127.0.0.1", ["Studio.Example.org", "10.0.0.3"])
    assert ask(behind, "studio.example.org") and ask(behind, "10.0.0.3:9") and not ask(behind, "example.org")
    assert ask(behind, "127.0.0.1:7860", x_forwarded_host="studio.example.org")
    assert not ask(behind, "127.0.0.1:7860", x_forwarded_host="evil.example")
    assert not ask(behind, "studio.example.org", x_forwarded_host="studio.example.org, evil.example")
    # A proxy may ask for the studio by its own name for it, while pages are at the public one.
    assert ask(behind, "127.0.0.1:7860", origin="https://studio.example.org")
    assert not ask(LOCAL, "127.0.0.1:7860", origin="https://studio.example.org")


@pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "", "a b", "*", "a/b", "-a.example"])
def test_what_is_no_name_can_not_be_allowed(name):
    with pytest.raises(ValueError, match="is no name of a host"):
        hosts_at("127.0.0.1", [name])


ORIGINS = ["http://evil.example", "null", "https://127.0.0.1:7860", "http://127.0.0.1:3000", "http://localhost:7860"]
ORIGINS += ["http://x.localhost:7860", "http://127.0.0.1:7860.evil.example", "file://", "", "http://[", "http://"]
ORIGINS += ["ftp://127.0.0.1:7860", "chrome-extension://127.0.0.1:7860", "http://a@127.0.0.1:7860"]


@pytest.mark.parametrize("origin", [*ORIGINS[:2], *ORIGINS[3:]])
def test_pages_from_elsewhere_may_not_speak(origin):
    assert not ask(LOCAL, "127.0.0.1:7860", origin=origin) and not ask(WIDE, "127.0.0.1:7860", origin=origin)


def test_ones_own_pages_may():
    assert ask(LOCAL, "127.0.0.1:7860", origin="http://127.0.0.1:7860")
    assert ask(LOCAL, "localhost", origin="http://localhost") and ask(LOCAL, "localhost:80", origin="http://LocalHost")
    assert ask(WIDE, "192.168.0.7:7860", origin="http://192.168.0.7:7860")
    assert ask(hosts_at("127.0.0.1", share=True), "abc.gradio.live", origin="https://abc.gradio.live")
    assert not ask(hosts_at("127.0.0.1", share=True), "abc.gradio.live", origin="https://xyz.gradio.live")
    assert not ask(LOCAL, "abc.gradio.live")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_links_lead_here_but_nothing_is_embedded(site):
    link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask(LOCAL, "localhost", "GET", **link)
    assert not ask(LOCAL, "localhost", "POST", **link)
    for other in ({"sec_fetch_dest": "iframe"}, {"sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}):
        assert not ask(LOCAL, "localhost", "GET", **link | other)
    assert ask(LOCAL, "localhost", "GET", sec_fetch_site="same-origin") and ask(LOCAL, "localhost", "GET")


def test_a_public_space_is_everybodys():
    space = hosts_at("0.0.0.0", public=True)
    assert ask(space, "somebody-studio.hf.space") and ask(space, "anything", origin="https://elsewhere.example")


# What is asked of a studio that is served


PATHS = [("GET", ""), ("GET", "config"), ("POST", "gradio_api/upload"), ("POST", "gradio_api/queue/join")]
PATHS += [("POST", "gradio_api/call/echo"), ("OPTIONS", "gradio_api/upload"), ("GET", "gradio_api/mcp/")]
FOREIGN = [{"host": "x.localhost"}, {"origin": "http://evil.example"}, {"origin": "null"}]
FOREIGN += [{"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_door_is_left_open(served, method, path, headers):
    """Gradio answers some of these itself: what is asked before a foreign page may speak."""
    headers = headers | ({"access-control-request-method": "POST"} if method == "OPTIONS" else {})
    answer = httpx.request(method, served.url + path, headers=headers, timeout=20)
    assert answer.status_code == 403 and answer.json()["detail"].endswith(".")
    assert "access-control-allow-origin" not in answer.headers


def test_what_is_refused_does_nothing(served):
    body = {"data": ["from a foreign page"]}
    for headers in FOREIGN:
        served.http.post("call/echo", json=body, headers=headers)
    assert "ours" in served.answer("ours") and served.seen[-1:] == ["ours"]
    assert "from a foreign page" not in served.seen
