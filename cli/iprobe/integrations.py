"""`iprobe integrations`: the rules, dashboards and deployments that come with the program."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from introspection_probe.errors import IntrospectionError
from iprobe.console import note, write


class Action(StrEnum):
    """What to do."""

    list = "list"
    export = "export"


NAMES = {
    "prometheus": "recording and alert rules, and their promtool tests",
    "grafana": "the dashboards Run and Fleet, and provisioning for them and for Grafana's own alerts",
    "kubernetes": "PodMonitor, PrometheusRule, a sidecar and a deployment of `iprobe serve`",
    "compose": "Prometheus, Alertmanager and Grafana around a run on this machine; brings rules and dashboards along",
}


RUNBOOK = "https://github.com/introspection-probe/introspection-probe/blob/main/docs/runbook.md"
"""Where the alerts' `runbook_url` point to unless told otherwise: the page in the project's own repository."""

# What neither YAML, nor a template of Prometheus or Grafana, nor a browser would read as anything else than a URL.
_URL = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9._~:/?&=%@+,;()\[\]-]*")


def integrations(
    action: Annotated[Action, typer.Argument(help="list them, or export one.")] = Action.list,
    name: Annotated[str | None, typer.Argument(help=f"One of {', '.join(NAMES)}.")] = None,
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Where to write it; made if needed.")] = None,
    runbook_url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Page that the alerts link to, each to its section: your own copy of the runbook.md that is written "
            "beside them.",
        ),
    ] = RUNBOOK,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that differ.")] = False,
) -> None:
    """Write out what other systems load: `iprobe integrations export NAME DIR`.

    Files that are there already and are the same are left alone; one that differs is never overwritten unless told.
    """
    if action is Action.list:
        if name is not None:
            raise IntrospectionError(f"list takes no name: iprobe integrations export {name} DIR writes it out")
        write("\n".join(f"{known:<12}{text}" for known, text in NAMES.items()))
        return
    if name not in NAMES:
        given = "no integration is named" if name is None else f"there is no integration {name!r}"
        raise IntrospectionError(f"{given}: choose one of {', '.join(NAMES)}")
    if folder is None:
        raise IntrospectionError(f"no folder is named: iprobe integrations export {name} DIR")
    if not _URL.fullmatch(runbook_url):
        raise IntrospectionError(
            f"--runbook-url is {runbook_url!r}: give the http(s) URL of a page, without a section (#...) of its own"
        )
    files = {path: content.replace(RUNBOOK.encode(), runbook_url.encode()) for path, content in _files(name).items()}
    differing = [path for path, content in files.items() if _differs(folder / path, content)]
    if differing and not force:
        raise IntrospectionError(
            f"{folder / differing[0]} is there and differs: name another folder, or overwrite with --force"
        )
    for path, content in files.items():
        file = folder / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise IntrospectionError(f"cannot write {file}: {error.strerror}: choose another folder") from error
        write(str(file))
    note(f"iprobe: {len(files)} files written; docs/operations.md tells what to do with them")


def _files(name: str) -> dict[Path, bytes]:
    """The contents by path below the target folder."""
    files = _below(name)
    files[Path("runbook.md")] = _runbook().read_bytes()
    if name == "compose":
        for needed in ("prometheus", "grafana"):
            files |= {Path(needed) / path: content for path, content in _below(needed).items()}
        # In the repository they lie beside the folder, here inside it.
        files[Path(".env")] = b"IPROBE_INTEGRATIONS=.\nIPROBE_HISTORY=.\n"
    return files


def _below(name: str) -> dict[Path, bytes]:
    root = _root() / name
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _root() -> Path:
    """Where they lie: inside the package when it was installed, beside it in a checkout."""
    import introspection_probe

    package = Path(introspection_probe.__file__).parent
    for place in (package / "integrations", package.parent / "integrations"):
        if place.is_dir():
            return place
    raise IntrospectionError("this installation has no integrations: reinstall introspection-probe from its wheel")


def _runbook() -> Path:
    """The page on every alert, likewise."""
    import introspection_probe

    package = Path(introspection_probe.__file__).parent
    for place in (package / "runbook.md", package.parent / "docs" / "runbook.md"):
        if place.is_file():
            return place
    raise IntrospectionError("this installation has no runbook: reinstall introspection-probe from its wheel")


def _differs(file: Path, content: bytes) -> bool:
    try:
        return file.exists() and (not file.is_file() or file.read_bytes() != content)
    except OSError as error:
        raise IntrospectionError(f"cannot read {file}: {error.strerror}: choose another folder") from error
