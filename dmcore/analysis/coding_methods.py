"""Ways to make a sparse code of an activation with a given dictionary; one's own can be added.

A method takes a `CodingProblem` (activations, dictionary, target L0 per token, the encoder's own codes) to sparse codes:

    def halved(problem: CodingProblem) -> SparseCodes:
        return SparseCodes(problem.own.offsets, problem.own.latents, problem.own.values / 2)

    register_method("halved", "Half of the encoder's", "our lab", halved, version="1")

Results are kept under a method's name and version: give another version when its code changes, or the old ones are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmcore.errors import DataError, SpecError
from dmcore.math.atoms import Atoms
from dmcore.math.matching_pursuit import matching_pursuit, orthogonal_matching_pursuit
from dmcore.math.nnls import nnls_on_support
from dmcore.math.pursuit import gradient_pursuit
from dmcore.math.sparse_codes import SparseCodes

OWN = "encoder"
"""The name of the baseline."""


class CodedDictionary(Protocol):
    """What is needed of an SAE here; those of `dmcore.sources` have it."""

    d_sae: int

    def encode(self, x: Tensor) -> SparseCodes:
        """Its own codes."""
        ...

    def decoder_rows(self, first: int, last: int) -> Tensor | None:
        """(last - first, d_model) what a unit of each latent adds; None where there is no such row."""
        ...

    @property
    def decoder_bias(self) -> Tensor | None:
        """(d_model,) the reconstruction where no latent is active; None where there are no rows."""
        ...


class DictionaryAtoms:
    """An SAE's decoder, prepared once for all methods and all tokens.

    Args:
        sae: the SAE; one that is read from disk in slices is read in slices at every step of a pursuit.
        like: some activations, for dtype, device and width.

    Raises:
        DataError: its reconstruction is no sum of decoder rows.
    """

    def __init__(self, sae: CodedDictionary, like: Float[Tensor, "n_tokens d_model"]) -> None:
        bias = sae.decoder_bias
        slice_rows = getattr(sae, "latents_per_slice", None)
        decoder = sae if slice_rows else sae.decoder_rows(0, sae.d_sae)
        if bias is None or decoder is None:
            raise DataError(
                "This SAE's reconstruction is not a sum of decoder rows, so other codes cannot be looked for: "
                "choose an SAE without a normalisation or decoder of its own."
            )
        like = like[:0] if like.dtype == torch.float64 else like[:0].float()
        self.atoms = Atoms(decoder, like, rows_per_slab=slice_rows) if slice_rows else Atoms(decoder, like)
        self.bias = bias.to(like)


@dataclass(frozen=True)
class CodingProblem:
    """Some tokens that are to be coded."""

    x: Float[Tensor, "n_tokens d_model"]
    """Activations."""
    dictionary: DictionaryAtoms
    targets: Int[Tensor, " n_tokens"]
    """Atoms that each token may have."""
    own: SparseCodes
    """The encoder's own codes."""

    @staticmethod
    def of(
        x: Tensor, sae: CodedDictionary, dictionary: DictionaryAtoms, targets: Tensor | None = None
    ) -> CodingProblem:
        """The problem of coding tokens with as many atoms as the encoder has active; or with other targets."""
        own = sae.encode(x)
        return CodingProblem(x, dictionary, own.l0 if targets is None else targets, own)


@runtime_checkable
class CodingMethod(Protocol):
    """A way to make codes; one with an attribute `version` is made again where that is another."""

    @property
    def name(self) -> str:
        """By which a study asks for it."""
        ...

    @property
    def title(self) -> str:
        """What a page calls it."""
        ...

    @property
    def source(self) -> str:
        """Whose it is, as a citation."""
        ...

    def code(self, problem: CodingProblem) -> SparseCodes:
        """The codes of all tokens of the problem."""
        ...


@dataclass(frozen=True)
class Method:
    """A coding method that is a function."""

    name: str
    title: str
    source: str
    function: Callable[[CodingProblem], SparseCodes]
    version: str = ""
    """Of its code; results are kept under it."""

    def code(self, problem: CodingProblem) -> SparseCodes:
        """The codes of all tokens of the problem.

        Raises:
            DataError: the function gave codes of other tokens, of latents that do not exist, or NaN.
        """
        codes = self.function(problem)
        _check(codes, problem, self.name)
        return codes


