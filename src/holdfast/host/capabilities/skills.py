"""A skill as it is told: from its ``SKILL.md``, its metadata, and the plugin that it is part of."""

from __future__ import annotations

import os
import posixpath
from typing import Final

import msgspec

from holdfast.host import discovery
from holdfast.host.capabilities.front_matter import read_front_matter, words
from holdfast.host.capabilities.manifest import InvalidManifest, read_name
from holdfast.host.capabilities.skill_metadata import Dependencies, Policy, SkillMetadata, read_skill_metadata
from holdfast.host.capabilities.yaml_text import InvalidYaml
from holdfast.host.files.place import path_of

#: Characters of a name, and of one with the name of its plugin in front of it.
_NAME_LIMIT: Final = 64
_QUALIFIED_LIMIT: Final = 2 * _NAME_LIMIT + 1


class DiscoveryRoot(msgspec.Struct, frozen=True):
    """The directory in which a skill was found that is part of no installed plugin."""

    id: str
    #: Its URI.
    path: str


class Skill(msgspec.Struct, rename="camel"):
    """A skill."""

    name: str
    description: str
    short_description: str | None
    #: URI of its ``SKILL.md``.
    path: str
    dependencies: Dependencies | None
    policy: Policy | None


class FreeSkill(Skill, kw_only=True):
    """A skill that is part of no installed plugin."""

    discovery_root: DiscoveryRoot

    @classmethod
    def of(cls, skill: Skill, root: DiscoveryRoot) -> FreeSkill:
        """The skill as one of a directory."""
        return cls(*msgspec.structs.astuple(skill), discovery_root=root)


def read_skills(found: discovery.Discovery) -> tuple[list[Skill], bool]:
    """The skills below a directory, and whether all that was found there could be understood."""
    namespaces = _namespaces(found)
    skills: list[Skill] = []
    complete = found.error is None and not found.warnings
    for files in found.skills:
        try:
            skills.append(_skill(files, namespaces))
        except InvalidYaml:
            complete = False
    return skills, complete


def _namespaces(found: discovery.Discovery) -> dict[str, str]:
    """The names of plugins by their directories; a plugin without a readable name gives none."""
    names: dict[str, str] = {}
    for manifest in found.namespace_manifests:
        root = posixpath.dirname(posixpath.dirname(path_of(manifest.path)))
        try:
            names[root] = read_name(manifest.contents) or _base_name(root)
        except InvalidManifest:
            continue
    return names


def _skill(files: discovery.Skill, namespaces: dict[str, str]) -> Skill:
    directory = posixpath.dirname(path_of(files.instructions.path))
    said = read_front_matter(files.instructions.contents)
    name = said.name or words(_base_name(directory))
    if said.description is None or name is None or len(name) > _NAME_LIMIT:
        raise InvalidYaml("a skill needs a description, and a name that is not too long")
    namespace = next((namespaces[path] for path in _upwards(directory) if path in namespaces), None)
    if namespace is not None:
        name = f"{namespace}:{name}"
    if len(name) > _QUALIFIED_LIMIT:
        raise InvalidYaml("the name of the plugin is too long")
    about = SkillMetadata() if files.metadata is None else read_skill_metadata(files.metadata.contents)
    return Skill(
        name, said.description, said.short_description, files.instructions.path, about.dependencies, about.policy
    )


def _upwards(directory: str) -> list[str]:
    found = [directory]
    while found[-1] != "/":
        found.append(posixpath.dirname(found[-1]))
    return found


def _base_name(path: str) -> str:
    return os.fsencode(posixpath.basename(path)).decode(errors="replace")
