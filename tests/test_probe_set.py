from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import embedded_tokenizer, small_probe_set

from introspection_probe import ProbeSet
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import split_groups
from introspection_probe.probe_set.tokens import tokens_hash
from introspection_probe.records import Behavior, Explanation, Probe
from introspection_probe.tasks.jabberwocky import MODEL_PATH


def made_of(probes: list[Probe]) -> ProbeSet:
    built = small_probe_set()
    return ProbeSet.from_probes(probes, task=built.task, style=built.style, tokenizer=embedded_tokenizer())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return small_probe_set().save(tmp_path / "set")


def test_a_saved_set_is_read_back_equal(saved: Path) -> None:
    built, read = small_probe_set(), ProbeSet.load(saved)
    assert read == built
    assert read.style == built.style
    assert read.manifest.counts == {"train": 36, "probe": 24}
    assert [probe.split for probe in read.split("probe")] == ["probe"] * 24
    assert len(read.split("train")) == 36
    assert read.label_sets == ("orig",)


def test_saving_the_same_set_again_changes_nothing_and_another_is_refused(saved: Path) -> None:
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in saved.iterdir()}
    small_probe_set().save(saved)
    with pytest.raises(IntrospectionError, match="holds another probe set, and sets are never overwritten"):
        small_probe_set(seed=1).save(saved)
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["set"], "a scratch folder was left behind"


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(IntrospectionError, match="is there already, and nothing is overwritten"):
        small_probe_set().save(tmp_path)
    with pytest.raises(IntrospectionError, match=r"cannot write .*notes\.txt"):
        small_probe_set().save(tmp_path / "notes.txt" / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_save_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    probe = small_probe_set().probes[0]
    unwritable = made_of([replace(probe, example=replace(probe.example, cue="\ud800"))])
    with pytest.raises(IntrospectionError, match=r"an example has a lone surrogate \(U\+D800\)"):
        unwritable.save(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_the_content_hash_is_of_what_the_set_says_not_of_when_and_where(tmp_path: Path) -> None:
    built = small_probe_set()
    probes = list(built.probes)
    same = made_of(probes)
    assert same.content_hash == built.content_hash
    assert (same.manifest.model, built.manifest.model) == ("", str(MODEL_PATH))
    other = Behavior(probes[0].behavior.ablated, probes[0].behavior.included)
    if other == probes[0].behavior:
        other = Behavior(probes[0].example.options[0], probes[0].example.options[1])
    changed = replace(probes[0], behavior=other, labels={"orig": other.explanation})
    hashes = {
        built.content_hash,
        made_of([changed, *probes[1:]]).content_hash,
        made_of(probes[1:]).content_hash,
        made_of([*probes[1:], probes[0]]).content_hash,
        made_of(
            [replace(probes[0], split="train" if probes[0].split == "probe" else "probe"), *probes[1:]]
        ).content_hash,
        built.with_labels("other", {p.example.id: p.behavior.explanation for p in probes}).content_hash,
    }
    assert len(hashes) == 6


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite_column(folder: Path, name: str, value: Callable[[Any], Any]) -> None:
    table = pq.read_table(folder / "examples.parquet")
    rows = [{**row, name: value(row[name])} for row in table.to_pylist()]
    pq.write_table(table.from_pylist(rows, schema=table.schema), folder / "examples.parquet")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), r"is no probe set: it has no manifest\.json"),
    "no examples": (lambda f: (f / "examples.parquet").unlink(), r"is no whole probe set: it has no examples\.parquet"),
    "half a manifest": (
        lambda f: (f / "manifest.json").write_bytes((f / "manifest.json").read_bytes()[:200]),
        r"manifest\.json is not valid JSON",
    ),
    "a manifest of bytes": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), "is not valid JSON"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "names no format_version"),
    "a manifest without a style": (
        lambda f: rewrite_manifest(f, lambda m: m.pop("style")),
        r"manifest\.json lacks or garbles 'style'",
    ),
    "a newer format": (
        lambda f: rewrite_manifest(f, lambda m: m.update(format_version=99, style="?")),
        "has format version 99, and this program reads up to 2: upgrade introspection-probe",
    ),
    "half a table": (
        lambda f: (f / "examples.parquet").write_bytes((f / "examples.parquet").read_bytes()[:-500]),
        r"examples\.parquet cannot be read",
    ),
    "not a table": (lambda f: (f / "examples.parquet").write_text("hello"), r"examples\.parquet cannot be read"),
    "another table": (
        lambda f: pq.write_table(pq.read_table(f / "examples.parquet").drop(["cue"]), f / "examples.parquet"),
        "lacks the columns cue",
    ),
    "no such split": (lambda f: rewrite_column(f, "split", lambda _: "test"), "row 1, is not an example"),
    "an edited answer": (
        lambda f: rewrite_column(f, "behavior_ablated", lambda answer: answer + "!"),
        "was changed after it was built",
    ),
    "an edited prompt": (
        lambda f: rewrite_column(f, "rendered_question", lambda text: text + " "),
        "was changed after it was built",
    ),
    "an edited fingerprint": (
        lambda f: rewrite_manifest(f, lambda m: m.update(tokens_hash="0" * 64)),
        "was changed after it was built",
    ),
    "an edited style": (
        lambda f: rewrite_manifest(f, lambda m: m["style"].update(opening="So: ")),
        "was changed after it was built",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_is_refused_in_one_sentence(damage: str, saved: Path) -> None:
    harm, sentence = DAMAGE[damage]
    harm(saved)
    with pytest.raises(IntrospectionError, match=sentence) as refused:
        ProbeSet.load(saved)
    assert "\n" not in str(refused.value)


def test_a_missing_set_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(IntrospectionError, match=r"no probe set at .*nowhere: build one with `iprobe build"):
        ProbeSet.load(tmp_path / "nowhere")


def test_a_set_without_probes_to_measure_is_refused(tmp_path: Path) -> None:
    folder = made_of(list(small_probe_set().split("train"))).save(tmp_path / "set")
    with pytest.raises(IntrospectionError, match="no examples in its probe split"):
        ProbeSet.load(folder)


def test_an_empty_set_and_a_repeated_id_are_refused() -> None:
    with pytest.raises(IntrospectionError, match="needs at least one example"):
        made_of([])
    probe = small_probe_set().probes[0]
    with pytest.raises(IntrospectionError, match=f"'{probe.example.id}' occurs 2 times"):
        made_of([probe, probe])


def test_the_tokenizer_that_built_the_set_fits_it() -> None:
    small_probe_set().check_tokenizer(embedded_tokenizer())


def altered_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> Any:
    tokenizer = embedded_tokenizer()
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return type(tokenizer).from_pretrained(folder)


def test_a_tokenizer_with_other_ids_is_refused(tmp_path: Path) -> None:
    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        used = embedded_tokenizer().tokenize(small_probe_set().probes[0].example.cue)
        one, other = sorted(set(used) & vocabulary.keys())[:2]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]

    with pytest.raises(
        IntrospectionError, match="does not fit: the same prompts give other token ids; build a probe set"
    ):
        small_probe_set().check_tokenizer(altered_tokenizer(tmp_path, swap))


