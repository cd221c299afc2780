"""Where maps are fitted and tested: the SAEs of one site or of several, or the texts of one SAE; a stream of tokens for each.

Tokens come in views: some tokens' x with the errors of every member that is looked at there. SAEs of one site share their x, SAEs
of several sites and texts have one each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dmcore.analysis.activations import Chunk
from dmcore.analysis.encode import decoded
from dmcore.analysis.partition import Partition
from dmcore.analysis.reduction_passes import Coded
from dmcore.results.transfer import ALL_TEXTS, MOST_MEMBERS
from dmcore.sources.contexts import Contexts

NO_DOMAIN = -1


@dataclass(frozen=True)
class View:
    """Some kept tokens of some members."""

    place: int
    """Members of one place share their x."""
    members: tuple[int, ...]
    x: Tensor
    """(n_tokens, d_model)"""
    errors: Tensor
    """(n_tokens, len(members), d_model)"""
    contexts: Tensor
    folds: Tensor


class Places(Protocol):
    """Members, and the views of their tokens."""

    @property
    def places(self) -> Sequence[Sequence[int]]:
        """The members of each place."""
        ...

    @property
    def own(self) -> Coded:
        """The first SAE: for sizes."""
        ...

    partition: Partition

    def views(self) -> Iterator[tuple[int, list[View]]]:
        """Chunk by chunk: tokens read, and the views."""
        ...


@dataclass(frozen=True)
class SaePlaces:
    """SAEs, one a member; those that read the same activations are in one place."""

    saes: tuple[Coded, ...]
    sites: tuple[str, ...]
    """The hook of each."""
    partition: Partition
    skip_positions: int
    device: torch.device

    @property
    def own(self) -> Coded:
        """The first."""
        return self.saes[0]

    @property
    def places(self) -> list[list[int]]:
        """By site."""
        return [[i for i, site in enumerate(self.sites) if site == one] for one in dict.fromkeys(self.sites)]

    def views(self) -> Iterator[tuple[int, list[View]]]:
        """A view a site."""
        streams = [decoded(one.acts, one.sae, one.codes, self.device) for one in self.saes]
        for parts in zip(*streams, strict=True):
            chunk = parts[0].chunk
            kept, contexts, folds = kept_of(chunk, self.partition, self.skip_positions, self.device)
            views = []
            for place, members in enumerate(self.places):
                x = parts[members[0]].x[kept]
                errors = torch.stack([parts[i].error[kept].to(x.dtype) for i in members], dim=1)
                views.append(View(place, tuple(members), x, errors, contexts, folds))
            yield parts[0].x.shape[0], views


@dataclass(frozen=True)
class TextPlaces:
    """The texts of one SAE by domain, each a place and a member, and all of them last."""

    sae: Coded
    labels: Labels
    partition: Partition
    skip_positions: int
    device: torch.device

    @property
    def own(self) -> Coded:
        """The SAE."""
        return self.sae

    @property
    def places(self) -> list[list[int]]:
        """One a member."""
        return [[i] for i in range(len(self.labels.names) + 1)]

    def views(self) -> Iterator[tuple[int, list[View]]]:
        """A view a domain that has tokens in the chunk, and one of all tokens."""
        for part in decoded(self.sae.acts, self.sae.sae, self.sae.codes, self.device):
            kept, contexts, folds = kept_of(part.chunk, self.partition, self.skip_positions, self.device)
            x, error = part.x[kept], part.error[kept].to(part.x.dtype)
            domains = self.labels.of(part.chunk, self.device)[kept]
            everyone = torch.ones_like(domains, dtype=torch.bool)
            views = []
            for member in range(len(self.labels.names) + 1):
                mine = everyone if member == len(self.labels.names) else domains == member
                if bool(mine.any()):
                    views.append(View(member, (member,), x[mine], error[mine][:, None], contexts[mine], folds[mine]))
            yield part.x.shape[0], views


def kept_of(chunk: Chunk, partition: Partition, skip: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens of a chunk are kept, with the context and fold of each of those."""
    kept = (chunk.positions(device) >= skip).nonzero().squeeze(1)
    return kept, chunk.contexts(device)[kept], partition.token_folds(chunk, device)[kept]


@dataclass(frozen=True)
class Labels:
    """The domain of each token."""

    names: tuple[str, ...]
    values: np.ndarray
    """(n_contexts,) or (n_contexts, length) numbers into `names`; `NO_DOMAIN` for none of them."""
    n_tokens: tuple[int, ...]
    """Kept tokens of each."""
    n_contexts: tuple[int, ...]
    """Contexts with a kept token of each."""
    said: str = ""
    """What is to be said of texts that are no domain of their own."""

    def of(self, chunk: Chunk, device: torch.device) -> Tensor:
        """(n_tokens,) of a chunk."""
        some = self.values[chunk.first_context : chunk.first_context + chunk.n_contexts]
        each = np.repeat(some, chunk.length) if some.ndim == 1 else some.reshape(-1)
        return torch.from_numpy(np.ascontiguousarray(each)).to(device)


def labels_of(contexts: Contexts, skip: int, least_tokens: int, folds: np.ndarray) -> Labels:
    """The domains of the texts: their own, or, where a folder says the document of each context, its first folder or its name.

    Args:
        contexts: the texts.
        skip: positions that are not kept.
        least_tokens: a domain with fewer in its smallest training set is none; of more than `MOST_MEMBERS` - 1 the largest are.
        folds: (n_contexts,) fold of each context.
    """
    if contexts.domains is not None:
        numbers, names = np.asarray(contexts.domains).astype(np.int64), list(contexts.domain_names)
    elif contexts.documents:
        heads = [document.replace("\\", "/").split("/")[0] for document in contexts.documents]
        names = list(dict.fromkeys(heads))
        numbers = np.array([names.index(head) for head in heads], dtype=np.int64)
    else:
        return Labels((), np.full(contexts.n_contexts, NO_DOMAIN), (), ())
    whole = np.broadcast_to(numbers.reshape(len(numbers), -1), contexts.tokens.shape)[:, skip:]
    sizes = np.bincount(whole.reshape(-1), minlength=len(names))
    n_folds = int(folds.max()) + 1
    in_fold = np.bincount((whole * n_folds + folds[:, None]).reshape(-1), minlength=len(names) * n_folds)
    training = sizes - in_fold.reshape(len(names), n_folds).max(1)
    order = sorted((i for i in range(len(names)) if training[i] >= least_tokens), key=lambda i: -sizes[i])
    chosen = sorted(order[: MOST_MEMBERS - 1])
    new = np.full(len(names), NO_DOMAIN)
    new[chosen] = np.arange(len(chosen))
    seen = tuple(int((whole == i).any(1).sum()) for i in chosen)
    small = int((training < least_tokens).sum())
    said = "" if not small else (
        f"{small:,} of {len(names):,} domains have fewer than {least_tokens:,} training tokens: too few for a map of their own; "
        f"they are in {ALL_TEXTS} alone."
    )  # fmt: skip
    if len(names) - small > len(chosen):
        said += f" Of the others the {len(chosen)} largest are compared."
    return Labels(
        tuple(names[i] for i in chosen), new[numbers], tuple(int(sizes[i]) for i in chosen), seen, said.strip()
    )
