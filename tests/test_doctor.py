"""The doctor finds the fault that a set or a configuration was given, and nothing in a good one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_program import Program, run_process
from doctored import good, probe_set
from sklearn.metrics import f1_score

from introspection_probe.doctor import Examination, Settings, examine, settings_of
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import ProbeSet
from introspection_probe.probe_set.similar import near_same, normalized
from introspection_probe.records import Behavior, Explanation


@cache
def good_set() -> ProbeSet:
    return probe_set()


def levels(found: Examination) -> dict[str, str]:
    return {finding.code: finding.level for finding in found.findings}


def codes(found: Examination, *wanted: str) -> set[str]:
    return {finding.code for finding in found.findings if finding.level in wanted}


def changed_in(share: float) -> Callable[[int], Behavior]:
    def behavior(number: int) -> Behavior:
        ablated = "ABCD"[number % 4]
        return Behavior("ABCD"[(number + 1) % 4] if number % 100 < 100 * share else ablated, ablated)

    return behavior


def test_nothing_is_wrong_with_a_good_set() -> None:
    found = examine(good_set(), Settings(learning_rate=1e-5, max_steps=500), effect=0.05)
    assert found.can_work
    assert codes(found, "error", "warning") == set()
    assert all(finding.reason for finding in found.findings)


def test_every_trouble_has_a_remedy_and_the_worst_comes_first() -> None:
    found = examine(probe_set(changed_in(0.01), n=60), Settings(kl_weight=1e-4, lora_rank=8, learning_rate=1))
    troubles = [finding for finding in found.findings if finding.level != "ok"]
    assert len(troubles) > 5
    assert all(finding.remedy for finding in troubles)
    order = ["error", "warning", "note", "ok"]
    assert [f.level for f in found.findings] == sorted((f.level for f in found.findings), key=order.index)


@pytest.mark.parametrize(
    ("behavior", "code", "level"),
    [
        (changed_in(0.5), "changed_share", "ok"),
        (changed_in(0.08), "changed_share", "warning"),
        (changed_in(0.02), "changed_share", "error"),
        (changed_in(0.99), "changed_share", "error"),
        (changed_in(0.97), "constant_f1_changed", "note"),
        (lambda i: Behavior("B" if i % 2 else "A", "A" if i % 50 else "C"), "answers_without_cue", "error"),
        (lambda i: Behavior("A", "ABCD"[i % 4] if i % 20 else "A"), "answers_with_cue", "error"),
        (lambda i: Behavior("A", "B" if i % 10 == 0 else "A"), "majority_label", "warning"),
        (lambda i: Behavior("B" if i % 2 else "A", "A" if i % 50 else "C"), "entropy_without_cue", "note"),
        (lambda i: Behavior("A" if i % 2 else "AB"[i % 4 // 2], "AB"[i % 4 // 2]), "thin_direction", "warning"),
    ],
)
def test_a_behaviour_that_teaches_little_is_found(behavior: Any, code: str, level: str) -> None:
    assert levels(examine(probe_set(behavior, n=400)))[code] == level


def test_the_constant_guessers_f1_is_that_of_scikit_learn() -> None:
    built = probe_set(changed_in(0.3))
    truth = [probe.behavior.explanation.changed for probe in built.split("probe")]
    found = {finding.code: finding.value for finding in examine(built).findings}
    assert found["constant_f1_changed"] == pytest.approx(f1_score(truth, np.ones(len(truth))))
    assert found["constant_f1_unchanged"] == pytest.approx(f1_score(np.invert(truth), np.ones(len(truth))))


def test_labels_of_another_model_are_judged_where_they_are_trained_on() -> None:
    wrong = {
        "llama": lambda i: good(i).explanation if i % 2 else Explanation(changed=False, content="D"),
        "close": lambda i: good(i).explanation if i % 10 else Explanation(changed=True, content="D"),
    }
    built = probe_set(labels=wrong)
    unused, used, close, unknown = (
        examine(built, Settings(supervision=name)) for name in ("orig", "llama", "close", "mistral")
    )
    assert levels(unused)["label_agreement_llama"] == "note"
    assert levels(used)["label_agreement_llama"] == "error"
    assert levels(close)["label_agreement_close"] == "ok"
    assert levels(unknown)["supervision"] == "error"
    share = sum(p.labels["llama"] == p.behavior.explanation for p in built.probes) / 1000
    (value,) = [finding.value for finding in used.findings if finding.code == "label_agreement_llama"]
    assert value == pytest.approx(share)


def test_a_question_on_both_sides_is_a_leak_whatever_its_spelling() -> None:
    clean = good_set()
    text = [probe.example.ablated[0]["content"] for probe in clean.probes]

    def leaking(every: int) -> Callable[[int], str]:
        return lambda i: text[i] if i % every or i >= 500 else text[i + 500].upper().replace(" ", " - ") + "?"

    some, many = (examine(probe_set(question=leaking(every))) for every in (50, 5))
    assert levels(some)["leakage"] == "warning"
    assert levels(many)["leakage"] == "error"
    (value,) = [finding.value for finding in many.findings if finding.code == "leakage"]
    assert value == pytest.approx(0.2)


def test_near_same_questions_are_those_that_a_plain_loop_over_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(300)])
    texts = [list(rng.choice(words, 30)) for _ in range(120)]
    for number in range(60):  # near copies, of one to nine other words
        copy = list(texts[number])
        for place in rng.choice(30, number % 10, replace=False):
            copy[place] = str(rng.choice(words))
        texts[119 - number] = copy
    left, right = ([f"What is it: {' '.join(words)} ?" for words in side] for side in (texts[:60], texts[60:]))
    triples = [{tuple(normalized(t).split()[i : i + 3]) for i in range(31)} for t in left + right]
    times: dict[Any, int] = {}
    for one in triples:
        for triple in one:
            times[triple] = times.get(triple, 0) + 1
    weight = {triple: np.log(120 / count) for triple, count in times.items()}

    def alike(one: set[Any], other: set[Any]) -> float:
        return float(sum(weight[t] for t in one & other) / sum(weight[t] for t in one | other))

    expected = {
        i: max(alike(triples[i], other) for other in triples[60:])
        for i in range(60)
        if max(alike(triples[i], other) for other in triples[60:]) >= 0.5
    }
    found = {match.left: match.similarity for match in near_same(left, right, near=0.5)}
    assert 10 < len(found) < 60
    assert found == pytest.approx(expected)


def test_wording_around_every_question_makes_no_two_of_them_alike() -> None:
    frame = "Read the following question with care and answer with one word only, please: is the {} a {}?"
    left = [frame.format(f"thing{i}", f"kind{i}") for i in range(100)]
    right = [frame.format(f"object{i}", f"sort{i}") for i in range(100)]
    assert near_same(left, right) == []


@pytest.mark.parametrize(
    ("settings", "code", "level"),
    [
        (Settings(kl_weight=4e-3), "kl_weight", "error"),
        (Settings(kl_weight=5e-3), "kl_weight", "ok"),
        (Settings(lora_rank=80), "lora_rank", "error"),
        (Settings(lora_rank=96), "lora_rank", "ok"),
        (Settings(learning_rate=1e-5), "learning_rate", "ok"),
        (Settings(learning_rate=2e-4), "learning_rate", "warning"),
        (Settings(learning_rate=5e-7), "learning_rate", "warning"),
        (Settings(learning_rate=2e-4, lora_rank=96), "learning_rate", "ok"),
        (Settings(learning_rate=1e-3, parameters=1_100_000), "learning_rate", "ok"),
        (Settings(optim="lomo"), "early_backward", "warning"),
        (Settings(optim="adamw_torch"), "early_backward", "ok"),
        (Settings(deepspeed=True), "early_backward", "warning"),
        (Settings(max_steps=10), "passes", "note"),
        (Settings(max_steps=500), "passes", "ok"),
        (Settings(explanation_weight=0, kl_weight=0, lora_rank=8), "explanation_weight", "note"),
    ],
)
def test_settings_that_do_not_couple_are_found_from_their_limit_on(settings: Settings, code: str, level: str) -> None:
    assert levels(examine(good_set(), settings))[code] == level


def test_every_finding_of_the_documentation_is_there_when_it_should_be_and_not_when_it_should_not() -> None:
    page = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text(encoding="utf-8")
    alone = page.split("## From the probe set alone")[1].split("## With the model")[0]
    named = {code for line in alone.splitlines() if line.startswith("| `") for code in re.findall(r"`(\w+)`", line)}
    labels = {"NAME": lambda i: Explanation(changed=False, content="D")}
    one_answer = probe_set(lambda i: Behavior("A", "A"), n=60, labels=labels, question=lambda i: "Always the same?")
    poor = [
        examine(one_answer, Settings(kl_weight=0, lora_rank=8, learning_rate=1, optim="lomo", max_steps=1)),
        examine(one_answer, Settings(explanation_weight=0, supervision="none")),
        examine(probe_set(changed_in(0.99), n=60)),
        examine(probe_set(lambda i: Behavior("B", "AB"[i % 30 == 0]), n=60)),
    ]
    close = {"NAME": lambda i: good(i).explanation}
    well = examine(
        probe_set(labels=close),
        Settings(learning_rate=1e-5, lora_rank=96, optim="adamw_torch", max_steps=500),
        effect=0.15,
    )
    fired = {finding.code for found in poor for finding in found.findings if finding.level != "ok"}
    fine = {finding.code for finding in well.findings if finding.level == "ok"}
    named.remove("explanations_drifted")  # an alarm that a row speaks of
    assert named <= fired
    # These two are said only where something is wrong.
    assert named - fine == {"explanation_weight", "supervision"}
    assert {finding.level for finding in well.findings} == {"ok"}
    for found in poor:
        assert all(f.reason and f.remedy and f.value is not None for f in found.findings if f.level != "ok")


def test_a_run_that_only_measures_is_not_told_how_to_train() -> None:
    found = examine(good_set(), Settings(explanation_weight=0, kl_weight=0, lora_rank=8, learning_rate=1))
    assert found.can_work
    assert not {"kl_weight", "lora_rank", "learning_rate"} & set(levels(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1e-5\nlora_r: 32\nuse_peft: true\n", {"learning_rate": 1e-5, "lora_rank": 32}),  # TRL
        ("learning_rate: 1e-5\nlora_r: 32\nuse_peft: false\n", {"learning_rate": 1e-5, "lora_rank": None}),
        ("use_peft: true\n", {"lora_rank": 16}),
        ("finetuning_type: full\nlora_rank: 8\n", {"lora_rank": None}),  # LLaMA-Factory
        ("finetuning_type: lora\nlora_rank: 64\n", {"lora_rank": 64}),
        ("finetuning_type: lora\n", {"lora_rank": 8}),
        ("adapter: qlora\nlora_r: 64\noptimizer: lomo\n", {"lora_rank": 64, "optim": "lomo"}),  # axolotl
        ("adapter:\nlora_r: 64\n", {"lora_rank": None}),
        ("micro_batch_size: 2\ngradient_accumulation_steps: 4\n", {"train_batch": 8}),
        ("max_steps: -1\nkl_weight: 0.001\n", {"max_steps": None, "kl_weight": 0.001}),
        ("learning_rate: 1.0e-5\nunknown: [1, 2]\ndeepspeed: ds.json\n", {"learning_rate": 1e-5, "deepspeed": True}),
    ],
)
def test_configurations_are_read_as_their_tools_read_them(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    settings, read = settings_of(path)
    assert {name: getattr(settings, name) for name in expected} == expected
    assert "unknown" not in read


# As the tools' own examples have them.
TRL = """\
# trl sft --config sft.yaml
model_name_or_path: Qwen/Qwen2.5-0.5B
dataset_name: trl-lib/Capybara
report_to: none
learning_rate: 2.0e-4
lr_scheduler_type: cosine
num_train_epochs: 1
packing: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
gradient_checkpointing: true
eos_token: <|im_end|>
use_peft: true
lora_r: 32
lora_alpha: 16
lora_target_modules: all-linear
env:
  WANDB_PROJECT: sft
