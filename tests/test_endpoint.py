"""Rounds and probe sets through an OpenAI-compatible server: the same as those of a model loaded here."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_program import Program, run_process
from completions_server import Completions, serving
from runs import embedded_model, embedded_tokenizer, encoded, sft, small_probe_set
from transformers import AutoModelForCausalLM

from introspection_probe import IntrospectionCallback
from introspection_probe.endpoint import Endpoint, Interview
from introspection_probe.endpoint.client import Scored
from introspection_probe.endpoint.interview import choose
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Probe, Rollout
from introspection_probe.rollout import Prober, encode_probes

BLOCK_TRAINING = (
    "for name in ('torch', 'transformers', 'accelerate', 'datasets', 'peft', 'trl'): sys.modules[name] = None"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Explains itself, right and wrong."""
    folder = tmp_path_factory.mktemp("trained")
    callback = IntrospectionCallback(
        small_probe_set(), db=folder / "h.db", mix_batch_size=16, probe_at_start=False, probe_at_end=False
    )
    trainer = sft(folder, callbacks=[callback], max_steps=80, learning_rate=3e-3)
    trainer.train()
    return trainer.model.eval()


@pytest.fixture(scope="module")
def untaught() -> Any:
    """Random weights: no answer is among its likeliest tokens."""
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(embedded_model().config).eval()


def server(model: Any, **options: Any) -> Completions:
    return Completions(model, embedded_tokenizer(), **options)


def local(model: Any) -> tuple[Rollout, ...]:
    return Prober(embedded_tokenizer(), encoded(small_probe_set())).measure(model, step=0).rollouts


def remote(url: str, **options: Any) -> tuple[tuple[Rollout, ...], Interview]:
    probes = small_probe_set().split("probe")
    with Endpoint(url, first_wait_s=0.01, **options) as endpoint:
        endpoint.learn(probes[0].rendered.included)
        interview = Interview(endpoint)
        round_ = interview.measure(probes, step=7, answer_prefix=small_probe_set().style.answer_prefix)
    assert (round_.step, round_.path) == (7, "endpoint")
    assert round_.tokens > 0
    return round_.rollouts, interview


@pytest.mark.parametrize("strict", [False, True], ids=["like vLLM", "like OpenAI"])
def test_rounds_through_a_server_equal_local_rounds(trained: Any, strict: bool) -> None:
    with serving(server(trained, strict=strict)) as url:
        rollouts, _ = remote(url)
    assert rollouts == local(trained)
    assert any(rollout.predicted is not None for rollout in rollouts)


def test_answers_that_are_not_among_the_likeliest_are_scored_one_by_one(untaught: Any) -> None:
    with serving(server(untaught, strict=True)) as url:
        rollouts, interview = remote(url)
    assert interview.scored > 0
    assert rollouts == local(untaught)


def test_answers_of_several_tokens_that_begin_alike_are_told_apart(untaught: Any) -> None:
    """Words that the tokenizer does not know whole, with beginnings in common."""
    probes = [
        replace(probe, example=replace(probe.example, options=("zutak", "zutop", "zimak", "quop")))
        for probe in small_probe_set().split("probe")[:8]
    ]
    examples, rendered = [probe.example for probe in probes], [probe.rendered for probe in probes]
    ids = encode_probes(embedded_tokenizer(), examples, rendered)
    assert ids[0].included_options[0][0] == ids[0].included_options[1][0]
    inclined = embedded_model().eval()
    beginnings = sorted({answer[0] for answer in ids[0].included_options})

    def incline(module: Any, inputs: Any, output: Any) -> None:
        output.logits[..., beginnings] += 20

    inclined.register_forward_hook(incline)  # an answer's first token is the likeliest, and does not decide
    for model in (untaught, inclined):
        with serving(server(model)) as url, Endpoint(url) as endpoint:
            found = Interview(endpoint).behaviors(examples, rendered)
        assert found == Prober(embedded_tokenizer(), ids).behaviors(model)


def test_greedy_choice_goes_token_by_token_not_by_the_whole_answer() -> None:
    # "ab" is the likelier whole (-1.0 against -1.1); greedy decoding takes "c" first.
    assert choose([Scored(("a", "b"), (-0.9, -0.1)), Scored(("c", "d"), (-0.5, -0.6))]) == 1
    assert choose([Scored(("a", "b"), (-0.5, -3.0)), Scored(("a", "c"), (-0.5, -2.0)), Scored(("d",), (-0.6,))]) == 1
    with pytest.raises(IntrospectionError, match="begin another's"):
        choose([Scored(("a",), (-0.5,)), Scored(("a", "b"), (-0.5, -1.0))])


def test_requests_carry_several_prompts_and_ask_for_plain_greedy_decoding(trained: Any) -> None:
    asked = server(trained)
    with serving(asked) as url:
        remote(url)
    assert all(request["temperature"] == 0 and request["repetition_penalty"] == 1 for request in asked.requests)
    assert max(len(request["prompt"]) for request in asked.requests if isinstance(request["prompt"], list)) == 8


def test_a_server_that_is_busy_or_drops_connections_is_asked_again(trained: Any) -> None:
    faults = dict(zip((1, 2, 4, 7, 8, 30, 31, 55), (429, None, 503, 500, None, 429, 502, 504), strict=True))
    asked = server(trained, faults=faults)
    with serving(asked) as url:
        rollouts, _ = remote(url)
    assert len(asked.requests) > max(faults)
    # Asked again as before, not as of a server that can do less.
    assert all("repetition_penalty" in request for request in asked.requests)
    assert all(request["max_tokens"] == 0 for request in asked.requests if request.get("echo"))
    assert rollouts == local(trained)


