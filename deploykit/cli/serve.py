"""``deploykit serve``: bundles behind HTTP, until a signal says to stop."""

from pathlib import Path

import click

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.cli.options import backend_option, provider_option, warn_if_untrained
from deploykit.image import DecodeLimits
from deploykit.server.logs import FORMATS
from deploykit.server.repository import name_bundles
from deploykit.server.run import address_of, open_socket
from deploykit.server.settings import CPU_ROWS_AT_ONCE, BatchSettings, Settings, count_cores, runs_on_cpu, share_cores
from deploykit.server.workers import Served, serve_alone, serve_by_workers
from deploykit.spec import Precision

_BATCH, _SETTINGS = BatchSettings(), Settings()


@click.command(name="serve")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 for every one.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free one; it is printed.")
@click.option("--name", "names", multiple=True, help="A bundle's name in addresses: once for each. [default: its folder's]")
@click.option("--precision", "precisions", multiple=True, type=click.Choice([str(p) for p in Precision]),
              help="Serve this precision; repeatable, the first is the default. [default: all of the bundle's]")  # fmt: skip
@backend_option
@provider_option
@click.option(
    "--threads", type=click.IntRange(0), help="CPU threads per run; 0 takes all. [default: the cores divided by the instances]"
)
@click.option("--instances", type=click.IntRange(1),
              help="Runs of a graph at once; 1 answers a lone caller soonest. [default: the cores, up to 8; GPU: 1]")  # fmt: skip
@click.option(
    "--max-batch-size", type=click.IntRange(1), default=_BATCH.max_batch_size, show_default=True, help="Rows of one run at most."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
              help="Processes, each with all models; one that ends is replaced. They share the cores.")  # fmt: skip
@click.option("--max-queue-delay-us", type=click.IntRange(0), default=_BATCH.max_queue_delay_us, show_default=True,
              help="How long a request may wait for others while a run could start.")  # fmt: skip
@click.option("--max-queue-size", type=click.IntRange(1), default=_BATCH.max_queue_size, show_default=True,
              help="Requests that may wait; one more gets 503.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=_SETTINGS.timeout_s, show_default=True,
              help="Seconds from the end of an upload to its answer; later it gets 504.")  # fmt: skip
@click.option("--max-upload-bytes", type=click.IntRange(1), default=_SETTINGS.max_upload_bytes, show_default=True,
              help="Of a request's body.")  # fmt: skip
@click.option("--max-pixels", type=click.IntRange(1), default=_SETTINGS.limits.max_pixels, show_default=True,
              help="Of a picture, by its header, before it is decoded.")  # fmt: skip
@click.option("--upload-timeout", type=click.FloatRange(0, min_open=True), default=_SETTINGS.upload_timeout_s, show_default=True,
              help="Seconds that an upload may take.")  # fmt: skip
@click.option("--grace", type=click.IntRange(1), default=_SETTINGS.grace_s, show_default=True,
              help="Seconds to finish what was accepted when told to stop.")  # fmt: skip
@click.option("--api-key", envvar="DEPLOYKIT_API_KEY", show_envvar=True,
              help="Requests must say 'Authorization: Bearer KEY'. The variable keeps it out of lists of processes.")  # fmt: skip
@click.option("--samples", type=click.Path(path_type=Path), metavar="FOLDER", help="Pictures that the page offers to try.")
@click.option("--log-format", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True, help="Of the lines on stderr.")
@click.option("--allow-untrained", is_flag=True, help="Serve random weights too, whose answers mean nothing.")
def command(
    bundles: tuple[Path, ...],
    host: str,
    port: int,
    names: tuple[str, ...],
    precisions: tuple[str, ...],
    backend: str | None,
    provider: str,
    threads: int | None,
    instances: int | None,
    workers: int,
    max_batch_size: int,
    max_queue_delay_us: int,
    max_queue_size: int,
    timeout: float,
    max_upload_bytes: int,
    max_pixels: int,
    upload_timeout: float,
    grace: int,
    api_key: str | None,
    samples: Path | None,
    log_format: str,
    allow_untrained: bool,
) -> None:
    """Answer over HTTP: predictions, explanations, and a page that shows what the model looks at.

    The address is printed on stdout when requests are taken. A bundle that is replaced on disk is checked and takes over without a
    request lost. SIGTERM or Ctrl-C finishes what was accepted; a second one stops at once.
    """
    cores = max(1, count_cores() // workers)
    on_cpu = runs_on_cpu(backend, provider)
    instances, threads = share_cores(cores, instances, threads, on_cpu=on_cpu)
    is_shared = on_cpu and threads == 1
    rows_at_once = CPU_ROWS_AT_ONCE if is_shared else 0
    settings = Settings(
        batch=BatchSettings(max_batch_size, max_queue_delay_us, max_queue_size, instances=instances, rows_at_once=rows_at_once),
        limits=DecodeLimits(max_bytes=max_upload_bytes, max_pixels=max_pixels),
        max_upload_bytes=max_upload_bytes,
        max_held_bytes=max(_SETTINGS.max_held_bytes, 4 * max_upload_bytes),
        timeout_s=timeout,
        upload_timeout_s=upload_timeout,
        header_timeout_s=min(_SETTINGS.header_timeout_s, upload_timeout),
        grace_s=grace,
        api_key=api_key,
        backend=backend,
        provider=provider,
        threads=threads,
        workers_of_pool=cores,
        shared_cores=cores if is_shared else 0,
        precisions=tuple(dict.fromkeys(Precision(p) for p in precisions)),
        samples=samples,
        allow_untrained=allow_untrained,
    )
    is_quiet = bool(click.get_current_context().find_root().meta.get("quiet"))
    served = Served(name_bundles(list(bundles), list(names)), settings, log_format, is_quiet)
    with open_socket(host, port) as listening:
        address = address_of(listening)
        console.note(f"opening {', '.join(served.paths)}")
        for path in bundles:
            warn_if_untrained(Bundle.open(path))
        if workers > 1:
            serve_by_workers(served, listening, workers, lambda: console.result(address))
        else:
            serve_alone(served, listening, lambda _: console.result(address))
