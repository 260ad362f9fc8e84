"""The same ``http/request`` conversations with our host and with the real ``codex exec-server``."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .harness import RunningServer, WireClient

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-A: 1\r\nx-a: 2\r\nX-L: \xe9\xff\r\nContent-Length: 2\r\n\r\nok"
ANSWERS = {
    "/moved": b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /ok\r\nContent-Length: 2\r\n\r\nxx",
    "/kept": b"HTTP/1.1 307 Kept\r\nConnection: close\r\nLocation: ok\r\nContent-Length: 2\r\n\r\nxx",
    "/other": b"HTTP/1.1 302 Found\r\nConnection: close\r\n"
    b"Location: http://localhost:%d/ok\r\nContent-Length: 0\r\n\r\n",
    "/elsewhere": b"HTTP/1.1 303 See Other\r\nConnection: close\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
    "/round": b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /round\r\nContent-Length: 0\r\n\r\n",
    "/ftp": b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\r\n",
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n",
    "/until-close": b"HTTP/1.1 200 OK\r\n\r\nuntil close",
    "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "/garbage": b"garbage\r\n\r\n",
    "/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "/gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nzzz",
    "/lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok",
    "/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    "/listed-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nokk",
    "/no-length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "/long-length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
    "/codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n"
    b"2\r\nok\r\n0\r\n\r\n",
    "/long-header": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 400_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "/too-long-header": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "/switched": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw",
    "/empty-lines": b"\r\n\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "/lines": b"HTTP/1.1 200 OK\nA:\tb \t\nContent-Length: 0000000000000000000000002\n\nok",
    "/zeros": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"00000000000000000002 \t;x\r\nok\r\n000\r\nA: b\r\n\r\n",
    "/big": b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000,
}


#: Locations that are no address: the answer that has one is told as it is.
NOWHERE = ("http://", "//", "///ok", "http://[", "http://a b/", "http://user@/", "http://127.0.0.1:port/")
for number, location in enumerate(NOWHERE):
    head = f"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {location}\r\nContent-Length: 2\r\n\r\nxx"
    ANSWERS[f"/nowhere-{number}"] = head.encode()

#: Relative locations, and where they lead from ``/web//s/start-N?old`` on, N being their number.
RELATIVE = (
    ("c//d", "/web//s/c//d"),
    ("..//k", "/web///k"),
    ("/..//x", "//x"),
    (".", "/web//s/"),
    ("c;", "/web//s/c;"),
    ("?", "/web//s/start-5?"),
    ("?q#f", "/web//s/start-6?q"),
    ("g?", "/web//s/g?"),
    ("x?http://a//b", "/web//s/x?http://a//b"),
    ("http:rel//x", "/web//s/rel//x"),
    ("http:a:b", "/web//s/a:b"),
)
for number, (location, _) in enumerate(RELATIVE):
    head = f"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    ANSWERS[f"/web//s/start-{number}?old"] = head.encode()

#: Heads that are none.
MALFORMED = (
    b"HTTP/1.1  200 OK\r\n",
    b"HTTP/1.1\t200 OK\r\n",
    b" HTTP/1.1 200 OK\r\n",
    b"HTTP/1.2 200 OK\r\n",
    b"HTTP/1.11 200 OK\r\n",
    b"HTTP/1.1 099 Nearly\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 O\x01K\r\n",
    b"HTTP/1.1 200 O\rK\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\0c\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\x7fc\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\rc\r\n",
    b"HTTP/1.1 200 OK\r\nA b: c\r\n",
    b"HTTP/1.1 200 OK\r\nA(b: c\r\n",
    b"HTTP/1.1 200 OK\r\n\xe9: c\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a" * 65536 + b": c\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551614\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
)
for number, head in enumerate(MALFORMED):
    ANSWERS[f"/malformed-{number}"] = head + b"Content-Length: 2\r\n\r\nok"

#: Bodies that are not in chunks as they say.
NO_CHUNKS = (
    b"3\r\nok\r\n0\r\n\r\n",
    b"1\r\nok\r\n0\r\n\r\n",
    b" 2\r\nok\r\n0\r\n\r\n",
    b"2\nok\r\n0\r\n\r\n",
    b"2\r\nok\n0\r\n\r\n",
    b"2\r\nok\r\n0\r\n\n",
    b'2;x="\ny"\r\nok\r\n0\r\n\r\n',
    b"2\r\nok\r\n0\r\nno header\r\n\r\n",
    b"2\r\nok\r\n0\r\nA b: c\r\n\r\n",
    b"2\r\nok\r\n0\r\nA: \x01\r\n\r\n",
)
for number, chunks in enumerate(NO_CHUNKS):
    ANSWERS[f"/no-chunks-{number}"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


class Web:
    """An HTTP server that keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.port = 0
        #: Requests for ``/hang`` end when this is set.
        self.release = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in lines)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            headers.pop("connection", None)
            self.requests.append((first.removesuffix(" HTTP/1.1"), headers, body))
            path = first.split()[1]
            if ":" in path:
                path = "/ok"
            if path == "/hang":
                await self.release.wait()
            if path == "/half":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
                await writer.drain()
                await self.release.wait()
                writer.write(b"def")
                return
            answer = ANSWERS.get(path, OK)
            if answer.startswith(b"HTTP/1.1 2") and b"Connection:" not in answer:
                # It does close it, and whoever is not told may send the next request into that.
                answer = answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            writer.write(answer % self.port if path == "/other" else answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            # The client has gone away, which some tests want it to.
            pass
        finally:
            writer.close()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    web = Web()
    server = await asyncio.start_server(web.handle, "127.0.0.1", 0)
    web.port = server.sockets[0].getsockname()[1]
    yield web
    web.release.set()
    server.close()
    await server.wait_closed()


class Http:
    """``http/request`` to one server."""

    def __init__(self, client: WireClient, web: Web) -> None:
        self.client = client
        self.web = web
        self._count = 0

    def params(self, url: str, given: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        url = f"http://127.0.0.1:{self.web.port}{url}" if url.startswith("/") else url
        return {"method": "GET", "url": url, "requestId": f"r{self._count}", **given}

    async def get(self, url: str, **given: Any) -> tuple[int, list[tuple[str, str]], bytes]:
        result = await self.client.result("http/request", self.params(url, given))
        headers = [(header["name"], header["value"]) for header in result["headers"]]
        return result["status"], headers, base64.b64decode(result["bodyBase64"])

    async def refused(self, url: str, **given: Any) -> tuple[int, str]:
        code, message = await self.client.error("http/request", self.params(url, given))
        return code, message.replace(f"127.0.0.1:{self.web.port}", "SERVER")

    async def stream(self, url: str, **given: Any) -> tuple[bytes, str | None]:
        params = self.params(url, {"streamResponse": True, **given})
        result = await self.client.result("http/request", params)
        assert result["bodyBase64"] == ""

        def deltas() -> list[dict[str, Any]]:
            found = [n["params"] for n in self.client.notifications if n["method"] == "http/request/bodyDelta"]
            return [delta for delta in found if delta["requestId"] == params["requestId"]]

        await self.client.until(lambda: [delta for delta in deltas() if delta["done"]])
        found = deltas()
        assert [delta["seq"] for delta in found] == list(range(1, len(found) + 1))
        assert [delta["done"] for delta in found] == [False] * (len(found) - 1) + [True]
        return b"".join(base64.b64decode(delta["deltaBase64"]) for delta in found), found[-1]["error"]


@pytest.fixture
async def http(either: RunningServer, web: Web) -> AsyncIterator[Http]:
    client = await WireClient.connect(either.url)
    yield Http(client, web)
    await client.close()


async def test_a_request_and_its_answer(http: Http, web: Web) -> None:
    expected = [("connection", "close"), ("x-a", "1"), ("x-a", "2"), ("content-length", "2")]
    assert await http.get("/ok") == (200, expected, b"ok")
    assert web.requests[-1] == ("GET /ok", {"accept": "*/*", "host": f"127.0.0.1:{web.port}"}, b"")
    headers = [{"name": "A", "value": "é"}, {"name": "Host", "value": "other"}, {"name": "User-Agent", "value": "me"}]
    await http.get("/ok", method="PUT", bodyBase64="aGk=", headers=headers)
    line, sent, body = web.requests[-1]
    assert (line, body) == ("PUT /ok", b"hi")
    assert sent == {"a": "é", "host": "other", "user-agent": "me", "accept": "*/*", "content-length": "2"}
    await http.get("/a b?x=é#fragment")
    assert web.requests[-1][0] == "GET /a%20b?x=%C3%A9"
    await http.get(f"http://user:pw@127.0.0.1:{web.port}/ok")
    assert web.requests[-1][1]["authorization"] == "Basic dXNlcjpwdw=="
    assert (await http.get("/ok", method="HEAD"))[2] == b""


async def test_every_kind_of_body(http: Http) -> None:
    for path, body in (
        ("/chunked", b"abcde"),
        ("/until-close", b"until close"),
        ("/empty", b""),
        ("/continue", b"ok"),
        ("/gzip", b"zzz"),
        ("/big", b"x" * 3_000_000),
    ):
        assert (await http.get(path))[2] == body
        assert await http.stream(path) == (body, None)


async def test_a_length_that_is_told_twice_must_be_the_same(http: Http) -> None:
    assert (await http.get("/lengths"))[2] == b"ok"
    assert (await http.get("/codings"))[2] == b"ok"
    for path in ("/two-lengths", "/listed-lengths", "/no-length", "/long-length"):
        unsent = f"http/request failed: error sending request for url (http://SERVER{path})"
        assert await http.refused(path) == (-32603, unsent)
        assert await http.refused(path, streamResponse=True) == (-32603, unsent)
        assert (await http.get(path, method="HEAD"))[2] == b""


async def test_a_header_may_be_long(http: Http) -> None:
    _, headers, body = await http.get("/long-header")
    assert (dict(headers)["x-long"], body) == ("x" * 400_000, b"ok")
    unsent = "http/request failed: error sending request for url (http://SERVER/too-long-header)"
    assert await http.refused("/too-long-header") == (-32603, unsent)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a/../echo", "/echo"),
        ("/a/./b/..", "/a/"),
        ("/../..", "/"),
        ("/a/%2e%2E/.%2e/b/%2e", "/b/"),
        ("/a//../b", "/a/b"),
        ("/a\\b\\..\\c", "/a/c"),
        ("/a/..;/.../b", "/a/..;/.../b"),
        ("/x?y=/../z", "/x?y=/../z"),
    ],
)
async def test_dots_are_resolved_before_a_path_is_sent(http: Http, web: Web, path: str, sent: str) -> None:
    await http.get(path)
    assert web.requests[-1][0] == f"GET {sent}"
    await http.get(f"http:\\\\\\127.0.0.1:{web.port}{path}")
    assert web.requests[-1][0] == f"GET {sent}"


