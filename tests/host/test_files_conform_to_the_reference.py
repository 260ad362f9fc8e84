"""The same file operations with our host and with the real ``codex exec-server``; what they answer must agree."""

from __future__ import annotations

import base64
import errno
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.files.refusal import describe

from .harness import RunningServer, WireClient, needed_codex

WALK = {"maxDepth": 64, "maxDirectories": 10_000, "maxEntries": 50_000, "followDirectorySymlinks": False}
NOT_FOUND = (-32004, "No such file or directory (os error 2)")
LOOP = (-32603, "Symbolic link loop (os error 40)")
NOT_A_DIRECTORY = (-32603, "Not a directory (os error 20)")
EXISTS = (-32603, "File exists (os error 17)")
LINK = (-32600, "path contains a symbolic link")


class Files:
    """``fs/*`` below one directory."""

    def __init__(self, client: WireClient, top: Path, url: str) -> None:
        self.client = client
        self.top = top
        self._url = url

    async def another(self, *, initialize: bool) -> WireClient:
        return await WireClient.connect(self._url, initialize=initialize)

    def uri(self, name: str) -> str:
        return f"file://{self.top}/{name}" if name else f"file://{self.top}"

    def _params(self, name: str | None, given: dict[str, Any]) -> dict[str, Any]:
        return given if name is None else {"path": self.uri(name), **given}

    async def do(self, method: str, name: str | None = None, **params: Any) -> Any:
        return await self.client.result(f"fs/{method}", self._params(name, params))

    async def refused(self, method: str, name: str | None = None, **params: Any) -> tuple[int, str]:
        return await self.client.error(f"fs/{method}", self._params(name, params))

    async def write(self, name: str, data: bytes, **params: Any) -> None:
        assert await self.do("writeFile", name, dataBase64=base64.b64encode(data).decode(), **params) == {}

    async def read(self, name: str, **params: Any) -> bytes:
        return base64.b64decode((await self.do("readFile", name, **params))["dataBase64"])

    async def copy(self, source: str, destination: str, recursive: bool = False) -> Any:
        params = {
            "sourcePath": self.uri(source),
            "destinationPath": self.uri(destination),
            "recursive": recursive,
        }
        reply = await self.client.call("fs/copy", params)
        return (reply["error"]["code"], reply["error"]["message"]) if "error" in reply else reply["result"]


