# Sourced by ./try and ./check from the top of the checkout: makes .venv and .tools/agents as the project needs them.
# Everything is idempotent; a stamp makes it a matter of milliseconds when nothing has changed.

fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

say() {
    printf '%s\n' "$*" >&2
}

# The newest Python that is good enough, as a command.
find_python() {
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is not installed." "Install it, or name it: PYTHON=/path/to/python3 $0"
}

# Run apt-get for what the distribution splits off, if that is ours to do.
try_package() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "Installing $1 with apt-get ..."
    log=$(mktemp)
    installed=0
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "$1"; } >"$log" 2>&1 || installed=1
    [ "$installed" = 0 ] || cat "$log" >&2
    rm -f "$log"
    return "$installed"
}

install_package() {
    try_package "$1" || fail "$2" "Install it (as root: apt-get install $1), then run $0 again."
}

make_venv() {
    python=$(find_python) || exit 1
    if ! "$python" -c 'import ensurepip, venv; ensurepip.version()' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        install_package "$version-venv" "$python cannot make virtual environments: its module ensurepip is missing."
    fi
    rm -rf .venv
    say "Making .venv with $python ..."
    "$python" -m venv .venv
}

# setup_python [dev]: Holdfast itself in .venv, at the versions in constraints.txt; with "dev" the tools of ./check too.
setup_python() {
    stamp=.venv/.holdfast-${1:-run}
    wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)
    [ "$wanted" = "$(cat "$stamp" 2>/dev/null)" ] && .venv/bin/python -c 'import holdfast' 2>/dev/null && return
    .venv/bin/python -m pip --version >/dev/null 2>&1 || make_venv
    say "Installing Holdfast${1:+ and the tools to check it} into .venv ..."
    requirements=
    if [ "${1:-}" = dev ]; then
        requirements=$(.venv/bin/python -c \
            'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"])')
    fi
    # PIP_CONSTRAINT holds for the build's own environment too.
    # shellcheck disable=SC2086  # one requirement a word
    PIP_CONSTRAINT=$PWD/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
        .venv/bin/python -m pip install --quiet --editable . $requirements
    printf '%s' "$wanted" >"$stamp"
}

# What the host runs a process in that a client wants in a sandbox.
setup_sandbox() {
    command -v bwrap >/dev/null || try_package bubblewrap ||
        say "bubblewrap (bwrap) is not installed: the tests that need a sandbox will be skipped."
}

CODEX_VERSION=0.169.0
# An older one, whose app-server differs in what it records and answers.
OLD_CODEX_VERSION=0.142.2
CLAUDE_VERSION=2.1.329

# The real agents that tests run against a scripted model: no account is needed, and nothing leaves the machine.
setup_agents() {
    stamp=.tools/agents/.installed
    wanted="codex $CODEX_VERSION and $OLD_CODEX_VERSION, claude $CLAUDE_VERSION"
    [ "$wanted" = "$(cat "$stamp" 2>/dev/null)" ] && return
    command -v npm >/dev/null || fail "npm is not installed; tests run the real agents." "Install Node.js with npm."
    say "Installing $wanted into .tools/agents ..."
    mkdir -p .tools/agents
    npm install --prefix .tools/agents --no-audit --no-fund --loglevel=error \
        "@openai/codex@$CODEX_VERSION" "@anthropic-ai/claude-code@$CLAUDE_VERSION" >&2
    mkdir -p ".tools/agents-$OLD_CODEX_VERSION"
    npm install --prefix ".tools/agents-$OLD_CODEX_VERSION" --no-audit --no-fund --loglevel=error \
        "@openai/codex@$OLD_CODEX_VERSION" >&2
    printf '%s' "$wanted" >"$stamp"
}