def _check(codes: SparseCodes, problem: CodingProblem, name: str) -> None:
    n_tokens, d_sae = problem.x.shape[0], problem.dictionary.atoms.d_sae
    if codes.offsets.numel() != n_tokens + 1:
        raise DataError(
            f"{name} gave codes of {codes.offsets.numel() - 1} tokens for {n_tokens}: give one row a token."
        )
    if codes.latents.numel() and not 0 <= int(codes.latents.min()) <= int(codes.latents.max()) < d_sae:
        raise DataError(f"{name} gave latents that are not among the SAE's {d_sae}: number them from 0.")
    if not bool(torch.isfinite(codes.values).all()):
        raise DataError(f"{name} gave NaN or infinity as a value: check it on these activations.")


_METHODS: dict[str, CodingMethod] = {}


def register_method(
    name: str,
    title: str,
    source: str,
    function: Callable[[CodingProblem], SparseCodes],
    *,
    version: str = "",
    replace: bool = False,
) -> CodingMethod:
    """Make a function a coding method.

    Args:
        name: by which a study asks for it.
        title: what a page calls it.
        source: whose it is, as a citation.
        function: gives the codes of all tokens of a problem.
        version: of the function; results of another version are not shown for this one.
        replace: whether it may take the place of one of that name.

    Raises:
        SpecError: the name is taken.
    """
    if name in _METHODS and not replace:
        raise SpecError(f"There is a coding method {name!r} already: choose another name, or say replace=True.")
    _METHODS[name] = Method(name, title, source, function, version)
    return _METHODS[name]


def coding_methods() -> tuple[CodingMethod, ...]:
    """All methods, the encoder's own first, in the order in which they were registered."""
    return tuple(_METHODS.values())


def coding_method(name: str) -> CodingMethod:
    """The method of a name.

    Raises:
        SpecError: there is none.
    """
    if name not in _METHODS:
        raise SpecError(f"There is no coding method {name!r}: choose one of {', '.join(_METHODS)}, or register it.")
    return _METHODS[name]


def version_of(method: CodingMethod) -> str:
    """The version of a method; empty where it has none."""
    return str(getattr(method, "version", ""))


def _gradient(problem: CodingProblem, *, again: bool, refill: bool) -> SparseCodes:
    given = problem.dictionary
    return gradient_pursuit(problem.x, given.atoms, problem.targets, bias=given.bias, again=again, refill=refill)


def _matching(problem: CodingProblem) -> SparseCodes:
    return matching_pursuit(problem.x, problem.dictionary.atoms, problem.targets, bias=problem.dictionary.bias)


def _orthogonal(problem: CodingProblem) -> SparseCodes:
    return orthogonal_matching_pursuit(
        problem.x, problem.dictionary.atoms, problem.targets, bias=problem.dictionary.bias
    )


def _least_squares(problem: CodingProblem) -> SparseCodes:
    return nnls_on_support(problem.x, problem.dictionary.atoms, problem.own, bias=problem.dictionary.bias)


register_method(OWN, "The encoder's own", "the SAE", lambda problem: problem.own)
register_method(
    "gradient_pursuit",
    "Gradient pursuit",
    "Engels et al. 2024, section 5.1, as their code has it; Blumensath and Davies 2008",
    lambda problem: _gradient(problem, again=True, refill=False),
)
register_method(
    "gradient_pursuit_refilled",
    "Gradient pursuit, refilled",
    "Engels et al. 2024, with atoms in place of those that the clamp removes",
    lambda problem: _gradient(problem, again=False, refill=True),
)
register_method("matching_pursuit", "Matching pursuit", "Mallat and Zhang 1993", _matching)
register_method(
    "orthogonal_matching_pursuit",
    "Non-negative orthogonal matching pursuit",
    "Pati et al. 1993; Bruckstein et al. 2008",
    _orthogonal,
)
register_method(
    "nnls_on_support",
    "Non-negative least squares on the encoder's support",
    "Lawson and Hanson 1974; Kim and Park 2011",
    _least_squares,
)