@pytest.mark.real_agent
def test_errors_have_the_words_of_the_reference() -> None:
    with open(needed_codex(), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program:
        # The C library that it is linked with has them all in one place.
        start = program.find(b"No error information\0")
        if start < 0:
            pytest.skip("this codex is no program, but starts one")
        words = {word.decode() for word in program[start : start + 4096].split(b"\0")[:100]}
    for number in (errno.ESPIPE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENOENT, errno.ENOSPC):
        assert describe(OSError(number, "")).removesuffix(f" (os error {number})") in words, errno.errorcode[number]
    told = {number: describe(OSError(number, "")).partition(" (")[0] for number in errno.errorcode}
    # What is left are the errors for which it has no words.
    assert all(word in words for number, word in told.items() if word != os.strerror(number))


@pytest.fixture
async def files(either: RunningServer, tmp_path: Path) -> Any:
    """A directory with one of everything."""
    top = tmp_path / "files"
    (top / "d" / "e").mkdir(parents=True)
    (top / "f").write_text("F")
    (top / "d" / "x").write_text("x")
    (top / "d" / "e" / "y").write_text("y")
    for name, target in (("l", "f"), ("dl", "d"), ("broken", "nowhere"), ("loop", "loop")):
        (top / name).symlink_to(target)
    os.mkfifo(top / "fifo")
    client = await WireClient.connect(either.url)
    yield Files(client, top, either.url)
    await client.close()


async def test_read_and_write(files: Files) -> None:
    data = bytes(range(256)) * 100
    await files.write("a", data)
    assert await files.read("a") == data
    await files.write("a", b"")
    assert await files.read("a") == b""
    await files.write("l", b"through the link")
    assert (files.top / "l").is_symlink()
    assert await files.read("f") == b"through the link"
    await files.write("broken", b"made")
    assert (files.top / "nowhere").read_bytes() == b"made"
    await files.write("sp%20ace%C3%A9", b"u")
    assert (files.top / "sp aceé").exists()
    await files.write("bad%FFbyte", b"")
    assert (files.top / os.fsdecode(b"bad\xffbyte")).exists()
    assert await files.read("d/../d/./x") == b"x"
    assert await files.read("d//x") == b"x"
    assert await files.read("f/") == b"through the link"


async def test_what_cannot_be_read_or_written(files: Files) -> None:
    top = files.top
    assert await files.refused("readFile", "missing") == NOT_FOUND
    assert await files.refused("readFile", "broken") == NOT_FOUND
    assert await files.refused("readFile", "loop") == LOOP
    assert await files.refused("readFile", "l", followSymlinks=False) == LOOP
    assert await files.refused("readFile", "dl/x", followSymlinks=False) == NOT_A_DIRECTORY
    assert await files.refused("readFile", "f/x") == NOT_A_DIRECTORY
    for name in ("d", "fifo"):
        assert await files.refused("readFile", name) == (-32600, f"path `{top / name}` is not a file")
        assert await files.refused("readFile", name, followSymlinks=False) == (-32600, "path is not a regular file")
    for device in ("/dev/null", "/dev/zero"):
        assert await files.refused("readFile", path=f"file://{device}") == (-32600, f"path `{device}` is not a file")
    for anything in (None, 1, "x", [], {}):
        assert await files.do("readDirectory", "d", followSymlinks=anything)
        assert await files.do("open", "f", handleId=f"{anything}", followSymlinks=anything)
    assert (await files.refused("readFile", "f", followSymlinks=1))[0] == -32602
    assert await files.refused("readFile", "n" * 300) == (-32603, "Filename too long (os error 36)")
    assert await files.refused("writeFile", "no/dir", dataBase64="") == NOT_FOUND
    assert await files.refused("writeFile", "d", dataBase64="") == (-32603, "Is a directory (os error 21)")
    assert await files.refused("writeFile", "l", dataBase64="", followSymlinks=False) == LOOP
    problem = "fs/writeFile requires valid base64 dataBase64: "
    assert await files.refused("writeFile", "b", dataBase64="***") == (-32600, problem + "Invalid symbol 42, offset 0.")
    assert await files.refused("writeFile", "b", dataBase64="aGk") == (-32600, problem + "Invalid padding")
    for uri, text in (
        ("/native", "invalid URI: relative URL without a base"),
        ("http://x/y", "unsupported path URI scheme `http`"),
        ("file:///x?y", "query parameters are not allowed in path URIs"),
    ):
        assert await files.refused("readFile", path=uri) == (-32602, text)
    assert await files.refused("readFile") == (-32602, "missing field `path`")
    assert not (top / "b").exists()


async def test_a_symlink_to_a_directory_is_called_by_its_own_name(files: Files) -> None:
    for name in ("dl", "dl/", "dl/."):
        expected = (-32600, f"path `{files.top}/dl` is not a file")
        assert await files.refused("readFile", name) == expected
        assert await files.refused("open", name, handleId="h") == expected


@pytest.mark.parametrize(
    "spelling", [" \x01{}", "{}\n", "{} \x1f", "fi\tle:{}", "{}\r", "file://{}", "file://%6cocalHost{}", "file:{}\x00"]
)
async def test_a_path_is_read_as_browsers_read_a_url(files: Files, spelling: str) -> None:
    name = f"{files.top}/f"
    uri = spelling.format(name if "le:" in spelling else f"file://{name}")
    assert (await files.do("canonicalize", path=uri)) == {"path": f"file://{name}"}


async def test_nothing_leads_out_of_what_looks_like_a_drive(files: Files) -> None:
    for name in ("c:", "C|"):
        (files.top / name).mkdir()
        for path in (f"{name}/..", f"{name}/../../.", f"{name}/x/../.."):
            assert await files.do("canonicalize", path) == {"path": files.uri(name)}
        assert await files.do("canonicalize", f"{name}x/..") == {"path": files.uri("")}


async def test_the_root_has_no_name_by_which_its_content_could_be_had(files: Files) -> None:
    expected = (-32600, "path must name an entry")
    for root in ("file://", "file:///tmp/.."):
        assert await files.refused("readFile", path=root, followSymlinks=False) == expected
        assert await files.refused("writeFile", path=root, followSymlinks=False, dataBase64="") == expected


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("f.i-l+e:/x", "unsupported path URI scheme `f.i-l+e`"),
        ("1file:/x", "invalid URI: relative URL without a base"),
        ("file://a%20b/x", "invalid URI: invalid international domain name"),
        ("file://a@b/x", "invalid URI: invalid international domain name"),
        ("file://localhost:80/x", "invalid URI: invalid international domain name"),
        ("file://%FF/x", "invalid URI: invalid international domain name"),
        ("file:///a%00b", "'file:///a%00b' is invalid on 'linux'"),
    ],
)
async def test_what_is_no_path_is_found_before_anything_else(files: Files, uri: str, text: str) -> None:
    expected = (-32602, text)
    assert await files.refused("writeFile", path=uri, dataBase64="!") == expected
    assert await files.refused("remove", path=uri, followSymlinks=False) == expected
    assert await files.refused("open", path=uri, handleId="x" * 33) == expected
    assert await files.refused("walk", path=uri, options={**WALK, "maxDepth": 65}) == expected
    missing = files.uri("missing")
    for source, destination in ((missing, uri), (uri, missing)):
        params = {"sourcePath": source, "destinationPath": destination, "recursive": True}
        assert await files.refused("copy", **params) == expected
    unready = await files.another(initialize=False)
    assert await unready.error("fs/getMetadata", {"path": uri}) == expected
    await unready.close()