def test_a_tokenizer_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    tokenizer = type(embedded_tokenizer()).from_pretrained(MODEL_PATH)
    tokenizer.add_tokens([small_probe_set().probes[0].example.included[0]["content"]])
    size = small_probe_set().manifest.vocab_size
    with pytest.raises(IntrospectionError, match=f"it has {size + 1} tokens, the set's tokenizer had {size}"):
        small_probe_set().check_tokenizer(tokenizer)


def test_the_fingerprint_of_the_tokens_covers_the_answers() -> None:
    probes, tokenizer = small_probe_set().probes, embedded_tokenizer()
    assert tokens_hash(tokenizer, probes, "") == small_probe_set().manifest.tokens_hash
    assert tokens_hash(tokenizer, probes, " ") != small_probe_set().manifest.tokens_hash


def test_added_tokens_that_the_prompts_do_not_use_do_no_harm() -> None:
    tokenizer = type(embedded_tokenizer()).from_pretrained(MODEL_PATH)
    tokenizer.add_tokens(["<never used>"])
    small_probe_set().check_tokenizer(tokenizer)


def test_labels_of_another_model_are_kept_beside_m0s(tmp_path: Path) -> None:
    built = small_probe_set()
    labels = {p.example.id: Explanation(changed=True, content=p.example.options[2]) for p in built.probes}
    labelled = built.with_labels("llama-8b", labels)
    read = ProbeSet.load(labelled.save(tmp_path / "labelled"))
    assert read == labelled
    assert read.label_sets == ("orig", "llama-8b")
    assert {p.example.id: p.labels["llama-8b"] for p in read.probes} == labels
    assert all(p.labels["orig"] == p.behavior.explanation for p in read.probes)
    assert built.label_sets == ("orig",)


