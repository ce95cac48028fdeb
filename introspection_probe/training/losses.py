"""The two terms of the mixed loss, and the places in an example's prompts where they are read.

``w_e * CE(E(M0) | q) + w_e * lambda * KL(p_M0(y | x) || p_Mt(y | x))`` over ``x`` and ``x\\C`` (arXiv:2606.32038).
Where answers are free, y is the response that M0 wrote, up to the length at which it was cut off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from introspection_probe.records import Behavior, Explanation
from introspection_probe.rollout.encoding import EncodedProbe, Ids
from introspection_probe.rollout.tree import Path
from introspection_probe.training.reference import ReferenceRow


@dataclass(frozen=True, slots=True)
class MixExample:
    """A train example ready to be mixed in.

    Attributes:
        id: the example's id.
        paths: ``included``, ``ablated`` and ``question``, each with its answer; logits are read where the next token is
            part of the answer.
        targets: the explanation's tokens with the end token, one for each logit read on ``question``.
        is_free: whether the answers are M0's free responses, of which the KL term reads every token.
    """

    id: str
    paths: tuple[Path, Path, Path]
    targets: Ids
    is_free: bool = False

    @classmethod
    def of(cls, probe: EncodedProbe, behavior: Behavior, label: Explanation, end_token: int) -> MixExample:
        """The example with M0's behaviour as the place of the KL term and ``label`` as the explanation trained."""
        said = probe.explanation_ids[probe.explanations.index(label)]
        included, ablated = (
            probe.free.responses
            if probe.free is not None
            else (
                probe.included_options[probe.options.index(behavior.included)],
                probe.ablated_options[probe.options.index(behavior.ablated)],
            )
        )
        inputs = [
            Path(prompt + answer[:-1], len(prompt) - 1)
            for prompt, answer in ((probe.included, included), (probe.ablated, ablated))
        ]
        question = Path(probe.question + said, len(probe.question) - 1)
        return cls(probe.id, (inputs[0], inputs[1], question), (*said, end_token), probe.free is not None)

    @property
    def behavior_reads(self) -> int:
        """Answer tokens of ``x`` and ``x\\C`` together: terms of the KL."""
        return sum(len(path.ids) - path.read_from for path in self.paths[:2])


def explanation_nll(logits: Tensor, targets: Ids) -> Tensor:
    """Summed negative log-likelihood of an explanation, in nats.

    Args:
        logits: shape (T, V), at the places whose next tokens are ``targets``.
        targets: T token ids, the end token last.
    """
    return functional.cross_entropy(logits.float(), torch.tensor(targets, device=logits.device), reduction="sum")


def reference_kl(logits: Tensor, reference: ReferenceRow) -> Tensor:
    """KL(p_M0 || p_Mt), summed over answer tokens, in nats.

    With the reference's top k tokens and all others as one more outcome, this is the KL of a coarser partition: never
    more than the full KL (data processing inequality), and equal to it when k covers the vocabulary.

    Args:
        logits: Mt's, shape (T, V).
        reference: M0's log-probabilities: top k of T tokens and their tail.
    """
    log_p = logits.float().log_softmax(-1)
    top = reference.tokens.to(logits.device)
    p0_log = reference.log_probs.to(logits.device)
    terms = p0_log.exp() * (p0_log - log_p.gather(-1, top))
    total = terms.sum()
    if top.shape[-1] < logits.shape[-1]:
        tail0_log = reference.tail_log_prob.to(logits.device)
        # Not log(1 - sum of top): that loses every digit when the top k hold nearly all the mass.
        tail_log = log_p.scatter(-1, top, -torch.inf).logsumexp(-1)
        total = total + (tail0_log.exp() * (tail0_log - tail_log)).sum()
    return total