@pytest.mark.parametrize("number", range(len(RELATIVE)))
async def test_a_relative_redirect_changes_no_more_than_it_says(http: Http, web: Web, number: int) -> None:
    assert (await http.get(f"/web//s/start-{number}?old"))[2] == b"ok"
    assert web.requests[-1][0] == f"GET {RELATIVE[number][1]}"


@pytest.mark.parametrize("number", range(len(NOWHERE)))
async def test_a_redirect_to_no_address_is_told_as_it_is(http: Http, number: int) -> None:
    status, headers, body = await http.get(f"/nowhere-{number}")
    assert (status, dict(headers)["location"], body) == (302, NOWHERE[number], b"xx")


@pytest.mark.parametrize("number", range(len(MALFORMED)))
async def test_what_is_no_head_is_no_answer(http: Http, number: int) -> None:
    unsent = f"http/request failed: error sending request for url (http://SERVER/malformed-{number})"
    assert await http.refused(f"/malformed-{number}") == (-32603, unsent)


@pytest.mark.parametrize("number", range(len(NO_CHUNKS)))
async def test_a_body_that_is_not_as_it_says_is_none(http: Http, number: int) -> None:
    cut = "error decoding response body"
    assert await http.refused(f"/no-chunks-{number}") == (
        -32603,
        f"failed to read http/request response body: {cut}",
    )
    assert (await http.stream(f"/no-chunks-{number}"))[1] == cut


