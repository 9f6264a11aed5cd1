"""How far two models are apart, position by position, and what that amounts to.

Definitions. `P` is the original's next-token distribution and `Q` the artifact's, both from the same tokens.
KL is `sum P (log P - log Q)` in nats over the whole vocabulary, in float64 (float32 would read 8e-8 of pure noise).
`top1_agreement` is the share of positions where both have the same most likely token; `top1_agreement_clear` leaves
out positions where the original's two most likely tokens are closer than a fixed gap in log-probability.
`top5_agreement` is the share of positions where the artifact's most likely token is among the original's five.
Perplexity is `exp` of the mean negative log-probability of the token that really follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import numpy as np

from inference_pio.errors import BadInputError
from inference_pio.verify.scratch import spans

ReadLogits = Callable[[int, int], np.ndarray]
"""(first position, last position + 1) -> float32 logits [positions, vocabulary]."""

CompareRows = Callable[[int, int, np.ndarray, np.ndarray], "PositionTable"]
"""(first position, last position + 1, candidate's logits, next tokens) -> their comparison with the original."""


@dataclass(frozen=True)
class PositionTable:
    """What is known about every position; all arrays have one entry per position.

    `kl` nats, `reference_top` and `candidate_top` token ids, `gap` log-probability between the original's two most
    likely tokens, `in_top5` bool, `reference_nll` and `candidate_nll` nats, `logit_difference` largest absolute
    difference of any logit (NaN where the original's logits are not at hand).
    """

    kl: np.ndarray
    reference_top: np.ndarray
    candidate_top: np.ndarray
    gap: np.ndarray
    in_top5: np.ndarray
    reference_nll: np.ndarray
    candidate_nll: np.ndarray
    logit_difference: np.ndarray

    @property
    def positions(self) -> int:
        return len(self.kl)

    @property
    def agrees(self) -> np.ndarray:
        """bool [positions]: both models prefer the same token."""
        return self.reference_top == self.candidate_top


@dataclass(frozen=True)
class Metrics:
    """The figures that gates judge; None where one could not be measured, infinite where a model is broken."""

    kl_mean: float
    kl_p99: float
    kl_max: float
    top1_agreement: float
    top1_agreement_clear: float | None
    top5_agreement: float
    perplexity: float
    reference_perplexity: float
    perplexity_ratio: float
    max_logit_difference: float | None
    positions: int
    clear_positions: int

    def to_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def compare(
    compare_rows: CompareRows,
    candidate: ReadLogits,
    targets: np.ndarray,
    vocabulary: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PositionTable:
    """Compare a candidate's logits with the original's, a few positions at a time.

    `targets` int64 [positions] is the token that really follows each position; `progress` hears of positions.
    """
    chunks = []
    for start, stop in spans(len(targets), vocabulary):
        chunks.append(compare_rows(start, stop, candidate(start, stop), targets[start:stop]))
        progress(stop, len(targets))
    return PositionTable(
        **{f.name: np.concatenate([getattr(chunk, f.name) for chunk in chunks]) for f in fields(PositionTable)}
    )


def against_logits(reference: ReadLogits) -> CompareRows:
    """A comparison with a model whose full logits can be read."""

    def rows(start: int, stop: int, candidate_PV: np.ndarray, targets_P: np.ndarray) -> PositionTable:
        return compare_rows(reference(start, stop), candidate_PV, targets_P)

    return rows


def must_be_finite(reference: ReadLogits) -> ReadLogits:
    """The original's logits; reading them raises BadInputError when they are not finite."""

    def rows(start: int, stop: int) -> np.ndarray:
        logits_PV = reference(start, stop)
        if not np.isfinite(logits_PV).all():
            raise BadInputError(
                "the original model itself computes logits that are NaN or infinite: check the checkpoint's weights"
            )
        return logits_PV

    return rows


def compare_rows(reference_PV: np.ndarray, candidate_PV: np.ndarray, targets_P: np.ndarray) -> PositionTable:
    """Compare float32 logits [positions, vocabulary] of both models; KL is infinite where any is not finite."""
    row = np.arange(len(targets_P))
    candidate_top = candidate_PV.argmax(axis=1)
    best = top_values(reference_PV, 5)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(reference_PV - candidate_PV).max(axis=1).astype(np.float64)
        p, q = log_softmax(reference_PV), log_softmax(candidate_PV)
        candidate_nll = or_infinite(-q[row, targets_P])
        reference_nll = or_infinite(-p[row, targets_P])
        np.subtract(p, q, out=q)
        q *= np.exp(p, out=p)
        kl = or_infinite(q.sum(axis=1))
        gap = best[:, 0] - best[:, 1] if best.shape[1] > 1 else np.full(len(row), np.inf)
    return PositionTable(
        kl=np.maximum(kl, 0.0),
        reference_top=reference_PV.argmax(axis=1),
        candidate_top=candidate_top,
        gap=gap,
        in_top5=reference_PV[row, candidate_top] >= best[:, -1],
        reference_nll=reference_nll,
        candidate_nll=candidate_nll,
        logit_difference=or_infinite(difference),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64 of float32 logits [positions, vocabulary]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def top_values(values: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest values of each row in falling order, float64, without sorting the row."""
    count = min(count, values.shape[1])
    largest = np.partition(values, values.shape[1] - count, axis=1)[:, -count:]
    return np.sort(largest.astype(np.float64), axis=1)[:, ::-1]


def or_infinite(values: np.ndarray) -> np.ndarray:
    """`values` with NaN replaced by infinity, so that a broken model can never look close."""
    return np.where(np.isnan(values), np.inf, values)


def summarise(table: PositionTable, clear_gap: float) -> Metrics:
    """The figures of a comparison; `clear_gap` is in nats of log-probability."""
    clear = table.gap >= clear_gap
    with np.errstate(over="ignore", invalid="ignore"):
        perplexity = np.exp(table.candidate_nll.mean())
        reference_perplexity = np.exp(table.reference_nll.mean())
        # Not perplexity / reference_perplexity, which overflows where the ratio itself does not.
        ratio = np.exp(table.candidate_nll.mean() - table.reference_nll.mean())
    difference = table.logit_difference.max()
    return Metrics(
        kl_mean=float(table.kl.mean()),
        kl_p99=float(np.quantile(table.kl, 0.99, method="higher")),
        kl_max=float(table.kl.max()),
        top1_agreement=float(table.agrees.mean()),
        top1_agreement_clear=float(table.agrees[clear].mean()) if clear.any() else None,
        top5_agreement=float(table.in_top5.mean()),
        perplexity=float(perplexity),
        reference_perplexity=float(reference_perplexity),
        perplexity_ratio=float(ratio),
        max_logit_difference=None if np.isnan(difference) else float(difference),
        positions=table.positions,
        clear_positions=int(clear.sum()),
    )
