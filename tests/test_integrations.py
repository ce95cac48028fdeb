"""What integrations/ holds: in step with its sources, valid by the schemas of those who load it, and out of a wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cli_program import Program
from debian import program as debian_program

from introspection_probe import __version__
from introspection_probe.export.samples import METRICS
from introspection_probe.export.serve import HISTORY_UP
from iprobe.integrations import NAMES

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "integrations"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))


def schema(name: str) -> Any:
    return json.loads((ROOT / "tests" / "data" / "schemas" / f"{name}.json").read_text())


def expressions(board: Any) -> Iterator[str]:
    """Every PromQL expression of a dashboard: panels, annotations, variables."""
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (annotation["target"]["expr"] for annotation in board["annotations"].get("list", ()))
    yield from (variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query")


@pytest.mark.parametrize("script", ["build_dashboards.py", "build_integrations.py"])
def test_what_is_made_by_a_script_is_in_step_with_it(script: str) -> None:
    check = [sys.executable, str(ROOT / "scripts" / script), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# ---- Grafana --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_fits_the_schema_of_grafana(file: Path) -> None:
    board = json.loads(file.read_text())
    schemas = schema("grafana")
    for annotation in board["annotations"].get("list", ()):
        # Grafana's schema says of both that it is not right yet: the target is a query, and the formats are missing.
        target = annotation.pop("target")
        assert {"expr", "refId"} <= set(target)
        assert annotation.pop("titleFormat") == "{{alert}}"
        annotation.pop("textFormat")
    jsonschema.validate(board, schemas["dashboard"])
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        parts = {"options": panel["options"]}
        if "custom" in panel["fieldConfig"]["defaults"] and panel["type"] != "table":
            parts["custom"] = panel["fieldConfig"]["defaults"]["custom"]
        jsonschema.validate(parts, schemas[panel["type"].replace("-", "")])


def test_the_schema_of_grafana_does_refuse() -> None:
    board = json.loads(DASHBOARDS[0].read_text())
    board["annotations"]["list"] = []
    board["refresh"] = 30
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(board, schema("grafana")["dashboard"])


def test_dashboards_have_stable_uids_and_the_variables_they_use() -> None:
    boards = [json.loads(file.read_text()) for file in DASHBOARDS]
    assert {board["uid"] for board in boards} == {"iprobe-run", "iprobe-fleet"}
    for board in boards:
        known = {variable["name"] for variable in board["templating"]["list"]}
        assert {"datasource", "job"} <= known
        used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board)))
        builtin = {"__rate_interval", "__data"}
        assert used - builtin <= known, f"{used - builtin - known} of {board['uid']}"
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        sources = {json.dumps(panel["datasource"]) for panel in board["panels"] if panel["type"] != "row"}
        assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    run = next(board for board in boards if board["uid"] == "iprobe-run")
    assert {"run", "task"} <= {variable["name"] for variable in run["templating"]["list"]}


def test_every_metric_in_the_dashboards_is_exported() -> None:
    used = {
        metric
        for file in DASHBOARDS
        for expression in expressions(json.loads(file.read_text()))
        for metric in re.findall(r"iprobe_\w+", expression)
    }
    assert used <= set(METRICS)
    assert len(used) > 20
    assert not any(":" in expression for file in DASHBOARDS for expression in expressions(json.loads(file.read_text())))


def test_panels_lie_on_the_grid_without_overlap() -> None:
    for file in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(file.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert place["x"] + place["w"] <= 24
            taken |= cells


def test_grafana_alerts_are_those_of_prometheus() -> None:
    provisioned = yaml.safe_load((FOLDER / "grafana/provisioning/alerting/iprobe.yaml").read_text())
    rules = yaml.safe_load((FOLDER / "prometheus" / "rules.yml").read_text())
    alerts = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    made = {rule["title"]: rule for group in provisioned["groups"] for rule in group["rules"]}
    assert made.keys() == alerts.keys()
    uids = [rule["uid"] for rule in made.values()]
    assert len(set(uids)) == len(uids)
    source = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/iprobe.yaml").read_text())
    for name, rule in made.items():
        assert (rule["for"], rule["labels"]) == (alerts[name]["for"], alerts[name]["labels"])
        assert re.fullmatch(r"[a-z-]{1,40}", rule["uid"])
        query = rule["data"][0]
        assert query["datasourceUid"] == source["datasources"][0]["uid"]
        metrics = set(re.findall(r"[\w:]*iprobe_\w+", re.sub(r'"[^"]*"', "", query["model"]["expr"])))
        assert metrics <= set(METRICS) | {HISTORY_UP}, "it must not read what only rules record"


# ---- Kubernetes and compose -----------------------------------------------------------------------------------------


def documents() -> Iterator[tuple[str, Any]]:
    for file in MANIFESTS:
        for document in yaml.safe_load_all(file.read_text()):
            yield f"{file.name} {document['kind']}", document


@pytest.mark.parametrize(
    ("name", "document"), list(documents()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_manifest_fits_its_schema(name: str, document: Any) -> None:
    kind = document["kind"]
    operators = schema("prometheus-operator")
    if kind in operators:
        jsonschema.validate(document, operators[kind])
    else:
        core = schema("kubernetes")
        jsonschema.validate(
            document, {"definitions": core["definitions"], "$ref": f"#/definitions/{core['kinds'][kind]}"}
        )
        # The schemas take any field as optional, except those Kubernetes itself insists on.
        assert document["metadata"]["name"]


def test_the_schemas_of_kubernetes_do_refuse() -> None:
    monitor = yaml.safe_load((FOLDER / "kubernetes" / "podmonitor.yaml").read_text())
    monitor["spec"]["podMetricsEndpoints"][0]["prot"] = "iprobe"
    with pytest.raises(jsonschema.ValidationError, match="prot"):
        jsonschema.validate(monitor, schema("prometheus-operator")["PodMonitor"])
    job = yaml.safe_load((FOLDER / "kubernetes" / "sidecar.yaml").read_text())
    job["spec"]["template"]["spec"]["contaners"] = []
    core = schema("kubernetes")
    with pytest.raises(jsonschema.ValidationError, match="contaners"):
        jsonschema.validate(job, {"definitions": core["definitions"], "$ref": f"#/definitions/{core['kinds']['Job']}"})


def test_pod_monitors_find_the_pods_and_their_ports() -> None:
    manifests = [document for _, document in documents()]
    pods = [d["spec"]["template"] for d in manifests if d["kind"] in ("Job", "Deployment")]
    monitors = [document["spec"] for document in manifests if document["kind"] == "PodMonitor"]
    assert len(pods) == len(monitors) == 2
    for monitor in monitors:
        found = [pod for pod in pods if monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()]
        assert len(found) == 1
        spec = found[0]["spec"]
        containers = [*spec["containers"], *spec.get("initContainers", [])]
        ports = {port["name"] for container in containers for port in container.get("ports", [])}
        assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
        assert monitor["jobLabel"] in found[0]["metadata"]["labels"]


def test_manifests_and_compose_run_the_commands_there_are(program: Program) -> None:
    """Every `iprobe serve` they start is one that this program understands."""
    commands = [
        [str(word) for word in container["args"]]
        for _, document in documents()
        if document["kind"] in ("Job", "Deployment")
        for container in [
            *document["spec"]["template"]["spec"]["containers"],
            *document["spec"]["template"]["spec"].get("initContainers", []),
        ]
        if container["image"].startswith("introspection-probe")
    ]
    compose = yaml.safe_load((FOLDER / "compose" / "compose.yml").read_text())
    commands.append([str(word) for word in compose["services"]["serve"]["command"]])
    assert len(commands) == 3
    options = set(re.findall(r"--[\w-]+", program("serve", "--help", width=200).out))
    for command in commands:
        assert command[0] == "serve"
        assert {word.partition("=")[0] for word in command if word.startswith("--")} <= options


def test_versions_in_images_are_this_version() -> None:
    texts = [file.read_text() for file in [*MANIFESTS, *(FOLDER / "compose").glob("*")]]
    found = {version for text in texts for version in re.findall(r"introspection-probe(?:\[\w+\]==|:)([\d.]+\d)", text)}
    assert found == {__version__}


def test_the_compose_file_fits_the_specification_and_mounts_what_is_there() -> None:
    document = yaml.safe_load((FOLDER / "compose" / "compose.yml").read_text())
    jsonschema.validate(document, schema("compose"))
    for service in document["services"].values():
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).partition(":")[0]
            if source not in document["volumes"]:
                assert (FOLDER / "compose" / source).exists(), volume
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nothing listens beyond this machine"


def test_prometheus_and_alertmanager_accept_their_configuration(tmp_path: Path) -> None:
    config = (FOLDER / "compose" / "prometheus.yml").read_text()
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "iprobe.yml").write_bytes((FOLDER / "prometheus" / "rules.yml").read_bytes())
    file = tmp_path / "prometheus.yml"
    file.write_text(config.replace("/etc/prometheus/rules", str(rules)))
    for words in (
        [debian_program("promtool", "prometheus"), "check", "config", str(file)],
        [debian_program("amtool", "prometheus-alertmanager"), "check-config", str(FOLDER / "compose/alertmanager.yml")],
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout + done.stderr


# ---- iprobe integrations --------------------------------------------------------------------------------------------


def test_every_integration_is_listed_and_exported_as_it_is_here(program: Program, tmp_path: Path) -> None:
    assert {folder.name for folder in FOLDER.iterdir()} == set(NAMES)
    listed = program("integrations")
    assert (listed.code, [line.split()[0] for line in listed.out.splitlines()]) == (0, list(NAMES))
    for name in NAMES:
        target = tmp_path / name
        result = program("integrations", "export", name, target)
        assert result.code == 0
        for file in (FOLDER / name).rglob("*"):
            if file.is_file():
                copy = target / file.relative_to(FOLDER / name)
                assert copy.read_bytes() == file.read_bytes()
                assert str(copy) in result.out.split()


def test_alerts_link_to_the_page_that_the_project_declares_or_the_user_names(program: Program, tmp_path: Path) -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    own = "https://wiki.example.com/display/ML/Runbook?page=7"
    anchors = set(re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
    for name in ("prometheus", "grafana", "kubernetes", "compose"):
        for options, base in (((), urls["Runbook"]), (("--runbook-url", own), own)):
            folder = tmp_path / f"{name}{len(options)}"
            assert program("integrations", "export", name, folder, *options).code == 0
            assert (folder / "runbook.md").read_bytes() == (ROOT / "docs" / "runbook.md").read_bytes()
            linked = {
                url for file in folder.rglob("*.y*ml") for url in runbook_urls(yaml.safe_load_all(file.read_text()))
            }
            assert linked == {f"{base}#{anchor}" for anchor in anchors}, name
    promtool = debian_program("promtool", "prometheus")
    tests = sorted((tmp_path / "prometheus2" / "tests").glob("*.yml"))
    done = subprocess.run([promtool, "test", "rules", *map(str, tests)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def runbook_urls(value: Any) -> Iterator[str]:
    """Every `runbook_url` in a document, wherever it stands."""
    if isinstance(value, dict):
        yield from (url for key, url in value.items() if key == "runbook_url")
        value = value.values()
    if not isinstance(value, str | int | float | None):
        for item in value:
            yield from runbook_urls(item)


def test_an_exported_compose_folder_holds_what_it_mounts(program: Program, tmp_path: Path) -> None:
    program("integrations", "export", "compose", tmp_path)
    settings = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    for service in yaml.safe_load((tmp_path / "compose.yml").read_text())["services"].values():
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{(\w+):-[^}]*\}", lambda match: settings[match[1]], volume).partition(":")[0]
            if "/" in source:
                assert (tmp_path / source).exists(), volume


def test_what_somebody_changed_is_not_overwritten_unless_told(program: Program, tmp_path: Path) -> None:
    program("integrations", "export", "prometheus", tmp_path)
    assert program("integrations", "export", "prometheus", tmp_path).code == 0, "nothing differs"
    mine = tmp_path / "rules.yml"
    mine.write_text("mine")
    refused = program("integrations", "export", "prometheus", tmp_path)
    assert (refused.code, refused.out) == (2, "")
    assert "rules.yml is there and differs" in refused.err
    assert mine.read_text() == "mine"
    assert program("integrations", "export", "prometheus", tmp_path, "--force").code == 0
    assert mine.read_bytes() == (FOLDER / "prometheus" / "rules.yml").read_bytes()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("export",), "no integration is named: choose one of prometheus"),
        (("export", "splunk", "x"), "there is no integration 'splunk': choose one of"),
        (("export", "grafana"), "no folder is named: iprobe integrations export grafana DIR"),
        (("list", "grafana"), "list takes no name"),
        (("export", "grafana", "x", "--runbook-url", "wiki/runbook"), "give the http(s) URL of a page"),
        (("export", "grafana", "x", "--runbook-url", "https://x/{{ $labels.run }}"), "give the http(s) URL of a page"),
        (("export", "grafana", "x", "--runbook-url", "https://x/y#z"), "without a section"),
        (("export", "grafana", "/proc/nothing"), "cannot write /proc/nothing"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(program: Program, args: tuple[str, ...], says: str) -> None:
    result = program("integrations", *args)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
def test_the_wheel_holds_them(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name.removeprefix("introspection_probe/integrations/") for name in wheel.namelist()}
    assert {str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file()} <= held
    assert "introspection_probe/runbook.md" in held