async def test_what_is_unusual_but_clear_is_understood(http: Http, web: Web) -> None:
    assert (await http.get("/empty-lines"))[2] == b"ok"
    _, headers, body = await http.get("/lines")
    assert (headers[0], body) == (("a", "b"), b"ok")
    assert (await http.get("/zeros"))[2] == b"ok"
    status, headers, body = await http.get("/switched")
    assert (status, headers[0], body) == (101, ("upgrade", "x"), b"")
    # What comes after it would be no longer HTTP.
    assert (await http.get("/ok", method="CONNECT"))[2] == b""
    assert web.requests[-1][0] == f"CONNECT 127.0.0.1:{web.port}"


async def test_headers_of_a_body_go_where_it_goes(http: Http, web: Web) -> None:
    body = {"Content-Type": "a/b", "Content-Encoding": "c"}
    names = {**body, "Content-Language": "d", "Host": "other", "A": "e"}
    headers = [{"name": name, "value": value} for name, value in names.items()]
    for path, method, becomes in (
        ("/moved", "POST", "GET"),
        ("/moved", "GET", "GET"),
        ("/moved", "PUT", "PUT"),
        ("/kept", "POST", "POST"),
        ("/elsewhere", "GET", "GET"),
        ("/elsewhere", "PUT", "GET"),
        ("/elsewhere", "HEAD", "HEAD"),
    ):
        await http.get(path, method=method, headers=headers, bodyBase64="aGk=")
        line, sent, arrived = web.requests[-1]
        assert line == f"{becomes} /ok"
        bare = method != becomes or path == "/elsewhere"
        kept = {name.lower(): value for name, value in names.items() if not bare or name not in body}
        if not bare:
            kept["content-length"] = "2"
        assert {name: value for name, value in sent.items() if name not in ("accept", "referer")} == kept
        assert arrived == (b"" if bare else b"hi")


