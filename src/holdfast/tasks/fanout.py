"""Many tasks from one specification: what it may say, and which of its lanes would get in each other's way.

A specification has ``defaults`` and ``lanes``; a lane is one task, described by the same words as in the Python API.
Everything that is wrong with it is found at once and before anything is started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, cast

import msgspec

from holdfast.errors import InvalidRequest

SCHEMA: Final = "holdfast.fanout/1"
#: Lanes at work at once, unless the specification or the caller says otherwise.
DEFAULT_PARALLEL: Final = 4
#: More than this is a mistake.
MOST_LANES: Final = 1000
_WILDCARDS: Final = frozenset("*?[]{}")
_EVERYTHING_BELOW: Final = "/**"


class InvalidSpecification(InvalidRequest):
    """The specification cannot be carried out; nothing was started."""

    code = "invalid_specification"

    def __init__(self, problems: Sequence[str]) -> None:
        #: Everything that is wrong, each in one sentence.
        self.problems = list(problems)
        said = " ".join(self.problems)
        super().__init__(
            said if len(self.problems) == 1 else f"{len(self.problems)} things are wrong: {said}",
            hint="Correct the specification; nothing was started.",
        )


class LaneFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a lane, and ``defaults``, may say.  Times are seconds, ``null`` for no limit."""

    agent: str = ""
    prompt: str = ""
    prompt_file: str = ""
    cwd: str = ""
    write: bool = False
    sandbox: str = ""
    add_dirs: list[str] = []
    model: str | None = None
    effort: str | None = None
    resume: str | None = None
    fork: str | None = None
    drive: str | None = None
    network: bool = False
    ephemeral: bool = False
    thread_name: str | None = None
    timeout: float | msgspec.UnsetType | None = msgspec.UNSET
    idle_timeout: float | msgspec.UnsetType | None = msgspec.UNSET
    start_timeout: float | msgspec.UnsetType | None = msgspec.UNSET
    slot_wait: float | None = None
    max_tool_uses: int | None = None
    soft_tool_uses: int | None = None
    retries: int = 0
    label: str | None = None
    output_file: str | None = None
    overwrite: bool = False
    output_roots: list[str] = []
    env: dict[str, str] = {}
    pass_env: list[str] = []
    worktree: bool | str = False
    worktree_dir: str | None = None
    tags: dict[str, str] = {}
    #: What the lane may change: paths relative to its directory, or ``DIR/**`` for everything below one.
    owned_files: list[str] = []
    #: What it may not change, in the same words.
    forbidden_files: list[str] = []


