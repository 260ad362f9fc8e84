"""The usual options are read by hand; they must mean what the parser of the standard library would make of them."""

from __future__ import annotations

import pytest

from holdfast.host.options import Options, RefusedOption, build_parser, read_options, read_usual_options


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--listen", "unix://"],
        ["--listen=unix:///tmp/a=b", "--state-dir", "x/../y"],
        ["--idle-exit", "5", "--idle-exit", "0.5"],
        ["--retain-bytes", "+1000", "--root", "."],
        ["--listen", "", "--retain-bytes=0", "--idle-exit=0"],
        ["--retain-bytes", "18446744073709551615"],
        ["--retain-bytes", "0" * 30 + "5"],
    ],
)
def test_usual_options_need_no_parser(given: list[str]) -> None:
    assert read_usual_options(given) == build_parser().parse_args(given, Options())


@pytest.mark.parametrize(
    "given",
    [
        *(
            ["--help"],
            ["-h"],
            ["--list", "unix://"],
            ["--log-format", "json"],
            ["--log-level", "info"],
            ["--idle-exit"],
            ["--idle-exit", "soon"],
        ),
        *(["--listen", "-"], ["--listen", "--root", "x"], ["unix://"], ["--"], ["--retain-bytes", "1.5"], [""]),
        *(["--state-dir="], ["--idle-exit", "inf"], ["--idle-exit=-0.5"], ["--retain-bytes", "1_000"]),
    ],
)
def test_whatever_else_is_given_is_left_to_the_parser(given: list[str]) -> None:
    assert read_usual_options(given) is None


def test_rare_options_are_understood() -> None:
    options = read_options(["--listen", "unix://", "--log-format", "json", "--ws-issuer", "me"])
    assert (options.listen, options.log_format, options.ws_issuer) == ("unix://", "json", "me")
    assert options.retain_bytes == 20 * 1024**3
    assert read_options(["--concurrent-requests", "+01"]).concurrent_requests == 1


NUMBER = "is not a whole number from 0 on"
SECONDS = "is not a number of seconds from 0 on"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--list", "unix://"], "unrecognized arguments: --list unix://"),
        (["--state-dir", ""], "argument --state-dir: an empty text names no directory"),
        (["--root="], "argument --root: an empty text names no directory"),
        *(
            (["--idle-exit", word], f"argument --idle-exit: {word!r} {SECONDS}")
            for word in ("nan", "inf", "soon", "", "\u0663", "1_0")
        ),
        (["--idle-exit=-1"], f"argument --idle-exit: '-1' {SECONDS}"),
        *(
            ([f"{name}={word}"], f"argument {name}: {word!r} {NUMBER}")
            for name in ("--retain-bytes", "--ws-max-clock-skew-seconds")
            for word in ("-1", "1.5", "nan", "", " 5", "1_0", "\u0663")
        ),
        *(
            (
                [f"--concurrent-requests={word}"],
                f"argument --concurrent-requests: {word!r} is not a whole number from 1 on",
            )
            for word in ("0", "+00", "-1", "1.5", "")
        ),
        *(
            (["--retain-bytes", word], f"argument --retain-bytes: {word!r} is larger than 18446744073709551615")
            for word in ("18446744073709551616", "9" * 20, "9" * 5000)
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(given: list[str], reason: str) -> None:
    with pytest.raises(RefusedOption) as refused:
        read_options(given)
    assert refused.value.message == f"The host does not understand its options: {reason}."
    assert refused.value.hint == "See: holdfast exec-server --help"
