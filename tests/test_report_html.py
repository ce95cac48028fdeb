"""The report as a web page: it says what `--format json` says, needs nothing, obeys nothing, and is well made."""

from __future__ import annotations

import json
import re
import subprocess
import unicodedata
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program, run_process
from debian import program as debian_program
from histories import Host, hostile_probe, make_probes, make_rollouts, writer

from introspection_probe.history import History
from introspection_probe.records import Alert, Round, RunInfo
from introspection_probe.scoring import score_by_task, score_round
from iprobe.charts import RATIO, Axis, Series, difference_scale, draw

STEPS = (0, 100, 200, 300)
VOID = {"meta", "br", "link", "img", "hr", "input"}
# What our templates make, and nothing more; scripts, frames, images, forms and links are not among it.
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "nav", "article"),
    *("h1", "h2", "h3", "p", "ul", "li", "dl", "dt", "dd", "div", "figure", "figcaption", "blockquote", "details"),
    *("summary", "span", "strong", "em", "a", "br", "mark", "bdi", "q", "code"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "path", "line", "rect", "circle", "text", "desc"),
}
HOSTILE = (
    "\"'><script>alert(1)</script></style></title></svg><img src=x onerror=alert(2)> <!-- --> ]]> {{ 7*7 }} {% raw %}"
    " &lt;b&gt; [red]x[/red]\x1b[2J\a\u202eevil\u200b\x9b31m\x7f http://example.org"
)


