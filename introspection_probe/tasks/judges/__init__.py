"""Judges: whether a generated completion refuses or complies.

    rules                        RuleJudge: offline, by rule; the default
    classifier:PATH              ClassifierJudge: a Hugging Face sequence classifier
    llm:PATH                     LLMJudge: a causal language model on this machine
    endpoint:MODEL@URL           EndpointJudge: any OpenAI-compatible endpoint

These names are what a task's ``judge`` and a probe set's manifest hold; ``get_judge`` makes the judge from its name.
"""

from __future__ import annotations

import os
from pathlib import Path

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Judging
from introspection_probe.tasks.judges import asking
from introspection_probe.tasks.judges.base import VERDICTS, Judge, Judged, Verdict, judge_all
from introspection_probe.tasks.judges.rules import RULES_VERSION, RuleJudge

__all__ = [
    "VERDICTS",
    "Judge",
    "Judged",
    "RuleJudge",
    "Verdict",
    "check_judge",
    "get_judge",
    "judge_all",
    "judging_for",
]


def check_judge(name: str) -> None:
    """Refuse a name that ``get_judge`` does not know, without loading anything.

    Raises:
        IntrospectionError: unknown kind of judge, or one without its path, model or URL.
    """
    kind, _, rest = name.partition(":")
    model, _, url = rest.rpartition("@")
    if name == "rules" or (kind in ("classifier", "llm") and rest) or (kind == "endpoint" and model and url):
        return
    raise IntrospectionError(f"unknown judge {name!r}: choose rules, classifier:PATH, llm:PATH or endpoint:MODEL@URL")


def judging_for(judge: str, max_tokens: int) -> Judging:
    """How answers are judged under that name by this program: for a probe set's manifest. Loads nothing.

    The version is that of the rules, or of the question that a language model is asked. Of a model's weights nothing is
    known but its name.

    Raises:
        IntrospectionError: unknown judge.
    """
    check_judge(judge)
    kind = judge.partition(":")[0]
    version = {"rules": RULES_VERSION, "classifier": "1"}.get(kind, asking.VERSION)
    return Judging(judge, version, max_tokens)


def get_judge(name: str) -> Judge:
    """The judge of that name. An endpoint's verdicts are kept in the user's cache folder, so none is paid for twice.

    Raises:
        IntrospectionError: unknown judge, a model that cannot be loaded, or a URL that is none.
    """
    check_judge(name)
    if name == "rules":
        return RuleJudge()
    kind, _, rest = name.partition(":")
    if kind == "endpoint":
        from introspection_probe.tasks.judges.endpoint import EndpointJudge

        # The last @: a model's name may hold one, and a URL with a password in it is nothing to store.
        model, _, url = rest.rpartition("@")
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return EndpointJudge(url, model, cache=folder / "introspection_probe" / "verdicts.sqlite")
    from introspection_probe.tasks.judges.local import ClassifierJudge, LLMJudge

    return ClassifierJudge(rest) if kind == "classifier" else LLMJudge(rest)
