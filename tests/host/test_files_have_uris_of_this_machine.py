"""URIs of Windows are not taken for paths of this machine, by our host and by the real ``codex exec-server``."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.uri import normalize, resolve_dots, uri_to_path

from .harness import WireClient

URIS = [
    ("file:///C:/x", "file:///C:/x"),
    ("file:///c:/x/", "file:///C:/x/"),
    ("file:///C:", "file:///C:"),
    ("file:C:/x", "file:///C:/x"),
    ("file://C:/x", "file:///C:/x"),
    ("file://localhost/C:/x y", "file:///C:/x%20y"),
    ("file:///c%3a/x", "file:///C%3a/x"),
    ("file:////C://x", "file:///C://x"),
    ("file:///%2E/a/../C:/x/../y", "file:///C:/y"),
    ("file:///C:/../../etc", "file:///C:/etc"),
    ("file:\\\\\\C:\\x", "file:///C:/x"),
    ("file://Server/share", "file://server/share"),
    ("file://server", "file://server/"),
    ("file:///c:/..", "file:///C:/"),
    ("file:/C|/x", "file:///C:/x"),
    ("file://C|/x", "file:///C:/x"),
    ("file://server/../x/%41/./", "file://server/x/%41/"),
    ("file://server/C:/x", "file:///C:/x"),
    (" file://Ser%76er/a^b c\n", "file://server/a^b%20c"),
]


@pytest.mark.parametrize(("uri", "told"), URIS)
async def test_a_path_of_windows_is_refused(client: WireClient, uri: str, told: str) -> None:
    refused = (-32600, f"'{told}' is invalid on 'linux'")
    assert await client.error("fs/getMetadata", {"path": uri}) == refused
    start: dict[str, Any] = {"argv": ["true"], "env": {}, "tty": False, "arg0": None, "cwd": uri, "processId": "p"}
    told_of_cwd = f"cwd URI `{told}` is not valid on this exec-server host: {refused[1]}"
    assert await client.error("process/start", start) == (-32602, told_of_cwd)
    (found,) = (await client.result("capabilityRoots/discoverV1", {"roots": [{"id": "r", "path": uri}]}))["roots"]
    assert (found["path"], found["plugin"]) == (told, None)
    assert found["error"] == f"failed to inspect capability root {told}: {refused[1]}"
    for number, params in enumerate(({"missing": [uri]}, {"missing": ["file:///nowhere"], "present": uri}), 1):
        assert await client.result("fs/watchMissing", {"watchId": number, **params}) == {"watching": False}


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("file:///a%00b", "file:///a%00b"),
        ("file:a b%00", "file:///a%20b%00"),
        ("file:///c:/%00", "file:///c:/%00"),
        ("file://server/%00", "file://server/%00"),
    ],
)
async def test_a_nul_is_no_part_of_a_path(client: WireClient, uri: str, told: str) -> None:
    refused = (-32602, f"'{told}' is invalid on 'linux'")
    assert await client.error("fs/getMetadata", {"path": uri}) == refused
    start: dict[str, Any] = {"argv": ["true"], "env": {}, "tty": False, "arg0": None, "cwd": uri, "processId": "p"}
    assert await client.error("process/start", start) == refused


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("createDirectory", {}),
        ("writeFile", {"dataBase64": ""}),
        ("open", {"handleId": "h", "mode": "replace"}),
        ("readFile", {}),
        ("readDirectory", {}),
        ("canonicalize", {}),
        ("remove", {}),
    ],
)
async def test_nothing_is_done_to_a_path_of_windows(client: WireClient, method: str, params: dict[str, Any]) -> None:
    uri = "file:///C:/holdfast"
    assert await client.error(f"fs/{method}", {"path": uri, **params}) == (-32600, f"'{uri}' is invalid on 'linux'")
    assert "C:" not in os.listdir("/")


@pytest.mark.parametrize("name", ["C:x", "1:", "CC:", "%43:", "C%7C", "sub/C:"])
async def test_colons_elsewhere_are_only_colons(client: WireClient, name: str, tmp_path: Path) -> None:
    for uri in (f"file:///{name}/nowhere", f"file://{tmp_path}/{name}"):
        assert (await client.error("fs/getMetadata", {"path": uri}))[0] == -32004


async def test_both_slashes_separate_and_an_encoded_one_does_not(client: WireClient, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_text("f")
    (tmp_path / "sub\\f").write_text("one name")
    for uri, size in ((f"file://{tmp_path}/sub\\f", 1), (f"file://{tmp_path}/sub%5Cf", 8)):
        assert (await client.result("fs/getMetadata", {"path": uri}))["size"] == size


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("", "invalid URI: relative URL without a base"),
        ("1a:b", "invalid URI: relative URL without a base"),
        ("é:x", "invalid URI: relative URL without a base"),
        ("a_b:x", "invalid URI: relative URL without a base"),
        ("A-b+c.1:x", "unsupported path URI scheme `a-b+c.1`"),
        ("file:///a#b?c", "fragments are not allowed in path URIs"),
        ("file:///a?b#c", "query parameters are not allowed in path URIs"),
        *(
            (f"file://{server}/x", "invalid URI: invalid international domain name")
            for server in ("localhost:80", "user@localhost", "a b", "a%20b", "%", "a%00b", "a|b", "a^b", "a<b", "c%3a")
        ),
        ("file://[::1/x", "invalid URI: invalid IPv6 address"),
    ],
)
async def test_what_is_no_uri_of_a_file_is_refused(client: WireClient, uri: str, fault: str) -> None:
    refused = (-32602, fault)
    assert await client.error("fs/getMetadata", {"path": uri}) == refused
    assert await client.error("fs/watchMissing", {"watchId": 1, "missing": [uri]}) == refused
    assert await client.error("capabilities/discoverV2", {"cwd": uri}) == refused
    assert await client.error("capabilityRoots/discoverV1", {"roots": [{"id": "r", "path": uri}]}) == refused
    start: dict[str, Any] = {"argv": ["true"], "env": {}, "tty": False, "cwd": uri, "processId": "p"}
    assert await client.error("process/start", start) == refused


@pytest.mark.parametrize(
    ("uri", "path", "told"),
    [
        (" \x00file://{}\x1f ", "", "file://{}"),
        ("fi\tle:{}/\r\na", "/a", "file://{}/a"),
        ("file:\\\\LOCALHOST{}", "", "file://{}"),
        ("file://%6cocalhost{}", "", "file://{}"),
        ("file://{}//a", "/a", "file://{}//a"),
        ("file://{}/./a/%2E.", "", "file://{}/"),
        ("file://{}/%61%2fb", "/a/b", "file://{}/%61%2fb"),
        ("file://{}/%c3%a9é", "/éé", "file://{}/%c3%a9%C3%A9"),
        ("file://{}/%zz%", "/%zz%", "file://{}/%zz%"),
    ],
)
async def test_a_uri_is_read_and_told_as_by_a_browser(
    client: WireClient, tmp_path: Path, uri: str, path: str, told: str
) -> None:
    place = f"{tmp_path}/place{path}"
    os.makedirs(place)
    uri, told = uri.format(f"{tmp_path}/place"), told.format(f"{tmp_path}/place")
    assert (await client.result("fs/getMetadata", {"path": uri}))["isDirectory"]
    (found,) = (await client.result("capabilityRoots/discoverV1", {"roots": [{"id": "r", "path": uri}]}))["roots"]
    assert (found["path"], found["error"]) == (told, None)
    await client.start("p", "/bin/pwd", cwd=uri)
    await client.until_closed("p")
    assert client.output("p").decode() == f"{place}\n"


async def test_a_name_is_written_the_same(client: WireClient, tmp_path: Path) -> None:
    place = tmp_path / "names"
    name = "".join(chr(code) for code in range(32, 127) if chr(code) != "/")
    (place / name).mkdir(parents=True)
    written = (
        "%20!%22%23$%25&'()*+,-.0123456789:;%3C=%3E%3F@ABCDEFGHIJKLMNOPQRSTUVWXYZ[%5C]^_%60"
        "abcdefghijklmnopqrstuvwxyz%7B|%7D~"
    )
    options = {"maxDepth": 1, "maxDirectories": 9, "maxEntries": 9, "followDirectorySymlinks": False}
    walked = await client.result("fs/walk", {"path": f"file://{place}", "options": options})
    assert walked["entries"] == [{"path": f"file://{place}/{written}", "kind": "directory"}]
    roots = [{"id": "r", "path": f"file://{place}/{written}"}]
    (found,) = (await client.result("capabilityRoots/discoverV1", {"roots": roots}))["roots"]
    assert (found["path"], found["error"]) == (roots[0]["path"], None)


def test_long_uris_are_not_kept() -> None:
    def read(number: int) -> int:
        uri = f"file:///{number}" + "/a%20b" * 200_000
        assert normalize(uri) == uri
        return resolve_dots(uri_to_path(uri)).count("/a b")

    tracemalloc.start()
    try:
        assert [read(number) for number in range(6)] == [200_000] * 6
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
