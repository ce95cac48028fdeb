"""An example's prompts and answers as tree paths, and greedy decoding read off the tree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from introspection_probe.rollout.encoding import EncodedProbe, Ids
from introspection_probe.rollout.tree import Path, PromptTree, build_tree


@dataclass(frozen=True, slots=True)
class Trie:
    """The answers that may follow a prompt: for each sequence so far, the tokens that may come next."""

    prompt: Ids
    answers: tuple[Ids, ...]

    def followers(self, so_far: Ids) -> list[int]:
        """Tokens that continue ``so_far`` towards at least one answer, in the answers' order."""
        depth = len(so_far)
        seen: dict[int, None] = {}
        for answer in self.answers:
            if len(answer) > depth and answer[:depth] == so_far:
                seen.setdefault(answer[depth])
        return list(seen)

    def paths(self, *, read_end: bool) -> list[Path]:
        """Tree paths whose reads suffice to decode an answer; with ``read_end`` also whether the text ends there."""
        first = len(self.prompt) - 1
        found = []
        for answer in self.answers:
            ids = self.prompt + (answer if read_end else answer[:-1])
            found.append(Path(ids, first))
        return found


@dataclass(frozen=True, slots=True)
class ProbeTree:
    """The packed tree of one example's three prompts, and where each sequence of tokens stands in it."""

    probe: EncodedProbe
    tree: PromptTree
    column_of: Mapping[tuple[str, Ids], int]
    tries: Mapping[str, Trie]

    @property
    def first_read(self) -> int:
        """The first column whose logits are kept."""
        return len(self.tree) - self.tree.reads


def tries_of(probe: EncodedProbe, *, explain: bool = True) -> dict[str, Trie]:
    """The tries of an example by prompt: ``included``, ``ablated`` (unless answers are free) and, with ``explain``,
    ``question``."""
    tries = {}
    if probe.free is None:
        tries["included"] = Trie(probe.included, probe.included_options)
        tries["ablated"] = Trie(probe.ablated, probe.ablated_options)
    if explain:
        tries["question"] = Trie(probe.question, probe.explanation_ids)
    return tries


def probe_tree(probe: EncodedProbe, *, explain: bool = True) -> ProbeTree:
    """Pack an example: both inputs with their options and, with ``explain``, the question with every explanation."""
    tries = tries_of(probe, explain=explain)
    paths: list[Path] = []
    names: list[str] = []
    for name, trie in tries.items():
        for path in trie.paths(read_end=name == "question"):
            paths.append(path)
            names.append(name)
    tree = build_tree(paths)
    column_of: dict[tuple[str, Ids], int] = {}
    for name, path, columns in zip(names, paths, tree.columns, strict=True):
        start = len(tries[name].prompt)
        for end in range(start, len(path.ids) + 1):
            column_of[name, path.ids[start:end]] = int(columns[end - 1])
    return ProbeTree(probe, tree, column_of, tries)


def constrained_answer(trie: Trie, best: Callable[[Ids, Sequence[int]], int]) -> int:
    """Greedy decoding within the answer set: the index of the answer chosen.

    Args:
        best: given the answer tokens so far and the tokens allowed next, the most likely of the allowed.
    """
    so_far: Ids = ()
    while so_far not in trie.answers:
        so_far = (*so_far, best(so_far, trie.followers(so_far)))
    return trie.answers.index(so_far)


def greedy_walk(trie: Trie, argmax: Callable[[Ids], int], end_tokens: Collection[int]) -> tuple[Ids, bool]:
    """Unconstrained greedy decoding for as long as it stays in the trie.

    Args:
        argmax: the most likely next token after the answer tokens so far.
        end_tokens: tokens that end generation.

    Returns:
        The tokens read and whether decoding is complete (an answer, then an end token, or an end token anywhere). When
        it is not, real generation has to go on after those tokens.
    """
    so_far: Ids = ()
    while True:
        token = argmax(so_far)
        if token in end_tokens:
            return so_far, True
        if token not in trie.followers(so_far):
            return so_far, False
        so_far = (*so_far, token)
