"""Telling somebody that a task is finished: with a command, by POST, or on the desktop.

Each notification is stored with the task and is tried until it worked, a bounded number of times; a restart of the
daemon goes on counting where the last one stopped.  So everybody is told at least once, or the task's view says why
not.  What becomes of a notification changes nothing about the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urljoin, urlsplit

import msgspec
import sqlalchemy as sa

from holdfast.agents.catalogue import read_table
from holdfast.agents.environment import agent_environment
from holdfast.clock import isoformat, wall
from holdfast.drivers.one_shot import tail
from holdfast.errors import HoldfastError
from holdfast.host.port import Kind, ProcessSpec, Record
from holdfast.store.schema import notifications, tasks
from holdfast.store.store import Store
from holdfast.tasks.acceptance import Acceptance, TaskFiles, replace_file
from holdfast.tasks.ports import Hosts
from holdfast.tasks.request import Notification, check_notification
from holdfast.tasks.result import Result
from holdfast.tasks.state import State
from holdfast.tasks.view import NotificationView

logger: Final = logging.getLogger(__name__)

SCHEMA: Final = "holdfast.notification/1"
#: Before each further try, seconds.
PAUSES: Final = (1.0, 5.0, 30.0, 120.0, 600.0)
#: A command that has not ended by then is ended, seconds.
COMMAND_LIMIT: Final = 30.0
#: For a POST and its answer, seconds.
POST_LIMIT: Final = 10.0
_REDIRECTS: Final = 3
_ERROR_LENGTH: Final = 500


class NotifyTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[notify]`` of the configuration file: what every task does that is not asked for something else."""

    command: list[str] | None = None
    url: str | None = None
    desktop: bool = False


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a finished task: how it ended and where to read on, never its answer."""

    schema: Literal["holdfast.notification/1"] = SCHEMA
    task_id: str
    label: str | None
    agent: str
    status: str
    ok: bool
    exit_code: int
    #: First line of the prompt, shortened.
    summary: str
    #: Why it is not a success, on one line.
    error: str | None
    directory: str
    duration_s: float
    finished: str | None
    #: Where the whole result document lies on this machine.
    result_path: str
    #: 1, or more for an upgrade: it became known how a task had ended of which ``outcome_unknown`` was told before.
    revision: int
    upgrade: bool


class NotifyFailed(Exception):
    """One try did not work; the message says why."""


def wanted(requested: list[Notification] | None) -> list[Notification]:
    """What a task does when it is finished: what was *requested*, or what the configuration file says.

    :raises InvalidConfiguration: it cannot be understood
    :raises InvalidRequest: it names something that cannot be
    """
    if requested is not None:
        return requested
    table = read_table("notify", NotifyTable)
    found = [Notification(command=table.command)] if table.command is not None else []
    found += [Notification(webhook=table.url)] if table.url is not None else []
    found += [Notification(desktop=True)] if table.desktop else []
    for notification in found:
        check_notification(notification)
    return found


def digest(result: Result, acceptance: Acceptance) -> Digest:
    """What is told of *result*."""
    error = None if result.error is None else " ".join(result.error.message.split())[:_ERROR_LENGTH]
    return Digest(
        task_id=result.task_id,
        label=result.label,
        agent=acceptance.request.agent,
        status=result.status.value,
        ok=result.ok,
        exit_code=result.exit.wrapper_code,
        summary=acceptance.summary,
        error=error,
        directory=acceptance.settled.cwd,
        duration_s=result.timing.wall_ms / 1000,
        finished=result.timing.ended,
        result_path=result.output.result_path,
        revision=result.revision,
        upgrade=result.revision > 1,
    )


class Notifier:
    """Tells whoever is to be told.  Used from one event loop."""

    def __init__(self, store: Store, hosts: Hosts, directory: Path) -> None:
        """*directory* is where the directories of tasks are."""
        self._store = store
        self._hosts = hosts
        self._directory = directory
        self._pauses = PAUSES
        self._work: dict[str, asyncio.Task[None]] = {}
        #: Tasks that nobody is told of for the moment.
        self._silent: set[str] = set()

    async def recover(self) -> None:
        """Go on with everything that an earlier daemon did not get done."""
        query = (
            sa.select(notifications.c.task_id)
            .distinct()
            .join(tasks, tasks.c.id == notifications.c.task_id)
            .where(_open(), tasks.c.state == State.FINISHED)
        )
        for row in await self._store.read(lambda connection: connection.execute(query).fetchall()):
            self.tell(row.task_id)

    def tell(self, task_id: str) -> None:
        """Begin to tell of a task, if it is finished and somebody is to be told; returns at once."""
        if task_id not in self._work and task_id not in self._silent:
            work = asyncio.create_task(self._tell(task_id), name=f"notify {task_id}")
            self._work[task_id] = work
            work.add_done_callback(lambda _: self._work.pop(task_id, None))

    @contextlib.asynccontextmanager
    async def silence(self, task_id: str) -> AsyncGenerator[None]:
        """Tell nobody of a task as long as this is entered, because its result changes; afterwards go on with what is
        to be told then.
        """
        self._silent.add(task_id)
        try:
            work = self._work.get(task_id)
            if work is not None:
                work.cancel()
                await asyncio.wait({work})
            yield
        finally:
            self._silent.discard(task_id)
            self.tell(task_id)

    async def aclose(self) -> None:
        """Stop; what is not done is taken up by :meth:`recover`."""
        work = list(self._work.values())
        for task in work:
            task.cancel()
        if work:
            await asyncio.wait(work)

    async def _tell(self, task_id: str) -> None:
        try:
            left = sa.select(notifications).where(notifications.c.task_id == task_id, _open())
            rows = await self._store.read(lambda connection: connection.execute(left).fetchall())
            if not rows:
                return
            columns = (tasks.c.request, tasks.c.result)
            query = sa.select(*columns).where(tasks.c.id == task_id, tasks.c.state == State.FINISHED)
            row = await self._store.read(lambda connection: connection.execute(query).first())
            if row is None:
                return
            acceptance = msgspec.json.decode(row.request, type=Acceptance)
            told = digest(msgspec.json.decode(row.result, type=Result), acceptance)
            await asyncio.gather(*(self._insist(told, acceptance, row.number, row.tries) for row in rows))
        except Exception:
            # Whatever it is, the task is finished and stays so; the next daemon tries again.
            logger.exception("task %s: nobody could be told of its end", task_id)

    async def _insist(self, told: Digest, acceptance: Acceptance, number: int, tries: int) -> None:
        notification = acceptance.notify[number]
        # Those of an upgrade are counted anew, and are other processes.
        name = f"notify-{told.task_id}-{number}-{f'r{told.revision}-' if told.upgrade else ''}"
        if tries and notification.webhook is None:
            await self._clear(f"{name}{tries}")
        while True:
            if 0 < tries <= len(self._pauses):
                await asyncio.sleep(self._pauses[tries - 1])
            tries += 1
            # Counted first: a try that kills the daemon is not repeated for ever.
            await self._note(told.task_id, number, tries=tries)
            try:
                await self._try(notification, told, acceptance, f"{name}{tries}")
            except (NotifyFailed, HoldfastError) as error:
                reason = str(error)[:_ERROR_LENGTH]
                logger.warning("task %s: notification %d, try %d: %s", told.task_id, number, tries, reason)
                given_up = tries > len(self._pauses)
                await self._note(told.task_id, number, error=reason, **({"abandoned_at": wall()} if given_up else {}))
                if given_up:
                    return
            else:
                await self._note(told.task_id, number, notified_at=wall(), error=None)
                return

    async def _try(self, notification: Notification, told: Digest, acceptance: Acceptance, process_id: str) -> None:
        if notification.webhook is not None:
            await _bounded(lambda: post(notification.webhook or "", msgspec.json.encode(told)))
        elif notification.command is not None:
            await self._run(notification.command, told, process_id)
        else:
            await self._run(await asyncio.to_thread(desktop_command, told), told, process_id)

    async def _run(self, command: list[str], told: Digest, process_id: str) -> None:
        """Run *command* in the host, with the digest on its standard input, and see that it succeeds."""
        given = TaskFiles(self._directory, told.task_id).directory / "notification.json"
        await asyncio.to_thread(replace_file, given, [msgspec.json.encode(told) + b"\n"])
        cwd = Path(told.directory)
        if not await asyncio.to_thread(cwd.is_dir):
            cwd = Path("/")
        host = await self._hosts.host()
        end: Record | None = None
        try:
            await host.start(
                ProcessSpec(
                    process_id=process_id,
                    argv=command,
                    cwd=cwd,
                    env=agent_environment(os.environ, cwd=cwd),
                    stdin_file=given,
                )
            )
            try:
                async with asyncio.timeout(COMMAND_LIMIT):
                    async for record in host.records(process_id):
                        if isinstance(record, Record) and record.kind is Kind.EXITED:
                            end = record
                            break
            except TimeoutError:
                pass
            await host.terminate(process_id, grace=1.0)
            if end is None:
                raise NotifyFailed(f"{command[0]} did not end within {COMMAND_LIMIT:g} seconds and was ended")
            if end.exit_code != 0:
                complaint = (await tail(host, process_id, Kind.STDERR, 2000)).decode(errors="replace").strip()
                raise NotifyFailed(f"{command[0]} ended with status {end.exit_code}: {complaint or 'not a word'}")
        finally:
            await self._clear(process_id)

    async def _clear(self, process_id: str) -> None:
        """Leave nothing of a try behind."""
        try:
            host = await self._hosts.host()
            await host.terminate(process_id)
            await host.forget(process_id)
        except HoldfastError as error:
            logger.warning("%s is not forgotten: %s", process_id, error)

    async def _note(self, task_id: str, number: int, **values: Any) -> None:
        statement = (
            notifications.update()
            .where(notifications.c.task_id == task_id, notifications.c.number == number)
            .values(**values)
        )
        await self._store.write(lambda connection: connection.execute(statement))

    async def views(self, acceptances: dict[str, Acceptance]) -> dict[str, list[NotificationView]]:
        """How far the notifications of these tasks (by id) are; tasks without any are left out."""
        ids = [task_id for task_id, acceptance in acceptances.items() if acceptance.notify]
        if not ids:
            return {}
        query = sa.select(notifications).where(notifications.c.task_id.in_(ids)).order_by(notifications.c.number)
        found: dict[str, list[NotificationView]] = {}
        for row in await self._store.read(lambda connection: connection.execute(query).fetchall()):
            view = NotificationView(
                to=_describe(acceptances[str(row.task_id)].notify[int(row.number)]),
                state="sent" if row.notified_at else "abandoned" if row.abandoned_at else "pending",
                tries=row.tries,
                notified_at=isoformat(row.notified_at) if row.notified_at else None,
                error=row.error,
            )
            found.setdefault(row.task_id, []).append(view)
        return found


def _open() -> sa.ColumnElement[bool]:
    return sa.and_(notifications.c.notified_at.is_(None), notifications.c.abandoned_at.is_(None))


def _describe(notification: Notification) -> str:
    if notification.command is not None:
        return f"command {notification.command[0]}"
    if notification.webhook is not None:
        # Without what may be a secret in it.
        url = urlsplit(notification.webhook)
        return f"{url.scheme}://{url.hostname}"
    return "desktop"


def desktop_command(told: Digest) -> list[str]:
    """What shows *told* on the desktop of whoever runs this.

    :raises NotifyFailed: there is no program for it
    """
    title = f"{told.label or told.agent}: {told.status}{' after all' if told.upgrade else ''}"
    body = told.summary if told.error is None else f"{told.summary}\n{told.error}"
    if sys.platform == "darwin":
        program, script = shutil.which("osascript"), "display notification (item 2 of argv) with title (item 1 of argv)"
        if program is not None:
            return [program, "-e", "on run argv", "-e", script, "-e", "end run", "--", title, body]
    else:
        program = shutil.which("notify-send")
        if program is not None:
            return [program, "--app-name=Holdfast", "--", title, body]
    raise NotifyFailed("no program for notifications on the desktop was found (notify-send or osascript)")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def post(url: str, body: bytes) -> None:
    """POST *body* as JSON; a redirect is followed, as a POST, to the same host only.  Blocking.

    :raises NotifyFailed: there was no answer, or another one than success
    """
    opener = urllib.request.build_opener(_NoRedirect)
    host, secure = urlsplit(url).hostname, urlsplit(url).scheme == "https"
    headers = {"Content-Type": "application/json", "User-Agent": "holdfast"}
    for _ in range(_REDIRECTS + 1):
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")
        try:
            with opener.open(request, timeout=POST_LIMIT):
                return
        except urllib.error.HTTPError as error:
            with error:
                target = error.headers.get("Location") if error.code in (301, 302, 303, 307, 308) else None
                if target is None:
                    raise NotifyFailed(f"{host} answered {error.code}") from None
            url = urljoin(url, target)
            aim = urlsplit(url)
            if aim.hostname != host or aim.scheme not in (("https",) if secure else ("http", "https")):
                raise NotifyFailed(f"{host} redirects to another host ({aim.scheme}://{aim.hostname})") from None
        except (OSError, ValueError) as error:
            raise NotifyFailed(f"{host} cannot be reached: {error}") from error
    raise NotifyFailed(f"{host} redirects in a circle")


async def _bounded(work: Any) -> None:
    """Run blocking *work* in a thread of its own, which nobody waits for when the time is over."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except Exception as failure:
            error = failure
        try:
            loop.call_soon_threadsafe(settle, error)
        except RuntimeError:
            # The loop is closed: nobody wants to know any more.
            pass

    threading.Thread(target=run, name="notify", daemon=True).start()
    try:
        await asyncio.wait_for(done, POST_LIMIT + 1)
    except TimeoutError:
        raise NotifyFailed(f"no answer within {POST_LIMIT:g} seconds") from None
