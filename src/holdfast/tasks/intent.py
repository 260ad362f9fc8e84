"""Whether an answer ends by announcing work instead of reporting it ("Next I'll fix the test.").

A hint, never a proof: it warns, and it decides only between two ways of not being a success.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast.tasks.prose import own_lines

#: How far from the end it is looked for, lines and characters of each.
_LINES: Final = 5
_LINE_LENGTH: Final = 1_000

#: Words between quotation marks are somebody else's, or code.
_QUOTED: Final = re.compile(r"`[^`]*`|\"[^\"]*\"|“[^”]*”|「[^」]*」|『[^』]*』|«[^»]*»")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;…])\s+|(?<=[。！？．])")

_ENGLISH: Final = re.compile(
    r"""
    \b(?:i|we)(?:['’]ll|\ will|\ shall|\ am|['’]m|\ are|['’]re)\ (?!not\b)
        (?:(?:now|next|then|also|first|just|go\ ahead\ and)\ )*
        (?:going\ to\b|about\ to\b|gonna\b|start(?:ing)?\b|proceed(?:ing)?\b)
    | \b(?:i|we)(?:['’]ll|\ will|\ shall)\ (?!not\b|be\ (?:happy|glad)|leave\b|wait\b|need\b|let\ you)\w
    | ^(?:(?:ok(?:ay)?|now|next|then|so|first|great)[,:]?\ )*let\ me\ (?!know\b)\w
    | ^(?:next|now|then)(?:\ step)?[,:]?\ (?:i|we)\ (?:need|have|want|plan)\ to\b
    | ^(?:(?:now|next)[,:]?\ )?(?:will(?:\ now)?|going\ to|about\ to|proceeding\ to|moving\ on\ to)\ \w
    | \b(?:i|we)\ (?:plan|intend)\ to\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: An offer is no announcement.
_OFFER: Final = re.compile(r"^(?:if|once|when|whenever|should|after)\b|\bif you\b|\blet me know\b|\?$", re.IGNORECASE)

#: Plain forms that say what one is going to do, at the end of a sentence.
_JAPANESE: Final = re.compile(
    r"(?:(?<!返)(?<!示)(?<!意味)(?<!存在)(?<!動作)(?<!依存)(?<!発生)(?<!一致)(?<!対応)(?<!成立)(?<!を要)(?<!機能)します"
    r"|(?:いき|行い|おこない|進め|始め|続け|加え|直し|作り|書き|調べ|試み|取り掛かり|とりかかり|移り|着手し)ます"
    r"|(?:予定|つもり|ところ)です|しましょう|(?:する|行う)予定)[。．.!！…\s]*$"
)


def ends_with_intent(text: str) -> bool:
    """Whether one of the last lines of *text* that are the agent's own words announces what it is going to do."""
    lines = [line for _, line in own_lines(text) if line][-_LINES:]
    return any(_announces(line[-_LINE_LENGTH:]) for line in lines)


def _announces(line: str) -> bool:
    line = _QUOTED.sub(" ", line.lstrip("-*+#0123456789.) ").replace("*", ""))
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(line)]
    return any(_JAPANESE.search(s) or (_ENGLISH.search(s) and not _OFFER.search(s)) for s in sentences if s)