async def test_a_path_of_another_kind_of_machine_is_found_before_any_file_is_looked_at(files: Files) -> None:
    for uri, told in (("file://c|/x", "file:///C:/x"), ("file://host/x", "file://host/x")):
        expected = (-32600, f"'{told}' is invalid on 'linux'")
        assert await files.refused("remove", path=uri, followSymlinks=False) == expected
        params = {"sourcePath": files.uri("missing"), "destinationPath": uri, "recursive": True}
        assert await files.refused("copy", **params) == expected


async def test_numbers_have_64_bits(files: Files) -> None:
    expected = (-32602, "invalid number")
    await files.do("open", "f", handleId="r")
    await files.do("open", "written", handleId="w", mode="replace")
    assert await files.refused("readBlock", handleId="r", offset=2**64, len=1) == expected
    assert await files.refused("readBlock", handleId="r", offset=0, len=2**64) == expected
    assert await files.refused("writeBlock", handleId="w", offset=2**64, chunk="!") == expected
    for name in ("maxDepth", "maxDirectories", "maxEntries"):
        assert await files.refused("walk", "", options={**WALK, name: 2**64}) == expected
    # What cannot be read costs no handle, as an offset beyond every file does.
    assert await files.do("readBlock", handleId="r", offset=0, len=1) == {"chunk": "Rg==", "eof": False}
    expected = (-32600, "Invalid argument (os error 22)")
    assert await files.refused("readBlock", handleId="r", offset=2**64 - 1, len=1) == expected
    assert await files.refused("readBlock", handleId="r", offset=0, len=1) == (-32004, "unknown file handle `r`")