async def test_redirects(http: Http, web: Web) -> None:
    assert (await http.get("/moved", redirectPolicy="stop"))[0::2] == (302, b"xx")
    assert (await http.get("/moved", method="POST", bodyBase64="aGk="))[2] == b"ok"
    line, headers, body = web.requests[-1]
    assert (line, body) == ("GET /ok", b"")
    assert headers["referer"] == f"http://127.0.0.1:{web.port}/moved"
    await http.get("/kept", method="POST", bodyBase64="aGk=", headers=[{"name": "A", "value": "b"}])
    line, headers, body = web.requests[-1]
    assert (line, headers["a"], body) == ("POST /ok", "b", b"hi")
    private = [{"name": name, "value": "secret"} for name in ("Authorization", "Cookie", "X-Y")]
    await http.get("/other", headers=private)
    headers = web.requests[-1][1]
    assert (headers["host"], headers["x-y"]) == (f"localhost:{web.port}", "secret")
    assert not {"authorization", "cookie"} & set(headers)
    assert headers["referer"] == f"http://127.0.0.1:{web.port}/"
    assert await http.refused("/round") == (-32603, "http/request failed: too many redirects")
    unsupported = "http/request failed: redirect target uses unsupported URL scheme: ftp"
    assert await http.refused("/ftp") == (-32603, unsupported)


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("%31%32%37.0.0.1", "127.0.0.1"),
        ("１２７。0．0｡1", "127.0.0.1"),
        ("LOCAL%48ost", "localhost"),
        ("ⓛocal\u00adhost", "localhost"),
        ("[0:0::FFFF:127.0.0.1]", "[::ffff:7f00:1]"),
        ("user:@127.0.0.1", "127.0.0.1"),
    ],
)
async def test_a_host_has_one_spelling(http: Http, web: Web, host: str, sent: str) -> None:
    await http.get(f"\x1f http://{host}:0{web.port}/?#\x01")
    assert (web.requests[-1][0], web.requests[-1][1]["host"]) == ("GET /?", f"{sent}:{web.port}")


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("EXÄMPLE.invalid:80", "xn--exmple-cua.invalid"),
        ("straße.invalid", "xn--strae-oqa.invalid"),
        ("ΑΣ.invalid", "xn--mxa0b.invalid"),
        ("a..invalid:", "a..invalid"),
        ("me:secret@a_b.invalid:080", "a_b.invalid"),
        ("a" * 70 + ".invalid", "a" * 70 + ".invalid"),
    ],
)
async def test_a_name_is_that_of_one_server_only(http: Http, host: str, meant: str) -> None:
    unsent = f"http/request failed: error sending request for url (http://{meant}/)"
    assert await http.refused(f"http://{host}/") == (-32603, unsent)


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("[::1", "invalid IPv6 address"),
        ("[]", "invalid IPv6 address"),
        ("[127.0.0.1]", "invalid IPv6 address"),
        ("[::1%25lo]", "invalid IPv6 address"),
        ("[v1.x]", "invalid IPv6 address"),
        ("256.0.0.1", "invalid IPv4 address"),
        ("1.2.3.4.5", "invalid IPv4 address"),
        ("127.0.08.1", "invalid IPv4 address"),
        ("4294967296", "invalid IPv4 address"),
        ("a.1", "invalid IPv4 address"),
        ("a b", "invalid international domain name"),
        ("a%2fb", "invalid international domain name"),
        ("a%", "invalid international domain name"),
        ("a|b", "invalid international domain name"),
        ("xn--.invalid", "invalid international domain name"),
        ("xn--a.invalid", "invalid international domain name"),
        ("::1", "empty host"),
        ("user:pw@", "empty host"),
        (":80", "empty host"),
        ("a:65536", "invalid port number"),
        ("a:+1", "invalid port number"),
        ("a:１", "invalid port number"),
        ("a:1:1", "invalid port number"),
    ],
)
async def test_what_is_no_host_is_told(http: Http, location: str, problem: str) -> None:
    assert await http.refused(f"http://{location}/") == (-32602, f"http/request url is invalid: {problem}")