class LaneSpecification(LaneFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One lane."""

    #: A part of the task's id.
    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,39}$")]


class Specification(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole specification, as its JSON Schema has it."""

    lanes: Annotated[list[LaneSpecification], msgspec.Meta(min_length=1, max_length=MOST_LANES)]
    schema: Literal["holdfast.fanout/1"] = SCHEMA
    #: How many lanes work at once.
    parallel: Annotated[int, msgspec.Meta(ge=1)] = DEFAULT_PARALLEL
    defaults: LaneFields = LaneFields()


#: What describes a lane here and not its task.
_OWN: Final = frozenset({"name", "agent", "prompt", "prompt_file", "owned_files", "forbidden_files"})


class Lane(NamedTuple):
    """One lane with its defaults filled in."""

    name: str
    agent: str
    prompt: bytes
    #: The directory that it works in, absolute.
    cwd: str
    #: Whether it may change files there; in a worktree of its own it is in nobody's way.
    shares_files: bool
    owned: list[str]
    forbidden: list[str]
    #: As :class:`holdfast.api.order.WorkOptions` has them; only what was said.
    options: dict[str, Any]


class Fan(NamedTuple):
    """A specification that was understood."""

    parallel: int
    lanes: list[Lane]


def parse(document: bytes) -> Fan:
    """Read a specification; files that it names for prompts are read, too.  Relative paths count from here.

    :raises InvalidSpecification: with everything that is wrong
    """
    try:
        whole: object = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidSpecification([f"The specification is not JSON: {error}."]) from None
    if not isinstance(whole, dict):
        raise InvalidSpecification(['The specification is not an object with "lanes".'])
    members = cast("dict[str, object]", whole)
    problems = [
        f"The specification has no key {key!r}; it has defaults, lanes, parallel and schema."
        for key in members
        if key not in ("defaults", "lanes", "parallel", "schema")
    ]
    if members.get("schema", SCHEMA) != SCHEMA:
        problems.append(f"The schema is {members['schema']!r}, and {SCHEMA!r} is what is understood here.")
    parallel = members.get("parallel", DEFAULT_PARALLEL)
    if not isinstance(parallel, int) or isinstance(parallel, bool) or parallel < 1:
        problems.append(f"parallel is {parallel!r}; give a positive number.")
        parallel = DEFAULT_PARALLEL
    defaults = members.get("defaults", {})
    if not isinstance(defaults, dict):
        problems.append("defaults is not an object.")
        defaults = {}
    common = cast("dict[str, object]", defaults)
    _, wrong = _convert(common, "defaults", LaneFields)
    problems += wrong
    entries = members.get("lanes")
    if not isinstance(entries, list) or not entries:
        problems.append("lanes is not an array with at least one lane.")
        entries = []
    elif len(cast("list[object]", entries)) > MOST_LANES:
        problems.append(f"There are more than {MOST_LANES} lanes.")
        entries = []
    lanes: list[Lane] = []
    for number, entry in enumerate(cast("list[object]", entries), start=1):
        if isinstance(entry, dict):
            lane = _lane(cast("dict[str, object]", entry), common, number, problems)
            if lane is not None:
                lanes.append(lane)
        else:
            problems.append(f"lane {number} is not an object.")
    problems += _shared(lanes)
    if problems:
        raise InvalidSpecification(problems)
    return Fan(parallel, lanes)


def _lane(entry: Mapping[str, object], defaults: Mapping[str, object], number: int, problems: list[str]) -> Lane | None:
    name = entry.get("name")
    place = f"lane {name!r}" if isinstance(name, str) else f"lane {number}"
    found, wrong = _convert(entry, place, LaneSpecification)
    inherited, _ = _convert(defaults, "defaults", LaneFields)
    # A prompt of the lane's own replaces either form of the common one.
    if "prompt" in entry or "prompt_file" in entry:
        inherited = {key: value for key, value in inherited.items() if key not in ("prompt", "prompt_file")}
    for key in ("env", "tags"):
        if key in found and key in inherited:
            found[key] = {**inherited[key], **found[key]}
    said = {**inherited, **found}
    if "name" not in entry:
        wrong.append(f"{place} has no name.")
    if not said.get("agent"):
        wrong.append(f"{place} has no agent.")
    prompt = _prompt(said, place, wrong)
    owned, forbidden = said.get("owned_files", []), said.get("forbidden_files", [])
    for key, patterns in (("owned_files", owned), ("forbidden_files", forbidden)):
        wrong += [
            f"{place}: {key}: {pattern!r} is neither a relative path nor one that ends with '/**'."
            for pattern in patterns
            if not _is_pattern(pattern)
        ]
    if not wrong:
        wrong += [f"{place}: {one!r} is both owned and forbidden." for one in owned if _covered(one, forbidden)]
    if wrong:
        problems += wrong
        return None
    writes = said.get("write", False) or said.get("sandbox", "read-only") not in ("", "read-only")
    return Lane(
        name=said["name"],
        agent=said["agent"],
        prompt=prompt,
        cwd=os.path.abspath(said.get("cwd") or "."),
        shares_files=writes and not said.get("worktree", False),
        owned=[os.path.normpath(pattern) for pattern in owned],
        forbidden=[os.path.normpath(pattern) for pattern in forbidden],
        options={key: value for key, value in said.items() if key not in _OWN and value != ""},
    )


def _convert(entry: Mapping[str, object], place: str, kind: type[LaneFields]) -> tuple[dict[str, Any], list[str]]:
    """The members of *entry* that are as they should be, and what is wrong with the others."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in entry.items():
        if key not in fields:
            from difflib import get_close_matches

            close = get_close_matches(key, fields, n=1)
            wrong.append(f"{place} has no key {key!r}{f'; did you mean {close[0]!r}?' if close else '.'}")
            continue
        try:
            found[key] = msgspec.convert(value, fields[key])
        except msgspec.ValidationError as error:
            expected = "a name is made of at most 40 small letters, digits and hyphens"
            what = expected if key == "name" else f"{key} is wrong: {str(error).partition(' - at')[0]}"
            wrong.append(f"{place}: {what}.")
    return found, wrong


def _prompt(said: Mapping[str, Any], place: str, wrong: list[str]) -> bytes:
    prompt: bytes = said.get("prompt", "").encode()
    path: str = said.get("prompt_file", "")
    if prompt and path:
        wrong.append(f"{place} has both a prompt and a prompt_file.")
    elif path:
        try:
            with open(path, "rb") as file:
                prompt = file.read()
        except (OSError, ValueError) as error:
            wrong.append(f"{place}: prompt_file {path!r} cannot be read: {error}.")
            return b""
    if not prompt.strip():
        wrong.append(f"{place} has no prompt.")
    return prompt


def _shared(lanes: Sequence[Lane]) -> list[str]:
    """What is wrong between lanes that are right by themselves."""
    problems: list[str] = []
    names: set[str] = set()
    outputs: dict[str, str] = {}
    for lane in lanes:
        if lane.name in names:
            problems.append(f"There is more than one lane {lane.name!r}.")
        names.add(lane.name)
        output = lane.options.get("output_file")
        if output is not None:
            other = outputs.setdefault(os.path.realpath(output), lane.name)
            if other != lane.name:
                problems.append(f"The lanes {other!r} and {lane.name!r} have the same output_file.")
    return problems


class Level(StrEnum):
    """How likely two lanes are to change the same files."""

    #: They own the same files: they belong into one lane.
    HIGH = "high"
    #: Nothing keeps them apart: they work one after the other.
    MEDIUM = "medium"
    #: They work side by side.
    LOW = "low"


class Overlap(NamedTuple):
    """Two lanes that could get in each other's way."""

    first: str
    second: str
    level: Level
    #: A pattern that both own, or the directory that both may change.
    what: str


def overlaps(lanes: Sequence[Lane]) -> list[Overlap]:
    """Every pair of *lanes* that is not safe side by side.

    Only lanes that may change files of the user's are looked at.  One that owns nothing by name may change everything
    below its directory but what it is forbidden.
    """
    writers = [lane for lane in lanes if lane.shares_files]
    found: list[Overlap] = []
    for position, first in enumerate(writers):
        for second in writers[position + 1 :]:
            overlap = _overlap(first, second)
            if overlap is not None:
                found.append(overlap)
    return found


def _overlap(first: Lane, second: Lane) -> Overlap | None:
    forbidden = [*_absolute(first, first.forbidden), *_absolute(second, second.forbidden)]
    level = Level.HIGH if first.owned and second.owned else Level.MEDIUM
    for one in _absolute(first, first.owned or ["**"]):
        for other in _absolute(second, second.owned or ["**"]):
            common = other if _covers(one, other) else one if _covers(other, one) else None
            # What one of them must not touch is no common ground.
            if common is not None and not _covered(common, forbidden):
                what = common.removesuffix(_EVERYTHING_BELOW) if level is Level.MEDIUM else common
                return Overlap(first.name, second.name, level, what)
    return None


def trespasses(lane: Lane, changed: Sequence[str]) -> list[str]:
    """Which of the *changed* paths (relative to the lane's directory) the lane had no business with."""
    return [
        path
        for path in changed
        if _covered(os.path.normpath(path), lane.forbidden)
        or (lane.owned and not _covered(os.path.normpath(path), lane.owned))
    ]


def _is_pattern(pattern: str) -> bool:
    literal = pattern.removesuffix(_EVERYTHING_BELOW)
    if not literal or literal.startswith(("/", "~")) or not _WILDCARDS.isdisjoint(literal) or "\0" in literal:
        return pattern == "**"
    return ".." not in literal.split("/")


def _absolute(lane: Lane, patterns: Sequence[str]) -> list[str]:
    return [os.path.join(lane.cwd, pattern) for pattern in patterns]


def _covered(pattern: str, by: Sequence[str]) -> bool:
    return any(_covers(one, pattern) for one in by)


def _covers(outer: str, inner: str) -> bool:
    """Whether everything that *inner* stands for is in *outer*, too."""
    if outer == inner:
        return True
    if outer == "**":
        return True
    if not outer.endswith(_EVERYTHING_BELOW):
        return False
    return inner.startswith(outer.removesuffix("**"))