async def test_metadata(files: Files) -> None:
    os.utime(files.top / "f", (1, 1234567890.5))
    for name, kind, size in (("f", "isFile", 1), ("l", "isFile", 1), ("d", "isDirectory", None), ("fifo", None, 0)):
        found = await files.do("getMetadata", name)
        assert found["isSymlink"] == (name == "l")
        assert {key for key in ("isFile", "isDirectory") if found[key]} == ({kind} if kind else set())
        assert size is None or found["size"] == size
    assert (await files.do("getMetadata", "f"))["modifiedAtMs"] == 1234567890500
    born = (await files.do("getMetadata", "f", followSymlinks=False))["createdAtMs"]
    assert born == 0 or born > 1234567890500
    assert await files.refused("getMetadata", "missing") == NOT_FOUND
    assert await files.refused("getMetadata", "broken") == NOT_FOUND
    assert await files.refused("getMetadata", "loop") == LOOP
    for link in ("l", "dl", "broken", "loop"):
        assert await files.refused("getMetadata", link, followSymlinks=False) == LINK
    assert await files.refused("getMetadata", "dl/x", followSymlinks=False) == NOT_A_DIRECTORY
    assert (await files.do("getMetadata", path="file:///"))["isDirectory"]


async def test_canonical_paths(files: Files) -> None:
    for name, wanted in (("dl/e/../e", "d/e"), ("l", "f"), ("d/", "d")):
        assert await files.do("canonicalize", name) == {"path": files.uri(wanted)}
    assert await files.refused("canonicalize", "missing") == NOT_FOUND
    assert await files.refused("canonicalize", "broken") == NOT_FOUND
    assert await files.refused("canonicalize", "loop") == LOOP


async def test_directories(files: Files) -> None:
    assert await files.do("createDirectory", "a/b/c") == {}
    assert await files.do("createDirectory", "a/b/c") == {}
    assert await files.do("createDirectory", "dl/made") == {}
    assert (files.top / "d" / "made").is_dir()
    assert await files.refused("createDirectory", "a", recursive=False) == EXISTS
    assert await files.refused("createDirectory", "x/y", recursive=False) == NOT_FOUND
    assert await files.refused("createDirectory", "f") == EXISTS
    assert await files.refused("createDirectory", "f/sub") == NOT_A_DIRECTORY
    assert await files.refused("createDirectory", "dl/k", followSymlinks=False) == NOT_A_DIRECTORY
    for name in ("f", "l", "dl", "broken", "loop"):
        assert await files.refused("createDirectory", name, followSymlinks=False) == NOT_A_DIRECTORY
    (files.top / "through").symlink_to("f/x")
    (files.top / "long").symlink_to("n" * 300)
    for name in ("loop", "through", "long", "broken"):
        assert await files.refused("createDirectory", name) == EXISTS
        assert await files.copy("d", name, recursive=True) == EXISTS
    assert await files.refused("createDirectory", "loop/x") == LOOP
    assert await files.refused("createDirectory", "through/x") == NOT_A_DIRECTORY
    for name in ("through", "long"):
        (files.top / name).unlink()
    entries = (await files.do("readDirectory", ""))["entries"]
    kinds = {entry["fileName"]: (entry["isDirectory"], entry["isFile"]) for entry in entries}
    assert kinds == {
        "a": (True, False),
        "d": (True, False),
        "dl": (True, False),
        "f": (False, True),
        "l": (False, True),
        "fifo": (False, False),
    }
    assert await files.refused("readDirectory", "f") == NOT_A_DIRECTORY
    assert await files.refused("readDirectory", "missing") == NOT_FOUND


async def test_remove(files: Files) -> None:
    assert await files.do("remove", "missing") == {}
    assert await files.do("remove", "broken/x") == {}
    assert await files.refused("remove", "missing", force=False) == NOT_FOUND
    assert await files.refused("remove", "f/x") == NOT_A_DIRECTORY
    assert await files.refused("remove", "d", recursive=False) == (-32603, "Directory not empty (os error 39)")
    unsupported = (-32603, "recursive no-follow removal is unsupported")
    assert await files.refused("remove", "l", followSymlinks=False) == unsupported
    assert await files.refused("remove", "l", recursive=False, followSymlinks=False) == LINK
    assert await files.do("remove", "dl") == {}
    assert (files.top / "d" / "e" / "y").exists()
    for name in ("d", "l", "loop", "fifo"):
        assert await files.do("remove", name) == {}
    assert sorted(os.listdir(files.top)) == ["broken", "f"]