@pytest.mark.parametrize("userinfo", ["", ":", "u%ff:p"])
async def test_who_names_nobody_is_nobody(http: Http, web: Web, userinfo: str) -> None:
    await http.get(f"http://{userinfo}@127.0.0.1:{web.port}/ok")
    assert "authorization" not in web.requests[-1][1]


async def test_only_what_is_streamed_needs_an_id_of_its_own(http: Http, web: Web) -> None:
    # Ends when the server lets it.
    streaming = http.params("/half", {"streamResponse": True, "requestId": "id"})
    assert (await http.client.result("http/request", streaming))["status"] == 200
    taken = "http/request streamResponse requestId `id` is already active"
    assert await http.refused("/ok", requestId="id", streamResponse=True) == (-32602, taken)
    assert (await http.get("/ok", requestId="id"))[2] == b"ok"
    both = [http.client.request("http/request", http.params("/big", {"requestId": "same"})) for _ in range(2)]
    for identity in both:
        reply = await http.client.reply(identity)
        assert "result" in reply, reply
        assert reply["result"]["status"] == 200
    web.release.set()
    await http.client.until(lambda: http.client.notifications and http.client.notifications[-1]["params"]["done"])
    http.client.notifications.clear()
    assert await http.stream("/ok", requestId="id") == (b"ok", None)


async def test_what_fails(http: Http) -> None:
    cut = "error decoding response body"
    assert await http.refused("/cut") == (-32603, f"failed to read http/request response body: {cut}")
    assert await http.stream("/cut") == (b"abc", cut)
    unsent = "http/request failed: error sending request for url"
    assert await http.refused("/garbage") == (-32603, f"{unsent} (http://SERVER/garbage)")
    assert await http.refused("http://127.0.0.1:1/") == (-32603, f"{unsent} (http://127.0.0.1:1/)")
    assert (await http.refused("/hang", timeoutMs=100))[0] == -32603