@pytest.mark.parametrize("name", ["self", "Llama", "", "a b", "x" * 41, "../x"])
def test_a_label_set_has_a_plain_name(name: str) -> None:
    with pytest.raises(IntrospectionError, match="cannot name a label set"):
        small_probe_set().with_labels(name, {})


def test_unusable_labels_are_refused() -> None:
    built = small_probe_set()
    labels = {p.example.id: p.behavior.explanation for p in built.probes}
    first = built.probes[0].example.id
    with pytest.raises(IntrospectionError, match="already has labels named 'orig'"):
        built.with_labels("orig", labels)
    with pytest.raises(IntrospectionError, match=rf"has no label for example '{first}' \(1 in all\)"):
        built.with_labels("x", {key: label for key, label in labels.items() if key != first})
    with pytest.raises(IntrospectionError, match="the set does not have: 'stranger'"):
        built.with_labels("x", {**labels, "stranger": labels[first]})
    with pytest.raises(IntrospectionError, match=f"'{first}': 'Z' is not one of its answers"):
        built.with_labels("x", {**labels, first: Explanation(changed=False, content="Z")})


@settings(deadline=None)
@given(
    groups=st.lists(st.text(max_size=4), min_size=2, max_size=40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_split_is_by_group_exact_and_a_function_of_the_groups_and_the_seed(
    groups: list[str], share: float, seed: int, shuffle: Any
) -> None:
    sides = split_groups(groups, share, seed)
    distinct = len(set(groups))
    assert set(sides) == set(groups)
    counts = Counter(sides.values())
    if distinct > 1:
        assert counts["probe"] == min(max(round(share * distinct), 1), distinct - 1)
    shuffled = groups * 2
    shuffle.shuffle(shuffled)
    assert split_groups(shuffled, share, seed) == sides


def test_another_seed_splits_otherwise_and_a_group_more_moves_few() -> None:
    groups = [f"g{i}" for i in range(200)]
    sides = split_groups(groups, 0.3, 0)
    assert split_groups(groups, 0.3, 1) != sides
    more = split_groups([*groups, "another"], 0.3, 0)
    assert sum(more[group] != side for group, side in sides.items()) <= 1


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(share: float) -> None:
    with pytest.raises(IntrospectionError, match="choose one between 0 and 1"):
        split_groups(["a", "b"], share, 0)


def test_reading_a_set_needs_no_torch(saved: Path) -> None:
    code = (
        "import sys; from introspection_probe import ProbeSet; early = {'pyarrow', 'scipy'} & set(sys.modules);"
        f"ProbeSet.load({str(saved)!r}); print(early, {{'torch', 'transformers'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() set()\n"
