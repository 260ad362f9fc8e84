"""An answer that ends by announcing work is told from one that reports it, in English and in Japanese."""

from __future__ import annotations

import pytest

from holdfast.tasks.intent import ends_with_intent


@pytest.mark.parametrize(
    "answer",
    [
        "I will fix the test next.",
        "Found it. Next I'll fix it",
        "Going to run the tests now.",
        "Let me check the other file.",
        "**Now I'm going to edit it.**",
        "We are about to start.",
        "I plan to refactor the module.",
        "- I’ll update the callers.",
        "Next, we need to look at the cache.",
        "これから修正します。",
        "次にテストを実行します",
        "原因を調べる予定です。",
        "では、修正しましょう。",
        "I will fix it.\n\n```\ncode\n```\n",
    ],
)
def test_r20_an_announcement(answer: str) -> None:
    assert ends_with_intent(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Fixed the test and ran it.",
        "Let me know if you need more.",
        "If you want, I'll add tests.",
        "I will not change it.",
        "This will fix the bug.",
        "The daemon is going to crash under load.",
        "> I will fix it",
        "```\nI will fix it\n```",
        'The comment says "I will fix it".',
        "The log ends with `I'll retry`.",
        "I'll be happy to help with more.",
        "Would you like me to go on?",
        "修正しました。",
        "この関数は null を返します。",
        "問題があります。",
        "「これから修正します」と書かれています。",
        "I will fix it.\n1\n2\n3\n4\n5",
    ],
)
def test_r20_anything_else(answer: str) -> None:
    assert not ends_with_intent(answer)


def test_r20_a_very_long_line_takes_no_time() -> None:
    assert not ends_with_intent("let me let me " * 200_000 + "know")