@pytest.fixture
def set_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the servers that are started after it."""
    monkeypatch.setenv("SET_TO_NOTHING", "")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"url": "ftp://x/"}, "http/request only supports http and https URLs, got ftp"),
        ({"url": "nope"}, "http/request url is invalid: relative URL without a base"),
        ({"method": "foo bar"}, "http/request method is invalid: invalid HTTP method"),
        ({"bodyBase64": "!!"}, "Invalid symbol 33, offset 0."),
        ({"bodyBase64": "YR=="}, "Invalid last symbol 82, offset 1."),
        ({"bodyBase64": "!!", "method": "foo bar", "url": "nope"}, "Invalid symbol 33, offset 0."),
        (
            {"headers": [{"name": "bad name", "value": "x"}]},
            "http/request header name is invalid: invalid HTTP header name",
        ),
        (
            {"headers": [{"name": "a", "value": "x\r\nY: z"}]},
            "http/request header value is invalid for a: failed to parse header value",
        ),
        (
            {"headers": [{"name": "a", "value": "", "valueEnvVar": "NOT_SET"}]},
            "http/request header a requires executor environment variable NOT_SET",
        ),
        (
            {"headers": [{"name": "a", "value": "", "valueEnvVar": "OPENAI_API_KEY"}]},
            "http/request header a cannot use executor environment variable OPENAI_API_KEY",
        ),
        (
            {"headers": [{"name": "a", "value": "", "valueEnvVar": "SET_TO_NOTHING"}]},
            "http/request header a requires a non-empty executor environment variable SET_TO_NOTHING",
        ),
        (
            {"headers": [{"name": "a" * 65536, "value": "x"}]},
            "http/request header name is invalid: invalid HTTP header name",
        ),
        ({"headers": [{"name": "a"}]}, "missing field `value`"),
    ],
)
async def test_what_is_refused(set_to_nothing: None, http: Http, web: Web, given: dict[str, Any], problem: str) -> None:
    assert await http.refused(**{"url": "/ok", **given}) == (-32602, problem)
    assert web.requests == []


@pytest.mark.parametrize("milliseconds", [-1, 1.5, "1"])
async def test_a_timeout_is_a_whole_number(http: Http, web: Web, milliseconds: object) -> None:
    assert (await http.refused("/ok", timeoutMs=milliseconds))[0] == -32602
    assert web.requests == []


#: What the reference implementation denies, measured by asking for all that looks like a credential.
DENIED = """
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN CODEX_ACCESS_TOKEN CODEX_API_KEY CODEX_CONNECTORS_TOKEN
    CODEX_EXEC_SERVER_NOISE_AUTH_TOKEN CODEX_GUARDIAN_DECISIONS_API_KEY GOOGLE_APPLICATION_CREDENTIALS OPENAI_API_KEY
    OPENAI_FEDERATION_RULE_ID OPENAI_IDENTITY_TOKEN_FILE OPENAI_WORKLOAD_IDENTITY_CONTEXT openai_api_key
"""


async def test_credentials_of_the_host_are_denied(http: Http, web: Web) -> None:
    for variable in DENIED.split():
        problem = f"http/request header a cannot use executor environment variable {variable}"
        headers = [{"name": "a", "value": "", "valueEnvVar": variable}]
        assert await http.refused("/ok", headers=headers) == (-32602, problem)
    assert web.requests == []


async def test_a_header_from_the_environment_goes_to_no_other_server(host: RunningServer, web: Web) -> None:
    """Unlike with the reference implementation, which hands it on."""
    client = await WireClient.connect(host.url)
    http = Http(client, web)
    headers = [{"name": "X-Token", "value": "", "valueEnvVar": "PATH"}, {"name": "X-Plain", "value": "plain"}]
    await http.get("/kept", headers=headers)
    line, sent, _ = web.requests[-1]
    assert (line, sent["x-plain"]) == ("GET /ok", "plain")
    assert sent["x-token"].startswith("/")
    await http.get("/other", headers=headers)
    line, sent, _ = web.requests[-1]
    assert (line, sent["x-plain"], sent["host"]) == ("GET /ok", "plain", f"localhost:{web.port}")
    assert "x-token" not in sent
    await client.close()


async def test_a_header_may_come_from_the_environment_of_the_host(http: Http, web: Web) -> None:
    await http.get("/ok", headers=[{"name": "a", "value": "prefix ", "valueEnvVar": "PATH"}])
    assert web.requests[-1][1]["a"].startswith("prefix /")
