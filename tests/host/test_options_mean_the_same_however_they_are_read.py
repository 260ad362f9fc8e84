"""The usual options are read by hand; they must mean what the parser of the standard library would make of them."""

from __future__ import annotations

import pytest

from holdfast.host.options import Options, build_parser, read_options, read_usual_options


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--listen", "unix://"],
        ["--listen=unix:///tmp/a=b", "--state-dir", "x/../y"],
        ["--state-dir=", "--root="],
        ["--idle-exit", "5", "--idle-exit", "inf"],
        ["--retain-bytes", " 1_000 ", "--root", "."],
        ["--listen", "", "--retain-bytes=-1", "--idle-exit=-0.5"],
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
    ],
)
def test_whatever_else_is_given_is_left_to_the_parser(given: list[str]) -> None:
    assert read_usual_options(given) is None


def test_abbreviations_and_rare_options_are_understood() -> None:
    options = read_options(["--list", "unix://", "--log-format", "json", "--ws-issuer", "me"])
    assert (options.listen, options.log_format, options.ws_issuer) == ("unix://", "json", "me")
    assert options.retain_bytes == 20 * 1024**3
    assert options.ws_max_clock_skew_seconds == 30.0
