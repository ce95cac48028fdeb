"""Checked conditions as a JUnit file, the form of test results that CI systems show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from introspection_probe.errors import IntrospectionError
from introspection_probe.history import RunRow
from iprobe.checks import Checked, failed
from iprobe.text import safe_text

# Some systems keep test names in a column of 255 characters.
_NAME = 200
_SENTENCE = 2000


def write_junit(path: Path, run: RunRow, checked: Sequence[Checked]) -> None:
    """Write one test case for each condition; what does not hold is a failure.

    Raises:
        IntrospectionError: the file cannot be written.
    """
    document = to_junit(run, checked)
    try:
        path.write_bytes(document)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise IntrospectionError(
            f"cannot write the JUnit file {str(path)!r} ({reason}): name a file in a folder that may be written to"
        ) from error


def to_junit(run: RunRow, checked: Sequence[Checked]) -> bytes:
    """The document in UTF-8.

    XML 1.0 has no way to write a control character, not even escaped: foreign text is made safe first.
    """
    name = safe_text(f"iprobe {run.name}", _NAME)
    counts = {"tests": str(len(checked)), "failures": str(len(failed(checked))), "errors": "0"}
    suites = ElementTree.Element("testsuites", {"name": "iprobe", **counts, "time": "0"})
    about = {"timestamp": f"{run.updated_at:%Y-%m-%dT%H:%M:%S}", "hostname": "localhost"}
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, **counts, "skipped": "0", "time": "0", **about})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in (
        ("run_id", str(run.id)),
        ("uid", run.uid),
        ("model", run.model),
        ("status", run.status),
        ("step", str(run.step)),
    ):
        ElementTree.SubElement(properties, "property", {"name": key, "value": safe_text(value, _NAME)})
    for one in checked:
        group = name if one.task is None else f"{name}.{safe_text(one.task, _NAME)}"
        case = ElementTree.SubElement(suite, "testcase", {"classname": group, "name": one.name, "time": "0"})
        if not one.holds:
            says = safe_text(one.says, _SENTENCE)
            failure = ElementTree.SubElement(case, "failure", {"type": one.kind, "message": says})
            failure.text = says
    ElementTree.indent(suites)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"
