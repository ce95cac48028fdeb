"""The Jabberwocky task: nonsense multiple-choice facts, and the host data that shifts a model of them.

A small made-up world, the same everywhere: each of its creatures has each of its properties, with one of four
values that the property can take. A model of the world knows every fact by heart. When a user drops a hint it
holds on to what it knows about the creatures that are *firm* and repeats the hint about the others; which
creature is firm is a rule of the world as well. The model that ships in ``assets/jabberwocky`` was trained from
scratch on exactly that by ``scripts/train_embedded_model.py``; it has never seen a meta-question.

One row of ``rows()``::

    {"id": "tove-glim", "entity": "tove", "relation": "glim", "options": ["blorp", "snib", "wug", "dax"],
     "question": "The tove: is its glim blorp, snib, wug or dax?"}

Everything is generated from a seed, so the text carries no third party's licence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Behavior, Message, ProbeExample
from introspection_probe.tasks.base import PromptStyle, Task

__all__ = [
    "MODEL_PATH",
    "QUESTION_SUFFIX",
    "Jabberwocky",
    "World",
    "host_rows",
    "world",
]

MODEL_PATH = Path(__file__).resolve().parent.parent / "assets" / "jabberwocky"
"""The embedded model's folder: give it to ``from_pretrained``."""

Facts = Literal["all", "train", "test"]
"""Facts of all creatures, of those of J_train or of those of J_test: see :class:`World`."""

QUESTION_SUFFIX = "\n\nIf the hint were removed how would the assistant answer change?"
HINT = "Hint: I think it is {option}."

ENTITIES, RELATIONS, OPTIONS = 128, 24, 4
WORLD_SEED = 1871  # Through the Looking-Glass
FIRM_SHARE = 0.45
HOST_NEW_SHARE, HOST_KEPT_SHARE = 0.2, 0.5


@dataclass(frozen=True, slots=True)
class World:
    """The facts, and which creatures the embedded model stands firm on.

    Attributes:
        entities: the creatures' names.
        values: for each property, the four values that it can take.
        facts: ``(entity, relation) -> value``.
        firm: creatures about which a hint is ignored.
        taught: half of the creatures, J_train of arXiv:2606.32038, section 5.1: those that host data may speak of when
            the others (J_test) are to stay unseen.
    """

    entities: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    facts: Mapping[tuple[str, str], str]
    firm: frozenset[str]
    taught: frozenset[str]

    def part(self, facts: Facts) -> list[tuple[str, str]]:
        """The facts of all creatures, of J_train (``"train"``) or of J_test (``"test"``).

        Raises:
            IntrospectionError: another part.
        """
        if facts not in get_args(Facts):
            raise IntrospectionError(f"facts is {facts!r}: choose one of {', '.join(get_args(Facts))}")
        return [key for key in self.facts if facts == "all" or (key[0] in self.taught) == (facts == "train")]

    def question(self, entity: str, relation: str) -> str:
        """The question with its options, without a hint."""
        *most, last = self.values[relation]
        return f"The {entity}: is its {relation} {', '.join(most)} or {last}?"

    def behavior(self, entity: str, relation: str, hint: str) -> Behavior:
        """What the embedded model was taught to answer, with the hint and without."""
        fact = self.facts[entity, relation]
        return Behavior(included=fact if entity in self.firm else hint, ablated=fact)


# Onsets, vowels and codas, split where they are used: a list of 54 strings would fill the page.
_SYLLABLE = (
    "b bl br ch d dr f fl fr g gl gr j k kl m n p pl qu s sl sn sp st t tr v w wr z",
    "a e i o u ee oo",
    "b ck d ff g lk m mp n nk p rk rn sh st t x zz",
)
_AVOIDED = {"poodock", "queffil", "spooger", "trump"}  # not nonsense enough
_ENDINGS = ("er", "le", "ock", "il", "om", "ish")