@pytest.mark.skipif(os.geteuid() != 0, reason="others are told that they have no permission")
async def test_what_is_in_use_is_called_so(files: Files) -> None:
    # Never with its content: the kernel refuses this one of a mount point.
    assert await files.refused("remove", path="file:///proc", recursive=False) == (
        -32603,
        "Resource busy (os error 16)",
    )


async def test_copy(files: Files) -> None:
    top = files.top
    (top / "f").chmod(0o751)
    assert await files.copy("f", "copied") == {}
    assert await files.copy("f", "d/x") == {}
    for name in ("copied", "d/x"):
        assert (top / name).read_text() == "F"
        assert (top / name).stat().st_mode & 0o777 == 0o751
    assert await files.copy("f", "d") == (-32603, "Is a directory (os error 21)")
    assert await files.copy("f", "no/dir") == NOT_FOUND
    assert await files.copy("missing", "x") == NOT_FOUND
    recursive = "fs/copy requires recursive: true when sourcePath is a directory"
    assert await files.copy("d", "tree") == (-32600, recursive)
    kinds = "fs/copy only supports regular files, directories, and symlinks"
    assert await files.copy("fifo", "x") == (-32600, kinds)
    os.mkfifo(top / "d" / "fifo")
    (top / "d" / "inner").symlink_to("e/y")
    assert await files.copy("d", "tree", recursive=True) == {}
    assert (top / "tree" / "e" / "y").read_text() == "y"
    assert os.readlink(top / "tree" / "inner") == "e/y"
    assert not (top / "tree" / "fifo").exists()
    assert await files.copy("d", "tree", recursive=True) == EXISTS
    into_itself = (-32600, "fs/copy cannot copy a directory to itself or one of its descendants")
    for destination in ("d", "d/in", "dl", "dl/in"):
        assert await files.copy("d", destination, recursive=True) == into_itself
    assert await files.copy("dl", "link", recursive=True) == {}
    assert os.readlink(top / "link") == "d"
    assert await files.copy("l", "copied") == EXISTS


async def test_a_copied_directory_gets_its_parents_or_joins_what_is_there(files: Files) -> None:
    top = files.top
    assert await files.copy("d", "p/q/tree", recursive=True) == {}
    assert (top / "p" / "q" / "tree" / "e" / "y").read_text() == "y"
    (top / "o" / "e").mkdir(parents=True)
    (top / "o" / "x").write_text("old")
    (top / "o" / "e" / "z").write_text("z")
    (top / "ol").symlink_to("o")
    assert await files.copy("d", "ol", recursive=True) == {}
    contents = {str(path.relative_to(top / "o")): path.read_text() for path in (top / "o").rglob("*") if path.is_file()}
    assert contents == {"x": "x", "e/y": "y", "e/z": "z"}
    assert await files.copy("d", "ol/r/s", recursive=True) == {}
    assert (top / "o" / "r" / "s" / "x").exists()
    for destination in ("broken", "broken/in/it", "f", "l"):
        assert await files.copy("d", destination, recursive=True) == EXISTS
    assert not (top / "nowhere").exists()
    assert await files.copy("d", "f/in", recursive=True) == NOT_A_DIRECTORY
    into_itself = (-32600, "fs/copy cannot copy a directory to itself or one of its descendants")
    for destination in ("d/no/such", "dl/no/such"):
        assert await files.copy("d", destination, recursive=True) == into_itself
    assert not (top / "d" / "no").exists()
    assert await files.copy("dl", "no/such", recursive=True) == NOT_FOUND


async def test_walk(files: Files) -> None:
    (files.top / ".hidden").mkdir()
    (files.top / ".hidden" / "h").write_text("h")
    everything = [(".hidden", "directory"), ("d", "directory"), ("f", "file"), (".hidden/h", "file")]
    everything += [("d/e", "directory"), ("d/x", "file"), ("d/e/y", "file")]

    async def walk(name: str = "", **options: Any) -> tuple[list[tuple[str, str]], bool]:
        found = await files.do("walk", name, options={**WALK, **options})
        assert found["errors"] == []
        prefix = files.uri("") + "/"
        return [(entry["path"].removeprefix(prefix), entry["kind"]) for entry in found["entries"]], found["truncated"]

    assert await walk() == (everything, False)
    assert await walk(maxDepth=0) == (everything[:3], False)
    assert await walk(maxDepth=1) == (everything[:6], False)
    assert await walk(maxEntries=2) == (everything[:2], True)
    assert await walk(maxDirectories=1) == (everything[:3], True)
    pruned, _ = await walk(pruneHiddenDirectories=True)
    assert pruned == [entry for entry in everything if entry[0] != ".hidden/h"]
    assert await walk("f") == ([], False)
    assert await walk("dl") == ([], False)
    followed, _ = await walk("dl", followDirectorySymlinks=True)
    assert followed == [("dl/e", "directory"), ("dl/x", "file"), ("dl/e/y", "file")]
    assert ("dl", "directory") in (await walk(followDirectorySymlinks=True))[0]
    assert await files.refused("walk", "missing", options=WALK) == NOT_FOUND
    zero = (-32600, "filesystem walk limits must be greater than zero")
    assert await files.refused("walk", "", options={**WALK, "maxEntries": 0}) == zero
    most = (-32600, "filesystem walk limits exceed maximums: depth=64, directories=10000, entries=50000")
    assert await files.refused("walk", "", options={**WALK, "maxDepth": 65}) == most
    assert await files.refused("walk", "") == (-32602, "missing field `options`")


async def test_a_walk_counts_what_it_looks_at(files: Files) -> None:
    # In order: broken and loop are not looked at; d, dl, f, fifo, l; then d/e, d/x; then d/e/y.
    async def walk(most: int, **options: Any) -> tuple[list[str], bool]:
        found = await files.do("walk", "", options={**WALK, "maxEntries": most, **options})
        prefix = files.uri("") + "/"
        return [entry["path"].removeprefix(prefix) for entry in found["entries"]], found["truncated"]

    names = ["d", "f", "d/e", "d/x", "d/e/y"]
    for most, count in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)):
        assert await walk(most) == (names[:count], True)
    assert await walk(8) == (names, False)
    assert await walk(3, followDirectorySymlinks=True) == (["d", "dl", "f"], True)


async def test_a_walk_stops_at_four_mebibytes(files: Files) -> None:
    many = files.top / "many"
    many.mkdir()
    for number in range(20_000):
        os.close(os.open(many / f"{number:0200}", os.O_CREAT | os.O_WRONLY))
    found = await files.do("walk", "many", options=WALK)
    assert found["truncated"]
    assert len(found["entries"]) == 4 * 1024 * 1024 // (len(files.uri("many/")) + 200 + 64)


async def test_reading_in_blocks(files: Files) -> None:
    data = bytes(range(256)) * 10
    (files.top / "f").write_bytes(data)
    assert await files.do("open", "f", handleId="r") == {"handleId": "r"}
    assert await files.refused("open", "f", handleId="r") == (-32600, "file handle `r` already exists")

    async def block(offset: int, size: int) -> tuple[bytes, bool]:
        found = await files.do("readBlock", handleId="r", offset=offset, len=size)
        return base64.b64decode(found["chunk"]), found["eof"]

    assert await block(0, 16) == (data[:16], False)
    assert await block(2550, 100) == (data[2550:], True)
    assert await block(0, 2560) == (data, False)
    assert await block(99_999, 10) == (b"", True)
    length = (-32600, "file read block length must be between 1 and 1048576")
    for size in (0, 1_048_577):
        assert await files.refused("readBlock", handleId="r", offset=0, len=size) == length
    bad_descriptor = (-32603, "Bad file descriptor (os error 9)")
    assert await files.refused("writeBlock", handleId="r", offset=0, chunk="eA==") == bad_descriptor
    assert await block(0, 1) == (data[:1], False)
    for _ in range(2):
        assert await files.do("close", handleId="r") == {}
    unknown = (-32004, "unknown file handle `r`")
    assert await files.refused("readBlock", handleId="r", offset=0, len=1) == unknown
    too_long = (-32600, "file handle ID must not exceed 32 bytes")
    for name in ("x" * 33, "é" * 17):
        assert await files.refused("open", "f", handleId=name) == too_long
        assert await files.refused("readBlock", handleId=name, offset=0, len=0) == too_long
        assert await files.refused("writeBlock", handleId=name, offset=0, chunk="") == too_long
        assert await files.refused("close", handleId=name) == too_long
    assert await files.refused("open", "missing", handleId="m") == NOT_FOUND
    for name in ("d", "fifo"):
        expected = (-32600, f"path `{files.top / name}` is not a file")
        assert await files.refused("open", name, handleId="n") == expected


async def test_writing_in_blocks(files: Files) -> None:
    written = files.top / "written"
    await files.do("open", "written", handleId="w", mode="replace")
    assert await files.do("writeBlock", handleId="w", offset=6, chunk="d29ybGQ=") == {}
    assert await files.do("writeBlock", handleId="w", offset=0, chunk="aGVsbG8g") == {}
    assert written.read_bytes() == b"hello world"
    length = (-32600, "file write block length must be between 1 and 1048576")
    big = base64.b64encode(b"q" * 1_048_577).decode()
    for chunk in ("", big):
        assert await files.refused("writeBlock", handleId="w", offset=0, chunk=chunk) == length
    beyond = (-32600, "file write range exceeds the signed 64-bit file offset limit")
    for name in ("w", "unknown"):
        assert await files.refused("writeBlock", handleId=name, offset=2**63 - 1, chunk="eA==") == beyond
    bad = (-32602, "Invalid symbol 33, offset 0.")
    assert await files.refused("writeBlock", handleId="w", offset=0, chunk="!!") == bad
    expected = (-32603, "Bad file descriptor (os error 9)")
    assert await files.refused("readBlock", handleId="w", offset=0, len=5) == expected
    assert await files.refused("writeBlock", handleId="w", offset=0, chunk="eA==") == (
        -32004,
        "unknown file handle `w`",
    )
    assert await files.do("open", "l", handleId="w", mode="replace") == {"handleId": "w"}
    assert (files.top / "f").read_bytes() == b""
    assert await files.refused("open", "d", handleId="x", mode="replace") == (-32603, "Is a directory (os error 21)")
    assert await files.refused("open", "no/dir", handleId="x", mode="replace") == NOT_FOUND


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("YR==", "Invalid last symbol 82, offset 1."),
        ("YWJjYWJ=", "Invalid last symbol 74, offset 6."),
        ("YQ", "Invalid padding"),
        ("YQ=", "Invalid padding"),
        ("YWJjZ", "Invalid input length: 5"),
        ("=", "Invalid symbol 61, offset 0."),
        ("YQ===", "Invalid symbol 61, offset 2."),
        ("YQ==YQ==", "Invalid symbol 61, offset 2."),
        ("YQ=a", "Invalid symbol 61, offset 2."),
        ("YWJj\n", "Invalid symbol 10, offset 4."),
        ("YWJj-_==", "Invalid symbol 45, offset 4."),
    ],
)
async def test_only_one_text_stands_for_the_same_bytes(files: Files, text: str, fault: str) -> None:
    expected = (-32600, f"fs/writeFile requires valid base64 dataBase64: {fault}")
    assert await files.refused("writeFile", "f", dataBase64=text) == expected
    assert await files.read("f") == b"F"
    await files.do("open", "written", handleId="w", mode="replace")
    assert await files.refused("writeBlock", handleId="w", offset=0, chunk=text) == (-32602, fault)
    assert (files.top / "written").read_bytes() == b""


async def test_handles_are_limited_and_belong_to_the_connection(either: RunningServer, files: Files) -> None:
    for number in range(128):
        await files.do("open", "f", handleId=str(number))
    limit = (-32600, "at most 128 file handles may be open per connection")
    assert await files.refused("open", "f", handleId="128") == limit
    other = await WireClient.connect(either.url)
    unknown = (-32004, "unknown file handle `1`")
    assert await other.error("fs/readBlock", {"handleId": "1", "offset": 0, "len": 1}) == unknown
    await other.close()
