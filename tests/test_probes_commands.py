"""`iprobe probes`: looking into sets, joining them and shards, label sets, publishing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program, run_process
from runs import embedded_model, embedded_tokenizer, small_probe_set

from introspection_probe import ProbeSet
from introspection_probe.building import build_probe_set
from introspection_probe.records import Behavior, Probe
from introspection_probe.tasks import get_task
from introspection_probe.tasks.explanations import candidates
from introspection_probe.tasks.jabberwocky import MODEL_PATH


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_probe_set().save(tmp_path / "set")


def remade(probes: list[Probe], **changes: Any) -> ProbeSet:
    built = small_probe_set()
    made = {"task": built.task, "style": built.style, "tokenizer": embedded_tokenizer(), "model": "m"}
    return ProbeSet.from_probes(probes, **{**made, "model_fingerprint": built.manifest.model_fingerprint, **changes})


HOSTILE = "red \x1b[31m[bold]x[/bold] \u202e <script>alert(1)</script> | `a` @me\n# head"


def hostile_set() -> ProbeSet:
    first, *rest = small_probe_set().split("probe")
    example = first.example
    message = {"role": "user", "content": f"{HOSTILE} {example.included[0]['content']}"}
    return remade([replace(first, example=replace(example, id=HOSTILE, included=(message,))), *rest], model=HOSTILE)


def test_show_marks_the_cue_and_tells_behaviour_and_labels(program: Program, folder: Path) -> None:
    probe = small_probe_set().split("probe")[1]
    done = program("probes", "show", folder, "--id", probe.example.id, width=200)
    assert done.code == 0, done.err
    question = probe.example.ablated[0]["content"]
    assert f"user: {question} [[{probe.example.cue}]]" in done.out
    assert f"M0 with the cue: {probe.behavior.included}\n" in done.out
    assert f"M0 without it: {probe.behavior.ablated}\n" in done.out
    changed = "change to" if probe.behavior.explanation.changed else "not change from"
    assert f"label orig: The response would {changed} <{probe.behavior.ablated}>" in done.out
    assert "examples: 36 to train on, 24 to measure" in done.out
    assert small_probe_set().content_hash[:12] in done.out


def test_show_gives_as_many_examples_of_the_side_as_asked_for(program: Program, folder: Path) -> None:
    shown = json.loads(program("probes", "show", folder, "--n", 2, "--split", "train", "--format", "json").out)
    expected = small_probe_set().split("train")[:2]
    assert [example["id"] for example in shown["examples"]] == [probe.example.id for probe in expected]
    for example, probe in zip(shown["examples"], expected, strict=True):
        place = example["cue_place"]
        assert example["included"][place["message"]]["content"][place["start"] : place["end"]] == probe.example.cue
    assert shown["manifest"]["content_hash"] == small_probe_set().content_hash
    assert json.loads(program("probes", "show", folder, "--n", 0, "--format", "json").out)["examples"] == []


@pytest.mark.parametrize("form", ["table", "json", "markdown"])
def test_hostile_texts_are_inert_wherever_they_are_shown(form: str, program: Program, tmp_path: Path) -> None:
    folder = hostile_set().save(tmp_path / "hostile")
    done = program("probes", "show", folder, "--format", form, width=400)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    if form == "markdown":
        assert "<script>" not in done.out
        assert not any(line.startswith("# ") for line in done.out.splitlines())
    elif form == "table":
        assert "[bold]x[/bold]" in done.out, "markup was read instead of shown"


def test_show_needs_no_torch(folder: Path) -> None:
    done = run_process(
        "probes", "show", folder, prelude="sys.modules['torch'] = None; sys.modules['transformers'] = None"
    )
    assert done.code == 0, done.err


def test_the_cue_is_marked_where_its_removal_gives_the_ablated_input() -> None:
    from introspection_probe.tasks.cue_marks import cue_place

    def example(included: str, ablated: str, cue: str) -> Any:
        probe = small_probe_set().probes[0]
        messages = ({"role": "user", "content": included},), ({"role": "user", "content": ablated},)
        return replace(probe.example, included=messages[0], ablated=messages[1], cue=cue)

    assert cue_place(example("great or not? a great cast", "great or not? a cast", "great")) == (0, 16, 21)
    assert cue_place(example("great or not? a great cast", "or not? a great cast", "great")) == (0, 0, 5)
    assert cue_place(example("x", "x", "nowhere")) is None


def test_shards_of_a_build_are_joined_to_the_set_of_one_process(program: Program, tmp_path: Path) -> None:
    rows = [{"question": f"Is {i} odd?", "choices": ["no", "yes"]} for i in range(200)]
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    wording = ("--hint", "Hint: {option}", "--task-option", "instruction=")
    usual = ("build", "--task", "hint-mmlu", "--model", MODEL_PATH, "--data", data, "--n", 200, *wording)
    assert program(*usual, "--out", tmp_path / "whole").code == 0
    shards = [tmp_path / f"shard-{index}" for index in (3, 1, 2)]
    for index, shard in zip((3, 1, 2), shards, strict=True):
        done = program(*usual, "--out", shard, "--shard", f"{index}/3")
        assert done.code == 0, done.err
    early = program("probes", "merge", *shards[:2], "--out", tmp_path / "early")
    assert (early.code, "of 3 shards 1 are missing (number 2)" in early.err) == (2, True)
    done = program("probes", "merge", *shards, "--out", tmp_path / "joined")
    assert done.code == 0, done.err
    whole, joined = ProbeSet.load(tmp_path / "whole"), ProbeSet.load(tmp_path / "joined")
    assert (tmp_path / "joined" / "examples.parquet").read_bytes() == (
        tmp_path / "whole" / "examples.parquet"
    ).read_bytes()
    assert replace(joined.manifest, created_at="") == replace(whole.manifest, created_at="")
    alone = program("probes", "show", shards[0])
    assert "is one shard of a probe set: join all of them with `iprobe probes merge" in alone.err
    other = program(*usual, "--seed", 1, "--out", tmp_path / "other", "--shard", "2/3")
    assert other.code == 0
    mixed = program("probes", "merge", shards[0], shards[1], tmp_path / "other", "--out", tmp_path / "mixed")
    assert "are not of one build: seed is 0 in the first and 1 in the second" in mixed.err


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_a_shard_that_is_none_is_refused(shard: str, program: Program, tmp_path: Path) -> None:
    where = ("--task", "jabberwocky", "--model", "/no/such", "--out", tmp_path / "x")
    done = program("build", *where, "--shard", shard)
    assert done.code == 2
    assert shard in done.err


def test_sets_are_joined_with_every_example_once_and_every_question_on_one_side(
    program: Program, tmp_path: Path
) -> None:
    model, tokenizer = embedded_model(), embedded_tokenizer()
    task = get_task("jabberwocky", facts="train")
    one, _ = build_probe_set(task, model, tokenizer, n=600, seed=0, probe_share=0.5)
    two, _ = build_probe_set(task, model, tokenizer, n=600, seed=1, probe_share=0.5)
    folders = [one.save(tmp_path / "one"), two.save(tmp_path / "two")]
    done = program("probes", "merge", *folders, "--out", tmp_path / "both")
    assert done.code == 0, done.err
    both = ProbeSet.load(tmp_path / "both")
    texts = [probe.rendered.included for probe in both.probes]
    assert len(texts) == len(set(texts))
    assert set(texts) == {probe.rendered.included for probe in (*one.probes, *two.probes)}
    sides: dict[str, set[str]] = {}
    for probe in both.probes:
        sides.setdefault(probe.rendered.ablated, set()).add(probe.split)
    assert all(len(side) == 1 for side in sides.values())
    before = {probe.example.group: probe.split for probe in one.probes}
    assert all(probe.split == before.get(probe.example.group, probe.split) for probe in both.probes)
    twice = 1200 - len(both.probes)
    assert f"{twice} examples were there already and were taken once" in done.out
    assert "changed sides" in done.out


def test_examples_that_only_share_an_id_are_both_kept(program: Program, tmp_path: Path) -> None:
    probes = list(small_probe_set().probes)
    one = remade(probes[:30])
    pairs = zip(probes[30:], probes[:30], strict=True)
    two = remade([replace(probe, example=replace(probe.example, id=other.example.id)) for probe, other in pairs])
    done = program("probes", "merge", one.save(tmp_path / "1"), two.save(tmp_path / "2"), "--out", tmp_path / "both")
    assert done.code == 0, done.err
    ids = [probe.example.id for probe in ProbeSet.load(tmp_path / "both").probes]
    assert ids == [p.example.id for p in probes[:30]] + [f"{p.example.id}~2" for p in probes[:30]]
    # The names that the first join gave are taken in the next.
    first = probes[0].example
    text = replace(probes[0].rendered, included="other", ablated="thing")
    said = {name: ({"role": "user", "content": "Another thing"},) for name in ("included", "ablated")}
    three = remade([replace(probes[0], example=replace(first, group="new", **said), rendered=text, split="probe")])
    again = program("probes", "merge", tmp_path / "both", three.save(tmp_path / "3"), "--out", tmp_path / "all")
    assert again.code == 0, again.err
    assert [p.example.id for p in ProbeSet.load(tmp_path / "all").probes] == [*ids, f"{first.id}~3"]


def test_sets_that_do_not_go_together_say_what_differs(program: Program, folder: Path, tmp_path: Path) -> None:
    probes = list(small_probe_set().probes)
    others = {
        "task": (remade(probes, task="other"), "the task of the first is jabberwocky, of set 2 it is other"),
        "model": (remade(probes, model_fingerprint="ab"), "the M0 of the first is"),
        "style": (remade(probes, style=replace(small_probe_set().style, name="loud")), "the prompt style of the first"),
    }
    for name, (other, sentence) in others.items():
        done = program("probes", "merge", folder, other.save(tmp_path / name), "--out", tmp_path / "out")
        assert done.code == 2
        assert sentence in done.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    """Another model: the embedded one with the answers of two options exchanged."""
    model = embedded_model()
    tokenizer = embedded_tokenizer()
    one, other = (tokenizer.convert_tokens_to_ids(o) for o in small_probe_set().probes[0].example.options[:2])
    head = model.get_output_embeddings().weight.data
    head[[one, other]] = head[[other, one]].clone()
    model.save_pretrained(tmp_path / "shifted")
    tokenizer.save_pretrained(tmp_path / "shifted")
    return tmp_path / "shifted"


def test_labels_of_another_model_are_the_explanations_of_its_own_behaviour(
    program: Program, folder: Path, shifted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labelled"
    done = program("probes", "relabel", folder, "--model", shifted, "--name", "other", "--out", out)
    assert done.code == 0, done.err
    read = ProbeSet.load(out)
    one, other = small_probe_set().probes[0].example.options[:2]
    swap = {one: other, other: one}
    for probe in read.probes:
        was = probe.behavior
        now = Behavior(swap.get(was.included, was.included), swap.get(was.ablated, was.ablated))
        assert probe.labels["other"] == now.explanation
    assert any(probe.labels["other"] != probe.labels["orig"] for probe in read.probes)
    alike = sum(probe.labels["other"] == probe.labels["orig"] for probe in read.probes)
    assert f"{alike} of 60 labels" in done.out
    assert read.manifest.build["labels"]["other"]["agreement"] == alike / 60
    assert ProbeSet.load(folder) == small_probe_set()


def labelled_set(folder: Path) -> ProbeSet:
    """300 examples of 150 questions, with a second label set that never agrees."""
    task = get_task("jabberwocky")
    built, _ = build_probe_set(task, embedded_model(), embedded_tokenizer(), n=300)
    pairs = [replace(p, example=replace(p.example, group=f"g{i // 2}")) for i, p in enumerate(built.probes)]
    sides = {p.example.group: p.split for p in pairs}
    made = remade([replace(p, split=sides[p.example.group]) for p in pairs])
    wrong = {p.example.id: next(e for e in candidates(p.example.options) if e != p.labels["orig"]) for p in made.probes}
    labelled = made.with_labels("llama", wrong)
    labelled.save(folder)
    return labelled


def test_a_mixture_has_exact_shares_keeps_questions_together_and_is_nested(program: Program, tmp_path: Path) -> None:
    source = labelled_set(tmp_path / "source")
    taken: dict[str, set[str]] = {}
    for alpha in ("0.25", "0.5"):
        out = tmp_path / alpha
        mix = f"llama={alpha},orig={1 - float(alpha)}"
        done = program("probes", "relabel", tmp_path / "source", "--mix", mix, "--name", "mixed", "--out", out)
        assert done.code == 0, done.err
        mixed = ProbeSet.load(out)
        for side in ("train", "probe"):
            probes = mixed.split(side)
            groups: dict[str, set[bool]] = {}
            for probe in probes:
                assert probe.labels["mixed"] in (probe.labels["llama"], probe.labels["orig"])
                groups.setdefault(probe.example.group, set()).add(probe.labels["mixed"] == probe.labels["llama"])
            assert all(len(kinds) == 1 for kinds in groups.values())
            assert sum(kinds == {True} for kinds in groups.values()) == round(float(alpha) * len(groups))
        taken[alpha] = {p.example.id for p in mixed.probes if p.labels["mixed"] == p.labels["llama"]}
    assert taken["0.25"] < taken["0.5"]
    again = program(
        "probes", "relabel", tmp_path / "source", "--mix", "llama=0.5,orig=0.5", "--name", "mixed",
        "--out", tmp_path / "again", "--seed", 1,
    )  # fmt: skip
    assert again.code == 0
    assert ProbeSet.load(tmp_path / "again").content_hash != mixed.content_hash
    assert mixed.label_sets == (*source.label_sets, "mixed")


def test_noise_replaces_its_share_by_other_explanations_each_as_likely(program: Program, tmp_path: Path) -> None:
    labelled_set(tmp_path / "source")
    out = tmp_path / "noisy"
    done = program("probes", "relabel", tmp_path / "source", "--noise", 0.4, "--name", "noisy", "--out", out)
    assert done.code == 0, done.err
    noisy = ProbeSet.load(out)
    places: Counter[int] = Counter()
    for side in ("train", "probe"):
        probes = noisy.split(side)
        replaced = [p for p in probes if p.labels["noisy"] != p.labels["orig"]]
        assert len(replaced) == round(0.4 * len(probes))
        for probe in replaced:
            others = [e for e in candidates(probe.example.options) if e != probe.labels["orig"]]
            places[others.index(probe.labels["noisy"])] += 1
    assert set(places) == set(range(7))
    assert max(places.values()) < 35  # 17 expected, deviation 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "nothing or too much says where the labels come from"),
        (["--noise", "0.1", "--mix", "orig=1"], "nothing or too much says where the labels come from"),
        (["--noise", "1.5"], "the noise is 1.5: choose a share from 0 to 1"),
        (["--noise", "nan"], "the noise is nan"),
        (["--noise", "0.1", "--from", "llama"], "there is no label set 'llama' to put noise into"),
        (["--mix", "orig=0.5"], "the shares add up to 0.5"),
        (["--mix", "orig=0.5,qwen=0.5"], "there is no label set 'qwen' to mix: the probe set has orig"),
        (["--mix", "orig"], "is not NAME=SHARE,NAME=SHARE"),
        (["--noise", "0.1", "--name", "orig"], "already has labels named 'orig'"),
        (["--model", "/no/such/model"], "there is no model at /no/such/model"),
    ],
)
def test_wrong_use_of_relabel_is_one_sentence(
    options: list[str], sentence: str, program: Program, folder: Path, tmp_path: Path
) -> None:
    done = program("probes", "relabel", folder, "--name", "new", "--out", tmp_path / "out", *options)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err
    assert not (tmp_path / "out").exists()


def loaded_sides(name: str, home: Path, **environment: str) -> dict[str, list[dict[str, Any]]]:
    """What `datasets` reads, in a process of its own."""
    code = (
        "import json, sys, datasets; datasets.disable_progress_bars();"
        f"sides = datasets.load_dataset({name!r}); print(json.dumps({{k: v.to_list() for k, v in sides.items()}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"HF_HOME": str(home)} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sides: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return sides


def check_published(sides: dict[str, list[dict[str, Any]]], probe_set: ProbeSet) -> None:
    for side in ("train", "probe"):
        assert [row["id"] for row in sides[side]] == [probe.example.id for probe in probe_set.split(side)]
    first = probe_set.split("probe")[0]
    assert sides["probe"][0]["behavior_ablated"] == first.behavior.ablated
    assert sides["probe"][0]["included"] == [dict(message) for message in first.example.included]


def test_what_is_written_for_the_hub_is_a_data_set_and_still_a_probe_set(
    program: Program, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "published"
    assert program("probes", "push", folder, "--to-dir", out).code == 0
    check_published(loaded_sides(str(out), tmp_path / "home"), small_probe_set())
    assert ProbeSet.load(out) == small_probe_set()
    text = (out / "README.md").read_text()
    assert "| examples to measure | 24 |" in text
    again = program("probes", "push", folder, "--to-dir", out)
    assert (again.code, "nothing is overwritten" in again.err) == (2, True)


def test_the_card_of_a_hostile_set_is_inert(tmp_path: Path) -> None:
    import yaml

    from iprobe.publishing import card

    text = card(hostile_set(), 'you/"set"')
    head = yaml.safe_load(text.split("---\n")[1])
    assert {part["split"] for part in head["configs"][0]["data_files"]} == {"train", "probe"}
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\n# head" not in text


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as creating a data set, one commit into it and reading it needs."""

    files: dict[str, bytes]
    commits: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self._send({"url": f"http://{self.headers['Host']}/datasets/you/set"})
        elif "/preupload/" in path:
            wanted = json.loads(body)["files"]
            self._send({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted]})
        elif "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.commits.append(line["value"]["summary"])
                else:
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._send(
                {
                    "commitUrl": f"http://{self.headers['Host']}/datasets/you/set/commit/{'a' * 40}",
                    "commitOid": "a" * 40,
                    "pullRequestUrl": None,
                }
            )
        else:
            self._send({}, 200)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        wanted = path.partition("/resolve/")[2].partition("/")[2]
        if "/resolve/" in path and wanted in self.files:
            tag = hashlib.sha1(self.files[wanted]).hexdigest()
            self._send(self.files[wanted], 200, ETag=f'"{tag}"', **{"X-Repo-Commit": "a" * 40})
        elif "/resolve/" in path:
            self._send({}, 404, **{"X-Error-Code": "EntryNotFound"})
        elif path.startswith("/api/datasets/you/set"):
            names = [{"rfilename": name} for name in self.files]
            self._send({"id": "you/set", "sha": "a" * 40, "siblings": names, "tags": [], "private": False})
        else:
            self._send({}, 404)

    do_HEAD = do_GET

    def _send(self, body: Any, code: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    class Mine(Hub):
        pass

    Mine.files, Mine.commits = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Mine
        server.shutdown()


def test_push_makes_one_commit_and_never_overwrites(hub: tuple[str, type[Hub]], folder: Path, tmp_path: Path) -> None:
    address, server = hub
    environment = {
        "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test", "HF_HOME": str(tmp_path / "home")
    }  # fmt: skip
    done = run_process("probes", "push", folder, "you/set", env=environment)
    assert done.code == 0, done.err
    assert server.commits == [f"Probe set {small_probe_set().content_hash[:12]}"]
    there = tmp_path / "downloaded"
    for name, content in server.files.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(content)
    assert ProbeSet.load(there) == small_probe_set()
    check_published(loaded_sides(str(there), tmp_path / "home2"), small_probe_set())
    again = run_process("probes", "push", folder, "you/set", env=environment)
    assert (again.code, len(server.commits)) == (0, 1), again.err
    other = small_probe_set(seed=3).save(tmp_path / "other")
    refused = run_process("probes", "push", other, "you/set", env=environment)
    assert (refused.code, len(server.commits)) == (2, 1)
    assert "you/set holds another probe set, and sets are never overwritten" in refused.err


def test_a_hub_out_of_reach_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = run_process("probes", "push", folder, "you/set", env=environment)
    assert done.code == 2
    assert "you/set cannot be published" in done.err
    assert "Traceback" not in done.err
