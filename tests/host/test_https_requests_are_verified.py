"""``http/request`` over TLS, with our host and the reference: who cannot prove to be the server gets no request."""

from __future__ import annotations

import asyncio
import base64
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import BOUND, RunningServer, WireClient

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
BODY = b"secret " * 60_000


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self.certificate = directory / "authority.pem"
        self._openssl(
            *("req", "-x509", "-nodes", *KEY, "-days", "2", "-subj", "/CN=the test's authority"),
            *("-addext", "keyUsage=critical,keyCertSign", "-keyout", "authority.key", "-out", "authority.pem"),
        )

    def server(self, name: str, host: str) -> ssl.SSLContext:
        """What a server needs that proves to be *host*."""
        (self._directory / "extensions").write_text(
            f"subjectAltName=DNS:{host}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n"
        )
        self._openssl(
            *("req", "-nodes", *KEY, "-subj", f"/CN={host}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        self._openssl(
            *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-extfile", "extensions", "-out", f"{name}.pem"),
            *("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial"),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True, timeout=BOUND)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """One that is trusted, and one that nobody knows."""
    if shutil.which("openssl") is None:
        pytest.skip("NOT TESTED: there is no openssl to make certificates with")
    directory = tmp_path_factory.mktemp("authorities")
    return Authority(directory / "known"), Authority(directory / "unknown")


@pytest.fixture
def trusting(authorities: tuple[Authority, Authority], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Servers that are started from here on trust the first of them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities[0].certificate))
    yield


class Web:
    """HTTPS servers, each with a certificate of its own, and what was asked of them."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.ports: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []

    async def listen(self, name: str, context: ssl.SSLContext) -> None:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        self.ports[name] = server.sockets[0].getsockname()[1]

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            self.requests.append(path)
            if path == "/moved":
                writer.write(b"HTTP/1.1 302 Found\r\nLocation: https://localhost:%d/there\r\n" % self.ports["stranger"])
                writer.write(b"Content-Length: 0\r\n\r\n")
            elif path in ("/cut", "/ended"):
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
                await writer.drain()
                if path == "/cut":
                    # Nothing is said under the key any more.
                    writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            # A client that does not trust us leaves.
            pass
        finally:
            writer.close()

    async def aclose(self) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()


@pytest.fixture(scope="module")
def contexts(authorities: tuple[Authority, Authority]) -> dict[str, ssl.SSLContext]:
    """What the servers can prove."""
    known, unknown = authorities
    return {
        "right": known.server("right", "localhost"),
        "other": known.server("other", "example.test"),
        "stranger": unknown.server("stranger", "localhost"),
    }


@pytest.fixture
async def web(contexts: dict[str, ssl.SSLContext]) -> AsyncIterator[Web]:
    web = Web()
    for name, context in contexts.items():
        await web.listen(name, context)
    yield web
    await web.aclose()


@pytest.fixture
async def client(trusting: None, web: Web, either: RunningServer) -> AsyncIterator[WireClient]:
    # In this order: the environment of the server says whom it trusts.
    connected = await WireClient.connect(either.url)
    yield connected
    await connected.close()


def asked(web: Web, server: str, path: str, **more: Any) -> dict[str, Any]:
    url = f"https://localhost:{web.ports[server]}{path}"
    return {"method": "GET", "url": url, "requestId": f"{server}{path}{len(more)}", **more}


async def test_a_server_that_proves_its_name_is_asked(client: WireClient, web: Web) -> None:
    whole = await client.result("http/request", asked(web, "right", "/whole"))
    assert (whole["status"], base64.b64decode(whole["bodyBase64"])) == (200, BODY)
    params = asked(web, "right", "/streamed", streamResponse=True)
    assert (await client.result("http/request", params))["status"] == 200
    await client.until(lambda: client.notifications and client.notifications[-1]["params"]["done"])
    deltas = [base64.b64decode(message["params"]["deltaBase64"]) for message in client.notifications]
    assert b"".join(deltas) == BODY
    assert web.requests == ["/whole", "/streamed"]


async def test_a_connection_that_is_cut_is_no_end_of_a_body(client: WireClient, web: Web) -> None:
    cut = "error decoding response body"
    problem = f"failed to read http/request response body: {cut}"
    assert await client.error("http/request", asked(web, "right", "/cut")) == (-32603, problem)
    whole = await client.result("http/request", asked(web, "right", "/ended"))
    assert base64.b64decode(whole["bodyBase64"]) == b"half of it"
    await client.result("http/request", asked(web, "right", "/cut", streamResponse=True))
    await client.until(lambda: client.notifications and client.notifications[-1]["params"]["done"])
    assert client.notifications[-1]["params"]["error"] == cut


@pytest.mark.parametrize("server", ["other", "stranger"])
async def test_one_that_does_not_gets_no_request(client: WireClient, web: Web, server: str) -> None:
    url = asked(web, server, "/")["url"]
    problem = f"http/request failed: error sending request for url ({url})"
    assert await client.error("http/request", asked(web, server, "/")) == (-32603, problem)
    assert web.requests == []


async def test_nor_does_one_that_a_redirect_leads_to(client: WireClient, web: Web) -> None:
    code, message = await client.error("http/request", asked(web, "right", "/moved"))
    assert (code, "error sending request" in message) == (-32603, True)
    assert web.requests == ["/moved"]


async def test_plain_http_to_a_tls_server_fails(client: WireClient, web: Web) -> None:
    params = {**asked(web, "right", "/"), "url": f"http://localhost:{web.ports['right']}/"}
    assert (await client.error("http/request", params))[0] == -32603
    assert web.requests == []