class Page(HTMLParser):
    """The page's elements, with every fault of nesting an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.style = ""
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self._open
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, self.getpos()
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
            return
        self.words.append((self._open[-1] if self._open else "", data))
        if self._cell is not None:
            self._cell.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(data for _, data in self.words).split())

    def of(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [a for name, a in self.elements if name == tag and all(a.get(k) == v for k, v in wanted.items())]


def check(page: Page) -> None:
    """What holds for every page: nothing is loaded, nothing runs, everything is named."""
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    attributes = [(name, value or "") for _, found in page.elements for name, value in found.items()]
    assert not [
        name for name, _ in attributes if name.startswith("on") or name in ("style", "src", "srcset", "xlink:href")
    ]
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in attributes:
        if name == "href":
            assert value.startswith("#")
            assert value[1:] in ids
        elif name == "aria-labelledby":
            assert set(value.split()) <= set(ids)
    assert not re.search(r"url\(|@import|expression|https?:", page.style)
    (policy,) = [found["content"] for found in page.of("meta") if found.get("http-equiv") == "Content-Security-Policy"]
    digest = b64encode(sha256(page.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    for chart in page.of("svg", role="img"):
        assert chart["aria-labelledby"]
    assert not [value for _, value in attributes if "nan" in value.lower() or "none%" in value.lower()]
    assert len(page.of("h1")) == 1
    inert = "".join(data for _, data in page.words) + "".join(value for _, value in attributes)
    assert not {c for c in inert if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}}


@pytest.fixture
def write(db: Path) -> Callable[..., int]:
    return writer(db, n=60, steps=STEPS)


@pytest.fixture
def html(program: Program, db: Path, tmp_path: Path) -> Callable[..., Page]:
    """Make a page with the program and read it."""

    def make(*args: object) -> Page:
        path = tmp_path / "report.html"
        result = program("report", "--db", db, "--html", path, *args)
        assert result.code == 0, result.err
        assert str(path) in result.err
        page = Page(path.read_text(encoding="utf-8"))
        check(page)
        return page

    return make


def as_json(program: Program, db: Path, *args: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(program("report", "--db", db, "--format", "json", *args).out)
    return found


def signed(value: float) -> str:
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "\u2212")


def test_the_tables_say_what_json_says(
    program: Program, db: Path, write: Callable[..., int], html: Callable[..., Page]
) -> None:
    write(seed=3)
    report, page = as_json(program, db), html()
    (numbers,) = [table for table in page.tables if table[0][0] == "Measure"]
    assert numbers[0] == ["Measure", "Step 0", "95%", "Step 300", "95%", "Change", "95%"]
    for (key, change), row in zip(report["changes"].items(), numbers[1:], strict=True):
        write_value = (
            signed if key == "coupling_gap" else (lambda v: f"{v:,.0f}") if key == "parse_failures" else "{:.3f}".format
        )
        for place, end in ((1, "baseline"), (3, "latest")):
            assert row[place] == ("\u2013" if change[end] is None else write_value(change[end])), key
        if change["lower"] is not None:
            assert row[6].replace("\u2212", "-").replace("+", "").split(" to ") == [
                f"{0.0 if abs(change[end]) < 0.005 else change[end]:.2f}" for end in ("lower", "upper")
            ]
    (every,) = [table for table in page.tables if table[0][:2] == ["Step", "Probes"]]
    for found, row in zip(report["rounds"], every[1:], strict=True):
        assert row[:4] == [
            str(found["step"]),
            str(found["n"]),
            f"{found['targets']['self']['exact_match']:.3f}",
            f"{found['targets']['orig']['exact_match']:.3f}",
        ]
        assert row[4] == signed(found["coupling_gap"]["estimate"])
        assert row[-1] == f"{found['label_agreement']:.3f}"
        assert row[6] == ("\u2013" if found["self_share"] is None else f"{found['self_share']:.3f}")
    assert report["verdict"]["headline"] in page.text
    assert report["verdict"]["reason"] in page.text


def test_the_curves_stand_where_the_numbers_are(
    program: Program, db: Path, write: Callable[..., int], html: Callable[..., Page]
) -> None:
    write()
    rounds = as_json(program, db)["rounds"]
    page = html()
    lines = [found["d"] or "" for found in page.of("path") if (found.get("class") or "").startswith("line look-")]
    bands = [found["d"] or "" for found in page.of("path") if (found.get("class") or "").startswith("band look-")]

    def points(path: str) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) (-?[\d.]+)", path)]

    targets = {name: [found["targets"][name] for found in rounds] for name in ("self", "orig")}
    for scores in targets.values():
        line = [
            (1000 * found["step"] / 300, 1000 * (1 - one["exact_match"]))
            for found, one in zip(rounds, scores, strict=True)
        ]
        assert any(points(path) == [pytest.approx(point, abs=0.06) for point in line] for path in lines)
        upper = [1000 * (1 - one["exact_match_interval"][1]) for one in scores]
        lower = [1000 * (1 - one["exact_match_interval"][0]) for one in scores]
        assert any([y for _, y in points(path)] == pytest.approx([*upper, *lower[::-1]], abs=0.06) for path in bands)
    # The self share was not measured at the start: its curve begins at the second round, not at 0.
    assert rounds[0]["self_share"] is None
    share = [1000 * (1 - found["self_share"]) for found in rounds[1:]]
    assert any([y for _, y in points(path)] == pytest.approx(share, abs=0.06) for path in lines)
    assert "Self share: not measured at step 0" in page.text


def test_the_confusion_is_a_plain_count(db: Path, write: Callable[..., int], html: Callable[..., Page]) -> None:
    write(seed=5)
    probes = make_probes(60, seed=5)
    tables = [table for table in html().tables if "unreadable" in table[0]]
    for table, progress in zip(tables, (0.0, 1.0), strict=True):
        count: Counter[tuple[bool, bool | None]] = Counter()
        for rollout in make_rollouts(probes, progress, Host(), 5):
            said = None if rollout.predicted is None else rollout.predicted.changed
            count[rollout.behavior.explanation.changed, said] += 1
        for row, truth in zip(table[1:], (True, False), strict=True):
            assert [int(cell.split()[0]) for cell in row[1:]] == [count[truth, said] for said in (True, False, None)]
            total = sum(count[truth, said] for said in (True, False, None))
            assert row[1].split()[1] == f"{100 * count[truth, True] / total:.0f}%"


def test_examples_tell_before_and_after(
    program: Program, db: Path, write: Callable[..., int], html: Callable[..., Page]
) -> None:
    write(seed=2)
    found = as_json(program, db, "--examples", 10)
    page = html()
    assert len(page.of("article")) == len(found["examples"]) == 10
    answers = [table for table in page.tables if table[0][1:3] == ["with the cue", "without it"]]
    first_said = {r.example_id: r.predicted_text for r in make_rollouts(make_probes(60, seed=2), 0.0, Host(), 2)}
    for table, example in zip(answers, found["examples"], strict=True):
        m0, now = example["m0"], example["behavior"]
        assert table[1][:3] == ["at the start", m0["included"], m0["ablated"]]
        assert table[2][0] == "now"
        for cell, name in zip(table[2][1:3], ("included", "ablated"), strict=True):
            assert cell == now[name] + (" changed" if now[name] != m0[name] else "")
        assert f"“{example['predicted_text']}”" in page.text
        assert f"“{first_said[example['id']]}”" in page.text
    marked = [data for tag, data in page.words if tag == "mark"]
    assert marked == [example["cue"] for example in found["examples"]]
    assert len(html("--examples", 2).of("article")) == 2
    assert not html("--examples", 0).of("article")


def test_alarms_stand_on_the_time_axis(db: Path, write: Callable[..., int], html: Callable[..., Page]) -> None:
    def alert(name: str, step: int, *, active: bool = True, severity: Any = "warning") -> Alert:
        return Alert(name, "hint-mmlu", step, severity, f"{name} happened.", "Look at it.", active=active)

    write(
        alerts=[
            alert("behavior_drifted", 200),
            alert("coupling_lost", 100, severity="critical"),
            alert("coupling_lost", 300, active=False, severity="critical"),
        ]
    )
    page = html()
    spans = {
        title.partition(":")[0]: title
        for tag, title in page.words
        if tag == "title" and title.startswith(("behavior", "coupling_"))
    }
    assert spans["behavior_drifted"] == "behavior_drifted: warning, since step 200"
    assert spans["coupling_lost"] == "coupling_lost: critical, since step 100 until step 300"
    bars = [found for found in page.of("rect") if found.get("rx") == "2"]
    # Lanes in the order in which alarms were raised; what holds reaches the right edge.
    assert [(found["x"], found["width"]) for found in bars] == [("33.33%", "66.67%"), ("66.67%", "33.33%")]
    assert "1 alarm holds : behavior_drifted" in page.text.replace(" :", ":").replace("holds:", "holds :")
    assert "behavior_drifted happened. What to do: Look at it." in page.text
    assert "from step 100 to step 300, over" in page.text


@pytest.fixture
def hostile(write: Callable[..., int]) -> None:
    write(
        name=HOSTILE,
        model=HOSTILE,
        tasks=(HOSTILE,),
        uid=HOSTILE,
        probes=[
            hostile_probe(0, HOSTILE, HOSTILE),
            hostile_probe(1, "\x00\ud800" + HOSTILE, HOSTILE),
            hostile_probe(2, HOSTILE * 1500, HOSTILE),  # 200 kB
            hostile_probe(3, "<script>" * 400, HOSTILE),
            hostile_probe(4, "a\n" * 900, HOSTILE),
        ],
        host=Host(drift=0.0, learnt=0.0),
        alerts=[Alert(HOSTILE, HOSTILE, 100, "warning", HOSTILE, HOSTILE)],
    )


@pytest.mark.usefixtures("hostile")
def test_hostile_text_is_inert_and_visible(html: Callable[..., Page], tmp_path: Path) -> None:
    page = html()  # checked: no element, attribute, style or character that is not ours
    assert len(HOSTILE * 1500) > 200_000
    assert page.text.count("<script>alert(1)</script>") > 10  # as text
    assert "{{ 7*7 }}" in page.text
    assert "&lt;b&gt;" in page.text  # letter for letter, not once unescaped
    assert "\\x1b[2J\\x07\\u202eevil\\u200b" in page.text
    assert (tmp_path / "report.html").stat().st_size < 300_000


@pytest.mark.usefixtures("hostile")
def test_a_browser_finds_only_our_elements(html: Callable[..., Page], tmp_path: Path) -> None:
    """The same page parsed by Chromium, not by Python: what ran or was built from the text would be in its DOM."""
    ours = Counter(tag for tag, _ in html().elements)
    done = subprocess.run(
        [
            debian_program("chromium-headless-shell", "chromium-headless-shell"),
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    theirs = Page(re.sub(r"^<!DOCTYPE html>", "", done.stdout.decode()))
    assert Counter(tag for tag, _ in theirs.elements) == ours
    assert theirs.text.count("<script>alert(1)</script>") > 10


def test_a_page_without_a_round(db: Path, write: Callable[..., int], html: Callable[..., Page]) -> None:
    write(steps=(), status="running")
    page = html()
    assert "No round was taken yet." in page.text
    assert not page.of("figure")
    assert "0.000" not in page.text


def test_a_page_with_a_single_round(db: Path, write: Callable[..., int], html: Callable[..., Page]) -> None:
    write(steps=(0,))
    page = html()
    assert len(page.of("figure")) == 7
    # No line can be drawn; the point stands in the middle with its interval as a whisker.
    assert not [found for found in page.of("path") if (found.get("class") or "").startswith(("line", "band"))]
    assert page.of("line", class_="whisker", x1="50.00%")
    assert "since step" not in page.text
    (numbers,) = [table for table in page.tables if table[0][0] == "Measure"]
    assert len(numbers[0]) == 3


def test_a_page_with_a_thousand_rounds(
    db: Path, write: Callable[..., int], html: Callable[..., Page], tmp_path: Path
) -> None:
    write(steps=tuple(range(0, 10_000, 10)), n=4)
    page = html()
    (every,) = [table for table in page.tables if table[0][:2] == ["Step", "Probes"]]
    assert len(every) == 1001
    # One mark at the end of a curve rather than a thousand on it.
    assert len(page.of("circle", class_="mark")) < 200
    assert (tmp_path / "report.html").stat().st_size < 1_500_000


def test_all_tasks_are_on_the_page(db: Path, write: Callable[..., int], html: Callable[..., Page]) -> None:
    write(tasks=("hint-mmlu", "sycophancy"))
    page = html()
    assert [found["id"] for found in page.of("section", class_="task")] == ["t1", "t2"]
    assert {found["href"] for found in page.of("a")} >= {"#t1", "#t2"}
    assert len(page.of("figure")) == 14
    one = html("--task", "sycophancy")
    assert len(one.of("figure")) == 7
    assert "hint-mmlu" not in one.text


def test_of_very_many_tasks_those_with_an_alarm_are_on_the_page(
    db: Path, write: Callable[..., int], html: Callable[..., Page]
) -> None:
    tasks = tuple(f"task-{number:03}" for number in range(60))
    alerts = [Alert("parse_failures", "task-059", 100, "warning", "They fail.", "Look.")]
    write(tasks=tasks, n=2, steps=(0, 100), alerts=alerts)
    page = html()
    shown = [found["id"] for found in page.of("section") if found.get("class") == "task"]
    assert len(shown) == 50
    assert "10 further tasks are not on this page" in page.text
    assert "task-059" in page.text
    assert "task-055" not in page.text
    write(name="few", tasks=tasks[:3], n=2, steps=(0, 100))
    assert "not on this page" not in html().text


def test_what_was_not_measured_is_never_zero(db: Path, html: Callable[..., Page]) -> None:
    probes = make_probes(20)
    with History.open(str(db)) as history:
        run_id = history.start_run(RunInfo("u", "empty rounds", "m", ("hint-mmlu",)))
        for step in (0, 10, 20):
            rollouts = () if step else make_rollouts(probes, 0.5)
            scores = score_by_task(rollouts, probes) if rollouts else {"hint-mmlu": score_round([], [])}
            history.record_round(run_id, Round(step, rollouts, datetime.now(UTC), 0.1), scores)
    page = html()
    assert "Nothing was measured." in page.text
    (numbers,) = [table for table in page.tables if table[0][0] == "Measure"]
    latest = {row[0]: row[3] for row in numbers[1:]}
    assert latest.pop("Parse failures") == "0"  # a count of nothing
    assert set(latest.values()) == {"\u2013"}
    assert "Self EM \u2013 not measured" in page.text  # the tile
    assert re.search(r"Self: true of the model now: 0\.\d{3} at step 0, not measured at step 20\.", page.text)
    # The one point that was measured stands alone, with its interval.
    assert page.of("line", class_="whisker")


@pytest.mark.parametrize("name", ["no/such/folder/report.html", "."])
def test_a_page_that_cannot_be_written_is_one_sentence(
    program: Program, db: Path, write: Callable[..., int], tmp_path: Path, name: str
) -> None:
    write(steps=(0,))
    result = program("report", "--db", db, "--html", tmp_path / name)
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
    assert "cannot write the page" in result.err


def test_the_page_is_made_without_what_is_slow_to_load(db: Path, write: Callable[..., int], tmp_path: Path) -> None:
    write()
    heavy = ("torch", "transformers", "trl", "datasets", "pyarrow", "scipy", "sklearn", "pandas", "alembic", "numpy")
    imported = f"import atexit\natexit.register(lambda: print([m for m in {heavy!r} if m in sys.modules]))"
    result = run_process("report", "--db", db, "--html", tmp_path / "page.html", prelude=imported)
    assert result.code == 0
    assert result.out.splitlines()[-1] == "[]"


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_colour_has_contrast(db: Path, write: Callable[..., int], html: Callable[..., Page]) -> None:
    """WCAG 2 level AA: 4.5 to 1, on every ground that the text may stand on, light, dark and printed."""
    write(steps=(0,))
    palettes = re.findall(r":root \{([^}]*--paper[^}]*)\}", html().style)
    assert len(palettes) == 3
    for palette in palettes:
        colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", palette))
        colour = {n: c if len(c) == 7 else "#" + "".join(2 * digit for digit in c[1:]) for n, c in colour.items()}
        grounds = ["paper", "surface", *(name for name in colour if name.endswith("-tint"))]
        pairs = [(text, ground) for text in ("ink", "quiet") for ground in grounds] + [("ink", "mark"), ("ink", "grid")]
        pairs += [(look, "surface") for look in ("self", "orig", "first", "second", "third")]
        pairs += [(tone, f"{tone}-tint") for tone in ("good", "caution", "bad")]
        for text, ground in pairs:
            low, high = sorted((luminance(colour[text]), luminance(colour[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_labels_at_the_ends_of_curves_never_overlap() -> None:
    for values in ((0.5, 0.5, 0.5), (0.0, 0.01, 0.02), (1.0, 0.99, 1.0), (0.2, 0.9, 0.21)):
        series = [Series(str(i), "first", [value], latest="x") for i, value in enumerate(values)]
        labels = sorted(c.label.y for c in draw(Axis(0, 10), [10], series, RATIO).curves if c.label)
        assert all(b - a >= 7.99 for a, b in pairwise(labels))
        assert labels[-1] <= 100


def test_the_axis_has_few_round_steps_and_the_gap_has_a_zero_line() -> None:
    for first, last in ((0, 1), (0, 7), (3, 998), (0, 10_000), (99_990, 1_234_567)):
        ticks = Axis(first, last).ticks()
        assert 1 <= len(ticks) <= 7
        assert all(0 <= tick.x <= 100 for tick in ticks)
        assert len({tick.text for tick in ticks}) == len(ticks)
    for values in ([0.0], [0.004, -0.003], [-0.9, 1.0], [0.31]):
        scale = difference_scale([], values)
        assert any(abs(tick) < 1e-9 for tick in scale.ticks)
        assert scale.lower <= min(values) <= max(values) <= scale.upper
