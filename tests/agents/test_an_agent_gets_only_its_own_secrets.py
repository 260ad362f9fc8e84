"""What an agent inherits: everything but other people's secrets and the marks of another session."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.agents.adapter import Agent, Installation, Work
from holdfast.agents.claude import ClaudeAgent
from holdfast.agents.codex import CodexAgent
from holdfast.agents.environment import agent_environment
from holdfast.agents.rehearsal import RehearsalAgent

CWD = Path("/work")

_SECRET_NAMES = (
    "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "DATABASE_PASSWORD",
    "GOOGLE_APPLICATION_CREDENTIALS", "my_secret_thing", "NPM_CONFIG__AUTHTOKEN", "CODEX_API_KEY",
    "CLAUDE_CODE_OAUTH_TOKEN", "AZURE_OPENAI_API_KEY",
)  # fmt: skip
SECRETS = dict.fromkeys(_SECRET_NAMES, "secret")

_MARK_NAMES = (
    "CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_MESSAGING_TOKEN", "CLAUDE_CODE_MESSAGING_SOCKET", "CLAUDE_PID", "AI_AGENT", "CODEX_THREAD_ID",
    "CODEX_SESSION_ID", "CODEX_CI", "CODEX_TOOL_CALL_ID", "CODEX_MANAGED_BY_NPM", "CODEX_MANAGED_PACKAGE_ROOT",
    "HOLDFAST_STATE_DIR", "HOLDFAST_TASK",
)  # fmt: skip
MARKS = dict.fromkeys(_MARK_NAMES, "1")

PLAIN = {
    "PATH": "/usr/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", "HTTPS_PROXY": "http://proxy", "EDITOR": "vi",
    "SSH_AUTH_SOCK": "/run/agent", "CLAUDE_CONFIG_DIR": "/c", "CODEX_HOME": "/nonexistent/codex",
    "CLAUDE_CODE_MAX_RETRIES": "2", "ANTHROPIC_BASE_URL": "http://x", "EMPTY": "", "PWD": "/elsewhere", "OLDPWD": "/",
}  # fmt: skip


def inherited(agent: Agent, extra: dict[str, str] | None = None) -> dict[str, str]:
    environment = {**PLAIN, **SECRETS, **MARKS, **(extra or {})}
    return agent.launch(Installation(command=["/bin/agent"]), Work(cwd=CWD), environment).env


@pytest.mark.parametrize(
    ("agent", "own"),
    [
        (CodexAgent(), {"OPENAI_API_KEY", "CODEX_API_KEY", "AZURE_OPENAI_API_KEY"}),
        (ClaudeAgent(), {"ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"}),
        (RehearsalAgent(), set()),
        (
            CodexAgent(pass_env=["github_*"]),
            {"OPENAI_API_KEY", "CODEX_API_KEY", "AZURE_OPENAI_API_KEY", "GITHUB_TOKEN"},
        ),
    ],
    ids=["codex", "claude", "rehearsal", "claude with a passed pattern"],
)
def test_only_its_own_secrets(agent: Agent, own: set[str]) -> None:
    env = inherited(agent)
    assert {name for name in SECRETS if name in env} == own
    assert not {name for name in MARKS if name in env}
    assert {name: env[name] for name in PLAIN if name not in ("PWD", "OLDPWD")} == {
        name: value for name, value in PLAIN.items() if name not in ("PWD", "OLDPWD")
    }


def test_the_secrets_of_a_cloud_only_when_it_serves_the_model() -> None:
    assert "AWS_SECRET_ACCESS_KEY" not in inherited(ClaudeAgent())
    assert "AWS_SECRET_ACCESS_KEY" in inherited(ClaudeAgent(), {"CLAUDE_CODE_USE_BEDROCK": "1"})
    assert "GOOGLE_APPLICATION_CREDENTIALS" in inherited(ClaudeAgent(), {"CLAUDE_CODE_USE_VERTEX": "1"})


def test_the_key_that_a_model_provider_of_codex_names(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[model_providers.mistral]\nenv_key = "MISTRAL_API_KEY"\n')
    extra = {"CODEX_HOME": str(tmp_path), "MISTRAL_API_KEY": "k", "OTHER_API_KEY": "k"}
    assert {"MISTRAL_API_KEY", "OTHER_API_KEY"} & set(inherited(CodexAgent(), extra)) == {"MISTRAL_API_KEY"}


def test_marks_of_a_session_are_not_passed_even_if_asked_for() -> None:
    assert "CODEX_THREAD_ID" not in agent_environment({"CODEX_THREAD_ID": "x"}, cwd=CWD, own=["*"], passed=["*"])


def test_the_directory_is_the_agents_own() -> None:
    env = agent_environment(PLAIN, cwd=CWD)
    assert env["PWD"] == "/work"
    assert "OLDPWD" not in env


def test_what_is_no_utf8_stays_behind() -> None:
    assert "BAD" not in agent_environment({"BAD": "\udcff", "GOOD": "ä"}, cwd=CWD)
