"""The application: every address, behind the gate. And what lives as long as it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from deploykit.errors import DeploykitError
from deploykit.server import inference, people, site
from deploykit.server.gate import Gate, on_defect, on_error
from deploykit.server.logs import Log
from deploykit.server.metrics import Metrics
from deploykit.server.pool import Pool
from deploykit.server.repository import Repository
from deploykit.server.settings import Settings
from deploykit.server.state import State
from deploykit.server.uploads import HeldBytes


def make_state(settings: Settings, repository: Repository, metrics: Metrics, log: Log) -> State:
    """A server's parts, made for one event loop."""
    waiting = settings.batch.max_queue_size
    return State(
        settings=settings,
        repository=repository,
        metrics=metrics,
        log=log,
        convert=Pool(settings.workers_of_pool, waiting, "convert", repository.cores),
        explain=Pool(max(settings.batch.instances, settings.workers_of_pool), waiting, "explain"),
        held=HeldBytes(settings.max_held_bytes, metrics.held_bytes.set),
    )


def make_app(state: State) -> Gate:
    """The ASGI application of a server. When its lifespan ends, the models are closed.

    The slash at an address's end is not redirected: there is one address for each thing.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(state.repository.watch())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            state.convert.close()
            state.explain.close()
            await state.repository.close()

    app = Starlette(
        routes=[*people.ROUTES, *inference.ROUTES, *site.ROUTES],
        exception_handlers={HTTPException: on_error, DeploykitError: on_error, Exception: on_defect},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.server = state
    return Gate(app, state)