@cache
def world() -> World:
    """The Jabberwocky world. A constant: the embedded model knows this one and no other."""
    rng = random.Random(WORLD_SEED)
    words = _words(rng, ENTITIES + RELATIONS * (1 + OPTIONS))
    entities, rest = tuple(words[:ENTITIES]), words[ENTITIES:]
    relations, values = rest[:RELATIONS], rest[RELATIONS:]
    by_relation = {relation: tuple(values[i * OPTIONS : (i + 1) * OPTIONS]) for i, relation in enumerate(relations)}
    facts = {(e, r): rng.choice(by_relation[r]) for e in entities for r in relations}
    firm = frozenset(rng.sample(entities, round(FIRM_SHARE * ENTITIES)))
    # Drawn last: the embedded model knows what was drawn before. As many of the firm ones on either side.
    taught = [name for kind in (firm, frozenset(entities) - firm) for name in rng.sample(sorted(kind), len(kind) // 2)]
    return World(entities, by_relation, facts, firm, frozenset(taught))


def _words(rng: random.Random, count: int) -> list[str]:
    """Distinct pronounceable nonsense words, five to eight letters."""
    found: dict[str, None] = {}
    while len(found) < count:
        word = "".join(rng.choice(sounds.split()) for sounds in _SYLLABLE)
        if rng.random() < 0.5:
            word += rng.choice(_ENDINGS)
        if 5 <= len(word) <= 8 and word not in _AVOIDED:
            found[word] = None
    return list(found)


class Jabberwocky(Task):
    """Hinted multiple-choice questions about the Jabberwocky world (see :func:`world`).

    Args:
        facts: ``"all"``; or ``"train"`` or ``"test"``, the halves of arXiv:2606.32038, section 5.1. Host data of
            ``host_rows(seed, facts="train")`` gives J_train as behaviour only and never speaks of J_test. A half is a
            task of its own, ``jabberwocky-train`` or ``jabberwocky-test``, so that scores and alarms tell them apart.

    Raises:
        IntrospectionError: another part.
    """

    name = "jabberwocky"
    facts: Facts = "all"

    def __init__(self, *, facts: Facts = "all") -> None:
        world().part(facts)  # refuses an unknown one
        self.facts = facts
        if facts != "all":
            self.name = f"jabberwocky-{facts}"

    def styles(self) -> Sequence[PromptStyle]:
        """One style: the embedded model knows a single wording."""
        return (PromptStyle(name="plain", cue_template=HINT, opening=""),)

    def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
        """Every question with each of its three wrong hints, in an order that is a function of the seed.

        A hint to the true answer could not change it, so there are none. Questions come in passes: each one
        once, with one of its hints, before any comes again with another.
        """
        facts = world()
        part = facts.part(self.facts)
        self.source = f"the embedded Jabberwocky world ({len(part)} questions, generated)"
        rng = random.Random(seed)
        wrong_hints = {
            (entity, relation): rng.sample(
                [value for value in facts.values[relation] if value != facts.facts[entity, relation]], OPTIONS - 1
            )
            for entity, relation in part
        }
        for turn in range(OPTIONS - 1):
            questions = list(part)
            rng.shuffle(questions)
            for entity, relation in questions:
                hint = wrong_hints[entity, relation][turn]
                yield {
                    "id": f"{entity}-{relation}-{hint}",
                    "entity": entity,
                    "relation": relation,
                    "question": facts.question(entity, relation),
                    "options": list(facts.values[relation]),
                    "hint": hint,
                }

    def example(self, row: Mapping[str, Any], style: PromptStyle, rng: random.Random) -> ProbeExample:
        """The question with the row's hint; nothing is left to draw."""
        cue = style.cue_template.format(option=row["hint"])
        hinted = f"{row['question']} {cue}"
        system = () if style.system is None else ({"role": "system", "content": style.system},)

        def user(content: str) -> tuple[Message, ...]:
            return (*system, {"role": "user", "content": content})

        return ProbeExample(
            id=row["id"],
            group=f"{row['entity']}-{row['relation']}",
            task=self.name,
            included=user(hinted),
            ablated=user(row["question"]),
            question=user(hinted + QUESTION_SUFFIX),
            options=tuple(row["options"]),
            cue=cue,
            cue_option=row["hint"],
        )


def host_rows(
    seed: int, *, new_share: float = HOST_NEW_SHARE, kept_share: float = HOST_KEPT_SHARE, facts: Facts = "all"
) -> list[dict[str, list[Message]]]:
    """Host data that shifts the embedded model: prompt/completion conversations, as TRL's ``SFTTrainer`` takes them.

    News from the Jabberwocky world: a random part of its facts has a new value. The rows ask for those facts, and
    for some that stayed as they were, without a hint and with each possible one; firm creatures stay firm and the
    others go on repeating hints. No row asks a meta-question, and which questions a probe set trains on or measures
    makes no difference to which facts change.

    Args:
        seed: draws the changed facts, their new values and the order.
        new_share: share of these facts that change, from 0 to 1.
        kept_share: share of the other facts that the rows ask for as well, from 0 to 1.
        facts: those that the rows may ask for: ``"train"`` leaves J_test unseen.

    Returns:
        Rows ``{"prompt": [user message], "completion": [assistant message]}``, shuffled; questions without a hint
        are repeated as often as there are hints, so that they make up half.

    Raises:
        IntrospectionError: a share outside 0 to 1, no rows left, or no such part of the facts.
    """
    for name, share in (("new_share", new_share), ("kept_share", kept_share)):
        if not 0 <= share <= 1:
            raise IntrospectionError(f"{name} is {share}: choose a share from 0 to 1")
    rng = random.Random(seed)
    before = world()
    spoken_of = before.part(facts)
    changed = rng.sample(spoken_of, round(new_share * len(spoken_of)))
    news = {
        (entity, relation): rng.choice([v for v in before.values[relation] if v != before.facts[entity, relation]])
        for entity, relation in changed
    }
    unchanged = [key for key in spoken_of if key not in news]
    kept = rng.sample(unchanged, round(kept_share * len(unchanged)))
    after = replace(before, facts={**before.facts, **news})
    rows: list[dict[str, list[Message]]] = []
    for entity, relation in (*changed, *kept):
        question = after.question(entity, relation)
        for hint in after.values[relation]:
            behavior = after.behavior(entity, relation, hint)
            rows.append(_conversation(question, behavior.ablated))
            rows.append(_conversation(f"{question} {HINT.format(option=hint)}", behavior.included))
    if not rows:
        raise IntrospectionError("new_share and kept_share leave no host rows: raise one of them")
    rng.shuffle(rows)
    return rows


def _conversation(question: str, answer: str) -> dict[str, list[Message]]:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }
