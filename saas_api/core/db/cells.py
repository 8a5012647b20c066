"""Cells: PostgreSQL clusters over which organizations are spread, and the directory that says where each one is.

The home cell, that of DATABASE_URL, has the directory, the users with their sessions, the services and the catalogue of
plans; the names in CELLS are the others. An organization is in one cell with all of its rows, or is being moved. Until
it is moved for the first time, the directory has no row of it, and it is at home.

What runs for one organization finds its cell by `cell_of`; what runs for all of a cell runs in the current one.
Without CELLS nothing is looked up.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from flask import g, has_request_context
from sqlalchemy.exc import DBAPIError, OperationalError

from saas_api.core.db import engine
from saas_api.core.db.prepared import Statement
from saas_api.core.errors import ServiceUnavailable
from saas_api.core.ids import NIL_UUID
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)

Found = TypeVar("Found")

HOME = "home"
"""Name of the home cell in the directory and for people; in code it is None."""
CACHE_SECONDS = 5.0
"""How long a process may use a cell without asking the directory again. A move waits for longer than that."""
MAX_CACHED = 50_000
JOBS_LOCK_KEY = 7_215_905
"""Advisory lock in each cell: jobs share it, and a move takes it alone for a moment."""
RETRY_SECONDS = 5
PAUSE_SECONDS = 1.0
"""After a connection to a cell failed, requests do not wait for another one this long."""
_AS_SYSTEM: Statement = ("SELECT set_config('role', 'saas_system', true)", {})
_FIND = "SELECT cell, moving_to FROM organization_cells WHERE id = %(directory_id)s"
_IS_ANY_MOVING = "SELECT EXISTS (SELECT FROM organization_cells WHERE moving_to IS NOT NULL)"

_cache: dict[UUID, tuple[str | None, float]] = {}
_none_moving_at = [-math.inf]
"""When the directory last said that no organization was being moved; none leaves its cell for CACHE_SECONDS then."""


class OrganizationMoving(ServiceUnavailable):
    """The organization is being moved to another database; the same request succeeds afterwards."""

    code, message = "ORGANIZATION_MOVING", "This organization is being moved to another database; try again shortly."


class CellUnavailable(ServiceUnavailable):
    """The database of the organization does not respond; organizations in other cells are not affected."""

    code, message = "CELL_UNAVAILABLE", "The database of this organization is not available; try again shortly."


def are_several() -> bool:
    """Whether there are cells beside home."""
    return bool(setting("CELLS"))


def names() -> Sequence[str | None]:
    """The cells, home (None) first."""
    return [None, *setting("CELLS")]


def current() -> str | None:
    """The cell of this request or job; None for home."""
    cell: str | None = g.get("cell")
    return cell


def display_name(cell: str | None) -> str:
    """Name of a cell for people and for the directory."""
    return cell or HOME


@contextmanager
def use(cell: str | None) -> Iterator[None]:
    """Make a cell the current one."""
    before = current()
    if cell == before:
        yield
        return
    g.cell = cell
    try:
        yield
    finally:
        g.cell = before


def select(organization_id: UUID) -> None:
    """Make the cell of an organization the current one for the rest of the request.

    raises: as `cell_of`
    """
    if are_several():
        g.cell = cell_of(organization_id)


def cell_of(organization_id: UUID) -> str | None:
    """The cell of an organization.

    While it is being moved, requests are refused, and jobs go on where it was: the move waits for them.
    raises: OrganizationMoving; CellUnavailable for a cell that CELLS no longer names
    """
    known = setting("CELLS")
    if not known or organization_id == NIL_UUID:
        return None
    now = time.monotonic()
    cached = _cache.get(organization_id)
    if cached and cached[1] > now - CACHE_SECONDS:
        _require_connections(cached[0])
        return cached[0]
    rows = _ask_directory((_FIND, {"directory_id": organization_id}))
    name, moving_to = rows[0] if rows else (HOME, None)
    cell = None if name == HOME else name
    if moving_to is None:
        if len(_cache) >= MAX_CACHED:
            _cache.clear()
        _cache[organization_id] = cell, now
    elif has_request_context():
        raise OrganizationMoving(retry_after=RETRY_SECONDS)
    if cell is not None and cell not in known:
        raise CellUnavailable(retry_after=RETRY_SECONDS)
    _require_connections(cell)
    return cell


def _require_connections(cell: str | None) -> None:
    """Refuse a request at once while a cell does not respond, so that it keeps no thread from other organizations.

    raises: CellUnavailable
    """
    if engine.seconds_since_failure(cell) < PAUSE_SECONDS and has_request_context():
        raise CellUnavailable(retry_after=RETRY_SECONDS)


def run_for_owners(organization_ids: Iterable[UUID], call: Callable[[set[UUID]], object]) -> None:
    """Call a function for the organizations of each cell, in that cell.

    raises: OperationalError after the others, when a cell does not respond
    """
    failure = None
    for cell, owners in group_by_cell(organization_ids).items():
        with use(cell):
            try:
                call(owners)
            except OperationalError as error:
                failure = error
    if failure:
        raise failure


def group_by_cell(organization_ids: Iterable[UUID]) -> dict[str | None, set[UUID]]:
    """Organizations by their cell; as `cell_of`."""
    groups: dict[str | None, set[UUID]] = {}
    for organization_id in organization_ids:
        groups.setdefault(cell_of(organization_id), set()).add(organization_id)
    return groups


def run_in_each(call: Callable[[], object]) -> None:
    """Call a function in each cell, the home cell first. A cell in which it fails does not stop the others.

    raises: at once when home does not respond; after the others the first error of the function, but not that another
        cell does not respond
    """
    failure: Exception | None = None
    for cell in names():
        with use(cell):
            try:
                call()
            except Exception as error:
                if not engine.is_unavailable(error):
                    failure = failure or error
                elif cell is None:
                    raise
                else:
                    log.warning("cell_unavailable", cell=cell, error=str(error).splitlines()[0])
    if failure:
        raise failure


def collect(read: Callable[[], Found]) -> tuple[list[Found], list[str]]:
    """What a function reads in each cell that responds, the home cell first, and the names of the cells that do not.

    raises: DBAPIError when home does not respond, and every other error of the function
    """
    found: list[Found] = []
    missing: list[str] = []
    for cell in names():
        with use(cell):
            try:
                _require_connections(cell)
                found.append(read())
            except (DBAPIError, CellUnavailable) as error:
                if cell is None or not (isinstance(error, CellUnavailable) or engine.is_unavailable(error)):
                    raise
                missing.append(display_name(cell))
    return found, missing


@contextmanager
def hold_moves() -> Iterator[None]:
    """Let no move begin to take an organization out of the current cell meanwhile; wait where one has begun to.

    A connection of its own holds the lock, so a killed process lets it go.
    """
    if not are_several():
        yield
        return
    with engine.current_engine().connect() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({JOBS_LOCK_KEY})")
        yield


def search(find: Callable[[], Found | None], *, exists: Callable[[], bool] | None = None) -> Found | None:
    """What a function finds in one of the cells, the home cell first; None when no cell has it.

    For what is looked up by something else than its organization, such as an API key.
    find: is called again where it finds nothing, because an organization may have moved to a cell already searched;
        not where the directory has said less than CACHE_SECONDS ago that none is being moved
    exists: whether it is in the current cell, also as a row of an organization that is being moved; without it
        everything that is not found may belong to such an organization
    raises: OperationalError or CellUnavailable when it may be in a cell that does not respond; OrganizationMoving when
        it may belong to an organization that is being moved
    """
    if not are_several():
        return find()
    for _ in range(2):
        none_moving_at = _none_moving_at[0]
        found = _search_once(find)
        if found is not None or time.monotonic() < none_moving_at + CACHE_SECONDS:
            return found
        asked_at = time.monotonic()
        if not _ask_directory((_IS_ANY_MOVING, {}))[0][0]:
            _none_moving_at[0] = asked_at
        elif exists is None or _exists_anywhere(exists):
            raise OrganizationMoving(retry_after=RETRY_SECONDS)
    return None


def _exists_anywhere(exists: Callable[[], bool]) -> bool:
    """Whether one of the cells has it; what was copied to a cell already searched is there the second time."""
    return any(_search_once(lambda: exists() or None) for _ in range(2))


def _search_once(find: Callable[[], Found | None]) -> Found | None:
    failure: OperationalError | CellUnavailable | None = None
    for cell in names():
        with use(cell):
            try:
                _require_connections(cell)
                found = find()
            except (OperationalError, CellUnavailable) as error:
                if cell is None:
                    raise
                failure = error
                continue
        if found is not None:
            return found
    if failure:
        raise failure
    return None


def _ask_directory(statement: Statement) -> Sequence[Any]:
    with use(None):
        return engine.execute_batch([_AS_SYSTEM, statement])
