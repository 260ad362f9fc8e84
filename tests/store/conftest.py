from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest_asyncio

from holdfast.store.store import Store


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store, None]:
    async with await Store.open(tmp_path / "state" / "holdfast.db") as store:
        yield store