"""
AXOLOTL = """\
base_model: NousResearch/Meta-Llama-3-8B
load_in_8bit: true
datasets:
  - path: mhenrichsen/alpaca_2k_test
    type: alpaca
val_set_size: 0.05
sequence_len: 4096
adapter: lora
lora_model_dir:
lora_r: 32
lora_alpha: 16
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
learning_rate: 0.0002
bf16: auto
max_steps:
deepspeed:
special_tokens:
  pad_token: <|end_of_text|>
"""
LLAMA_FACTORY = """\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
deepspeed: examples/deepspeed/ds_z3_config.json

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
bf16: true
resume_from_checkpoint: null
"""


@pytest.mark.parametrize(
    ("text", "rank", "engine"),
    [
        (TRL, 32, None),
        (TRL.replace("use_peft: true\n", ""), None, None),
        (AXOLOTL, 32, "ok"),
        (AXOLOTL.replace("adapter: lora\n", "adapter:\n"), None, "ok"),
        (AXOLOTL.replace("adapter: lora\n", ""), None, "ok"),
        (LLAMA_FACTORY, 8, "warning"),
        (LLAMA_FACTORY.replace("finetuning_type: lora", "finetuning_type: full"), None, "warning"),
    ],
)
def test_whole_configurations_of_the_tools_are_judged(
    program: Program, saved: Any, tmp_path: Path, text: str, rank: int | None, engine: str | None
) -> None:
    (tmp_path / "run.yml").write_text(text)
    result = program("doctor", saved(good_set()), "--json", "--config", tmp_path / "run.yml")
    told = json.loads(result.out)
    found = {finding["code"]: finding for finding in told["findings"]}
    assert result.code == (0 if rank is None else 1)
    assert (found["lora_rank"]["value"] if "lora_rank" in found else None) == rank
    assert ("lora_rank (not given)" in told["not_checked"]) == (rank is None)
    rate = float({TRL: "2e-4", AXOLOTL: "2e-4", LLAMA_FACTORY: "1e-4"}.get(text, found["learning_rate"]["value"]))
    assert found["learning_rate"]["value"] == rate
    assert found["learning_rate"]["level"] == ("warning" if rank is None and rate > 1e-4 else "ok")
    assert (found["early_backward"]["level"] if "early_backward" in found else None) == engine
    assert "datasets" not in told["read"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.yaml", "learning_rate: fast\n", "learning_rate is 'fast'"),
        ("c.yaml", "learning_rate: .nan\n", "learning_rate is nan"),
        ("c.yaml", "lora_r: 1.5\n", "lora_r is 1.5"),
        ("c.yaml", "epochs: 3\n", "no key that is read"),
        ("c.yaml", "a: [\n", "not valid YAML"),
        ("c.json", "{", "not valid JSON"),
        ("c.json", "[1]", "holds no settings"),
        ("training_args.bin", "", "a pickle, which runs code"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused_in_one_sentence(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(IntrospectionError, match=words):
        settings_of(tmp_path / name)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[ProbeSet], Path]:
    return lambda built: built.save(tmp_path / "probes")


def test_the_exit_code_is_1_for_errors_alone(program: Program, saved: Any) -> None:
    folder = saved(probe_set(n=300))
    warned = program("doctor", folder)
    assert warned.code == 0
    assert "warning" in warned.out
    assert "Not checked: " in warned.out
    refused = program("doctor", folder, "--lora-rank", 8)
    assert refused.code == 1
    assert "It cannot work so: 1 error" in refused.out
    assert "LoRA rank is 8" in refused.out
    assert program("doctor", folder, "--effect", 2).code == 2
    assert program("doctor", folder.parent / "none").code == 2


def test_json_says_all_and_stands_alone(program: Program, saved: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-5\nlora_r: 8\n")
    folder = saved(good_set())
    result = program("doctor", folder, "--json", "--config", tmp_path / "c.yaml")
    told = json.loads(result.out)
    assert result.code == 1
    assert told["can_work"] is False
    assert told["read"] == {"learning_rate": "1e-5", "lora_r": 8}
    assert {"level", "code", "value", "unit", "reason", "remedy"} == set(told["findings"][0])
    assert told == json.loads(program("doctor", folder, "--format", "json", "--config", tmp_path / "c.yaml").out)


def test_hostile_text_is_shown_and_not_obeyed(program: Program, saved: Any) -> None:
    evil = "[red]\x1b[2J|<b>\u202e"
    built = probe_set(lambda i: Behavior(evil, evil), options=(evil, "B"), question=lambda i: f"{evil} same")
    folder = saved(ProbeSet(replace(built.manifest, model=evil), built.probes))
    for format_ in ("table", "json", "markdown"):
        out = program("doctor", folder, "--format", format_, width=300).out
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert "[red]" in program("doctor", folder, width=300).out
    assert "<b>" not in program("doctor", folder, "--format", "markdown").out.replace("\\<b\\>", "")


def test_a_set_alone_is_judged_without_torch(saved: Any) -> None:
    prelude = "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None"
    result = run_process("doctor", saved(good_set()), "--json", prelude=prelude)
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["can_work"] is True