def test_a_server_that_stays_away_is_given_up_in_one_sentence(trained: Any) -> None:
    with (
        serving(server(trained, faults=dict.fromkeys(range(500), 503))) as url,
        pytest.raises(IntrospectionError) as raised,
    ):
        remote(url)
    assert "did not answer in 6 attempts (HTTP 503: " in str(raised.value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(IntrospectionError, match=r"is the server up\?"):
        Endpoint(f"http://127.0.0.1:{port}", first_wait_s=0.01)


def test_the_key_comes_from_the_environment_and_is_never_shown(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("IPROBE_API_KEY", raising=False)
    with serving(server(trained, key="sk-right")) as url:
        with pytest.raises(IntrospectionError, match="set IPROBE_API_KEY"):
            Endpoint(url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        with pytest.raises(IntrospectionError) as raised:
            Endpoint(url)
        assert "sk-wrong" not in str(raised.value)
        monkeypatch.setenv("IPROBE_API_KEY", "sk-right")
        with Endpoint(url) as endpoint:
            assert endpoint.model == "tiny"


def test_one_model_needs_no_name_and_several_do(trained: Any) -> None:
    with serving(server(trained, models=("one", "two"), window=64)) as url:
        with pytest.raises(IntrospectionError, match=r"has 2 models \(one, two\): name one with --model"):
            Endpoint(url)
        with Endpoint(url + "/v1/", "two") as endpoint:
            assert (endpoint.model, endpoint.window) == ("two", 64)
        with Endpoint(url, "three") as endpoint, pytest.raises(IntrospectionError, match="has no such model"):
            endpoint.learn("x")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"echo": False}, "does not score given text"), ({"logprobs": False}, "gives no logprobs with completions")],
)
def test_servers_that_cannot_do_it_are_named_for_what_they_lack(trained: Any, options: Any, sentence: str) -> None:
    with serving(server(trained, **options)) as url, pytest.raises(IntrospectionError, match=sentence):
        remote(url)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "", "http://host:eighty", "http://[::1", "http://host:0"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(IntrospectionError, match="is no endpoint: give one like http://localhost:8000/v1"):
        Endpoint(url)


def test_iprobe_probe_asks_a_server_without_torch(trained: Any, tmp_path: Path) -> None:
    folder = small_probe_set().save(tmp_path / "probes")
    db = tmp_path / "h.db"
    with serving(server(trained, models=("runs/checkpoint-30",))) as url:
        result = run_process("probe", "--endpoint", url, "--probes", folder, "--db", db, prelude=BLOCK_TRAINING)
    assert result.code == 0, result.err
    assert "step 30" in result.out
    with History.open(str(db)) as history:
        run = history.find_run(None)
        assert run.model == "runs/checkpoint-30"
        (stored,) = history.rounds(run.id)
        assert (stored.step, stored.path) == (30, "endpoint")
        assert tuple(history.rollouts(run.id, 30)) == local(trained)


def test_iprobe_build_through_a_server_gives_the_same_probe_set(tmp_path: Path, program: Program) -> None:
    from introspection_probe.tasks.jabberwocky import MODEL_PATH

    options = ("--task", "jabberwocky", "--n", 40, "--seed", 3)
    with serving(server(embedded_model().eval())) as url:
        result = program("build", *options, "--endpoint", url, "--tokenizer", MODEL_PATH, "--out", tmp_path / "remote")
    assert result.code == 0, result.err
    assert program("build", *options, "--model", MODEL_PATH, "--device", "cpu", "--out", tmp_path / "local").code == 0
    built, expected = ProbeSet.load(tmp_path / "remote"), ProbeSet.load(tmp_path / "local")
    assert built.content_hash == expected.content_hash
    assert built.manifest.model == "tiny"


def test_wrong_use_is_one_sentence(tmp_path: Path, program: Program, trained: Any) -> None:
    folder = small_probe_set().save(tmp_path / "probes")
    with serving(server(trained, faults=dict.fromkeys(range(500), 400))) as url:
        cases = (
            (("probe", "--probes", folder), "give --model CHECKPOINT, or --endpoint URL"),
            (("probe", "--probes", folder, "--endpoint", "nowhere"), "is no endpoint"),
            (("probe", "--probes", folder, "--endpoint", url), "refuses the request"),
            (("build", "--task", "jabberwocky", "--out", tmp_path / "x"), "give --model MODEL, or --endpoint URL"),
            (
                ("build", "--task", "jabberwocky", "--out", tmp_path / "x", "--endpoint", url),
                "name it with --tokenizer",
            ),
        )
        for arguments, sentence in cases:
            result = program(*arguments)
            assert result.code == 2, result
            assert sentence in result.err
            assert "\x1b" not in result.err


def test_an_answer_that_the_tokenizer_joins_with_the_prompt_is_refused(trained: Any) -> None:
    probe: Probe = small_probe_set().split("probe")[0]
    word = probe.example.options[0]
    rendered = replace(probe.rendered, included=probe.rendered.included + word[:2])
    example = replace(probe.example, options=(word[2:], "B"))
    joins = pytest.raises(IntrospectionError, match="joins the end of the prompt")
    with serving(server(trained)) as url, Endpoint(url) as endpoint, joins:
        Interview(endpoint).behaviors([example], [rendered])
