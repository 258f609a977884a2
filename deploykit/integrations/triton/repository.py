"""The repository on disk: every model's folder, what stands beside them, and whose folder it is.

    REPO/NAME/config.pbtxt, 1/..., warmup/..., labels.txt      one folder per model, which is all that Triton looks at
    REPO/README.md, REPO/deploykit.json                        what it is and how to start it; which files deploykit wrote
    REPO/kserve.yaml, REPO/kubernetes.yaml                     where asked for

Written beside its place and swapped in by one step. A folder that deploykit did not write, or to which something was added since,
is never replaced.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from deploykit.integrations import own_folder
from deploykit.integrations.own_folder import ELSEWHERE, Content, Kind, write_folder
from deploykit.integrations.triton.models import Model

_KIND = Kind(
    "triton model repository",
    "model repository",
    takes_others=False,
    hint=f"{ELSEWHERE}; Triton takes several repositories: --model-repository A --model-repository B",
)

check_place = partial(own_folder.check_place, kind=_KIND)
"""Say whether a repository may be put at ``path``: `deploykit.integrations.own_folder.check_place`."""


def write_repository(
    path: Path,
    models: Sequence[Model],
    beside: Mapping[str, bytes],
    check: Callable[[Path], None],
    *,
    made_from: Mapping[str, str],
    replace: bool,
) -> None:
    """Write a repository.

    Args:
        models: at least one. beside: further files, by name.
        check: looks at the finished folder before it is put in place, and raises where it is wrong.
        made_from: the bundle's graphs or plans with their digests, for the record.
        replace: a repository that deploykit wrote may go.

    Raises:
        BundleError: see `check_place`; or the disk refused.
    """
    contents: dict[str, Content] = {}
    for model in models:
        contents[f"{model.config.name}/config.pbtxt"] = model.config.to_text().encode()
        contents |= {f"{model.config.name}/{name}": content for name, content in model.files.items()}
    contents |= beside
    write_folder(path, _KIND, contents, {"made_from": dict(made_from)}, replace=replace, finish=check)
