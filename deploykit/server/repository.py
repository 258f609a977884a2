"""The models that are served, by name; and the change from a replaced bundle to its successor while requests go on.

A request holds the model it began with (`Repository.lease`). A new bundle is opened and checked beside the old one, takes its name
in one assignment, and the old one is closed when its last request has ended. A bundle that cannot be opened changes nothing.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from deploykit.errors import DeploykitError, RequestError, UsageError
from deploykit.server.cores import Cores
from deploykit.server.large_pages import use_large_pages
from deploykit.server.logs import Log
from deploykit.server.metrics import Metrics
from deploykit.server.served_model import EXPLAIN_SUFFIX, ServedModel, check_model_name, manifest_digest, open_model
from deploykit.server.settings import Settings, runs_on_cpu
from deploykit.server.statistics import Run


class Repository:
    """Owns the served models. Its methods belong to one event loop, except `open_all`.

    Args:
        paths: the bundles' folders, by the name they are served under.

    Attributes:
        cores: what their runs share with everything else that computes here.
    """

    def __init__(self, paths: Mapping[str, Path], settings: Settings, metrics: Metrics, log: Log) -> None:
        for name in paths:
            check_model_name(name)
        self._paths, self._settings, self._metrics, self._log = dict(paths), settings, metrics, log
        self.cores = _share(settings)
        self._models: dict[str, ServedModel] = {}
        self._leases: dict[ServedModel, int] = {}
        self._refused: dict[str, str] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def open_all(self, on_each: Callable[[str], None] = lambda name: None) -> None:
        """Open every bundle; all of them, or none is left open.

        Raises:
            DeploykitError: see `open_model`.
        """
        try:
            for name in self._paths:
                on_each(name)
                self._put(self._open(name))
        except BaseException:
            for model in self._models.values():
                model.close()
            self._models.clear()
            self.cores.close()
            raise

    def names(self) -> list[str]:
        """The names, in the order in which they were given."""
        return list(self._models)

    def models(self) -> list[ServedModel]:
        """What answers now."""
        return list(self._models.values())

    @contextmanager
    def lease(self, name: str) -> Iterator[ServedModel]:
        """Hold the model of that name for as long as a request needs it.

        Raises:
            RequestError: 404, with the names there are.
        """
        model = self._models.get(name)
        if model is None:
            raise RequestError(
                404, f"unknown model {name[:100]!r}, this server has {', '.join(self._models) or 'none'}", kind="unknown_model"
            )
        self._leases[model] = self._leases.get(model, 0) + 1
        try:
            yield model
        finally:
            self._leases[model] -= 1
            self._close_if_done(model)

    async def watch(self) -> None:
        """Look for replaced bundles until cancelled."""
        while True:
            await asyncio.sleep(self._settings.poll_s)
            for name in self._paths:
                await self._look(name)

    async def close(self) -> None:
        """Close every model; call it when no request is left."""
        models, self._models = self.models(), {}
        await asyncio.gather(*self._closing, *(asyncio.to_thread(model.close) for model in models), return_exceptions=True)
        self.cores.close()

    async def _look(self, name: str) -> None:
        try:
            digest = await asyncio.to_thread(manifest_digest, self._paths[name])
        except DeploykitError:
            return  # a bundle that is gone: the one in memory goes on
        old = self._models[name]
        if digest in (old.digest, self._refused.get(name)):
            return
        try:
            new = await asyncio.to_thread(self._open, name)
        except Exception as error:  # a defect of ours too must not stop the old bundle
            self._metrics.reloads.labels(name, "refused").inc()
            self._log.event("reload_refused", model=name, error=str(error), kind=type(error).__name__, goes_on=old.digest[:12])
            # Tried again when it changes once more. One that was replaced while it was read has another digest already.
            self._refused[name] = digest
            return
        self._metrics.model_info.labels(name, old.digest, _precisions(old)).set(0)
        self._put(new)
        self._metrics.reloads.labels(name, "done").inc()
        self._log.event("reloaded", model=name, digest=new.digest[:12], before=old.digest[:12])
        self._close_if_done(old)

    def _open(self, name: str) -> ServedModel:
        model = open_model(name, self._paths[name], self._settings, partial(self._observe, name), self.cores)
        if runs_on_cpu(self._settings.backend, self._settings.provider):
            use_large_pages()
        return model

    def _put(self, model: ServedModel) -> None:
        self._models[model.name] = model
        self._refused.pop(model.name, None)
        self._metrics.model_info.labels(model.name, model.digest, _precisions(model)).set(1)

    def _observe(self, name: str, graph: str, run: Run) -> None:
        self._metrics.batch_rows.labels(name, graph).observe(run.rows)
        self._metrics.run_seconds.labels(name, graph).observe(run.infer_s)
        self._metrics.queue_depth.labels(name, graph).set(run.depth)
        if run.failed:
            self._metrics.failed_runs.labels(name, graph).inc()

    def _close_if_done(self, model: ServedModel) -> None:
        if not self._leases.get(model) and self._models.get(model.name) is not model:
            self._leases.pop(model, None)
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(model.close))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def split_name(name: str) -> tuple[str, bool]:
    """A name of the Open Inference Protocol: the model, and whether its explain graph is meant."""
    return (name.removesuffix(EXPLAIN_SUFFIX), True) if name.endswith(EXPLAIN_SUFFIX) else (name, False)


def name_bundles(bundles: list[Path], names: list[str]) -> dict[str, Path]:
    """The name of each bundle: the one given, or its folder's.

    Raises:
        UsageError: more names than bundles, names that are not allowed, or two alike.
    """
    if len(names) not in (0, len(bundles)):
        raise UsageError(f"{len(names)} names for {len(bundles)} bundles", hint="give --name once for each bundle, or never")
    wanted = names or [path.resolve().name for path in bundles]
    if twice := {name for name in wanted if wanted.count(name) > 1}:
        raise UsageError(f"two bundles would be named {min(twice)}", hint="give each its own with --name")
    for name in wanted:
        check_model_name(name)
    return dict(zip(wanted, bundles, strict=True))


def _share(settings: Settings) -> Cores:
    """What runs and decoding share. One piece of work more than there are cores: one often waits for Python's lock, and its core
    would idle meanwhile."""
    return Cores(settings.shared_cores + 1) if settings.shared_cores else Cores(decoders=settings.workers_of_pool)


def _precisions(model: ServedModel) -> str:
    return ",".join(model.graphs)
