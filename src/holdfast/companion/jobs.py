"""The jobs of a workspace: what the view lists, brought up to what Holdfast knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from holdfast.clock import isoformat, monotonic, wall
from holdfast.companion import foreign, job
from holdfast.companion.daemon import Daemon, Document
from holdfast.companion.narration import Entry, narrate, reasoning
from holdfast.companion.outcome import Outcome, outcome
from holdfast.companion.output import note
from holdfast.companion.refusal import JobNotFound, Refused
from holdfast.companion.view import Record, View, ViewUnavailable, by_age, is_active
from holdfast.companion.workspace import Workspace

#: Seconds in which a job that is being ended has come to its end.
END_PATIENCE: Final = 60.0
#: How many of the newest jobs are looked at where not every one matters.
RECENT: Final = 60
_MOST: Final = 10_000


class Jobs:
    """The jobs of *workspace*, ours and those of other programs."""

    def __init__(self, workspace: Workspace, daemon: Daemon | None = None) -> None:
        self.workspace = workspace
        self.daemon = daemon or Daemon()
        self.view = View(workspace.directory)
        self.home = str(self.daemon.directory)
        self._view_failed = False

    # --- the view, which may be unavailable ---------------------------------------------------------------------------

    def show(self, record: Record) -> None:
        """Show *record* in the view; that it cannot be written is said once, and is no failure of a job."""
        self.with_view(lambda: self.view.put(record))

    def with_view(self, change: Callable[[], None]) -> None:
        """Do *change* to the view, if it is available."""
        if self._view_failed:
            return
        try:
            change()
        except ViewUnavailable as error:
            self._view_failed = True
            note(f"{error.message} {error.hint}")

    def log(self, record: Record, entry: Entry) -> None:
        """Add an entry to the log of a job."""
        if self._view_failed or not record.get("logFile"):
            return
        path = self.view.log_path(record["id"])
        self.view.log(path, entry.message)
        if entry.title is not None and entry.body is not None:
            self.view.log(path, entry.title, entry.body)

    # --- listing and finding ------------------------------------------------------------------------------------------

    def of_session(self, *, every: bool = False) -> list[Record]:
        """The jobs of the Claude session that calls (of the workspace, when none does), the newest change first.

        Without *every* old ones may be left out: what is under way and the last :data:`RECENT` are there.
        """
        records = self._current(self.workspace.session, _MOST if every else RECENT)
        return [each for each in records if self.workspace.session in (None, each.get("sessionId"))]

    def find(self, reference: str, among: list[Record]) -> Record:
        """The one job of *among* whose id is or begins with *reference*.

        :raises JobNotFound: none does
        :raises Refused: several do
        """
        exact = [each for each in among if each["id"] == reference]
        fitting = exact or [each for each in among if each["id"].startswith(reference)]
        if len(fitting) > 1:
            raise Refused(f'Job reference "{reference}" is ambiguous. Use a longer job id.')
        if not fitting:
            raise JobNotFound(f'No job found for "{reference}". Run /codex:status to list known jobs.')
        return fitting[0]

    def named(self, reference: str) -> Record:
        """The job that *reference* names, wherever anything is left of it.

        :raises JobNotFound: nothing is
        :raises Refused: it names several
        """
        for record in self._listed():
            if record["id"] == reference:
                if not job.is_ours(record, self.home):
                    return foreign.as_it_is(record)
                self._bring_up_to_date(record, None)
                return record
        try:
            return self.find(reference, self._current(None, _MOST))
        except JobNotFound:
            return self.find(reference, self.view.ended(reference))

    def _listed(self) -> list[Record]:
        try:
            return self.view.records()
        except ViewUnavailable as error:
            note(f"{error.message} {error.hint}")
            return []

    def _current(self, session: str | None, limit: int) -> list[Record]:
        listed = self._listed()
        ours = {each["id"]: each for each in listed if job.is_ours(each, self.home)}
        others = [foreign.as_it_is(each) for each in listed if each["id"] not in ours]
        tasks = self._tasks(session, limit)
        for record in ours.values():
            self._bring_up_to_date(record, tasks.get(record["id"]))
        recalled = [job.recall(view, self.home) for name, view in tasks.items() if name not in ours]
        return by_age([*ours.values(), *others, *(each for each in recalled if each is not None)])

    def _tasks(self, session: str | None, limit: int) -> dict[str, Document]:
        """The newest *limit* tasks of this workspace, or of one session in it."""
        # Where nothing was ever stored, no daemon need be started to tell so.
        if not (self.daemon.directory / "holdfast.db").exists():
            return {}
        wanted = "&".join(f"tag={quote(each, safe='')}" for each in job.wanted_tags(self.workspace.root, session))
        listed = self.daemon.get(f"/v1/tasks?{wanted}&limit={limit}")["tasks"]
        return {view["id"]: view for view in listed}

    def _bring_up_to_date(self, record: Record, view: Document | None) -> None:
        if not is_active(record):
            return
        try:
            view = view or self.daemon.get(f"/v1/tasks/{record['id']}")
        except Refused as error:
            if error.code != "not_found":
                raise
            message = "Holdfast does not have this job any more."
            record.update(status="failed", phase="failed", pid=None, errorMessage=message)
            self.show(record)
            return
        if view["state"] == "finished":
            self.settle(record)
        elif job.update(record, view):
            self.show(record)

    # --- following to the end -----------------------------------------------------------------------------------------

    def follow(self, record: Record, tell: Callable[[str], None] | None = None) -> Outcome:
        """Stay with a job until its end, keep the view of it up to date, and return what it comes to.

        *tell* gets what somebody who waits may want to see.
        """
        thoughts: list[str] = []
        review = record["kind"] == "review"
        for line in self.daemon.progress(record["id"]):
            if line["kind"] == "reasoning":
                thoughts += [each for each in reasoning(line["text"]) if each not in thoughts]
            entry = narrate(line, review=review)
            if entry is None:
                continue
            self.log(record, entry)
            if tell is not None and entry.shown:
                tell(entry.message)
            # From the line itself: the task's facts may be a moment behind what its log says.
            if job.advance(record, line["kind"], line["text"], entry.phase):
                self.show(record)
        return self.settle(record, thoughts)

    def settle(self, record: Record, thoughts: list[str] | None = None) -> Outcome:
        """Bring a finished job to its end: what it comes to, in *record* and in the view.

        :raises Refused: it is not finished
        """
        path = f"/v1/tasks/{record['id']}"
        result = self.daemon.get(f"{path}/result")
        answer: str | None = result["message"]["text"]
        if answer is None or result["message"]["inline_truncated"]:
            answer = self.daemon.read(f"{path}/message").decode(errors="replace") if result["message"]["path"] else ""
        job.update(record, self.daemon.get(path))
        job.conclude(record, result)
        end = outcome(record, result, answer, self._thoughts(record) if thoughts is None else thoughts)
        record.update(result=end.payload, rendered=end.rendered)
        if answer.strip() or record["status"] != "cancelled":
            # What was cancelled before it said anything is still known by what was asked for.
            record["summary"] = job.shorten(end.summary)
        if end.exit_status != 0 and record["status"] == "completed":
            record.update(status="failed", phase="failed", errorMessage=end.reason)
        known = self.view.record(record["id"])
        self.show(record)
        if known is None or is_active(known):
            if record["status"] == "cancelled":
                self.log(record, Entry("Cancelled by user."))
            self.log(record, Entry("Finished.", title="Final output", body=end.rendered))
        return end

    def _thoughts(self, record: Record) -> list[str]:
        lines = self.daemon.read(f"/v1/tasks/{record['id']}/progress").splitlines()
        found = [line for line in map(json.loads, lines) if line.get("kind") == "reasoning"]
        return list(dict.fromkeys(section for line in found for section in reasoning(line["text"])))

    def stored(self, record: Record) -> Record | None:
        """The whole record of a finished job, result included, wherever it is kept."""
        if job.is_ours(record, self.home):
            stored = self.view.record(record["id"])
            if stored is not None and "rendered" in stored and not is_active(stored):
                return stored
            whole = dict(record)
            self.settle(whole)
            return whole
        return self.view.record(record["id"])

    # --- ending -------------------------------------------------------------------------------------------------------

    def cancel(self, record: Record, *, wait: bool = True) -> bool:
        """End an active job.  Returns whether a turn of the agent was going on and its end is certain."""
        if not job.is_ours(record, self.home):
            foreign.end(record)
            self.with_view(lambda: self._mark_cancelled(record))
            return False
        path = f"/v1/tasks/{record['id']}"
        had_turn = bool(self.daemon.get(path).get("thread_id"))
        view = self.daemon.post(f"{path}/cancel", {})
        deadline = monotonic() + END_PATIENCE
        while wait and view["state"] != "finished" and monotonic() < deadline:
            view = self.daemon.get(f"{path}/wait?timeout_s=20", timeout=50.0)
        if view["state"] == "finished":
            self.settle(record)
            return had_turn and record["status"] == "cancelled"
        job.update(record, view)
        self.show(record)
        return False

    def _mark_cancelled(self, record: Record) -> None:
        now = isoformat(wall())
        fields: Record = {
            "status": "cancelled",
            "phase": "cancelled",
            "pid": None,
            "completedAt": now,
            "errorMessage": "Cancelled by user.",
        }
        self.view.change(record["id"], fields)
        log = record.get("logFile")
        if isinstance(log, str) and log == str(self.view.log_path(record["id"])):
            self.view.log(self.view.log_path(record["id"]), "Cancelled by user.")
        record.update(fields)
