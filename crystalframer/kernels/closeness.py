"""The mean over ties: in evaluation, an output that does not depend on how the crystal is written down.

Where symmetry leaves a frame open - several neighbours are equally good, a third moment is zero, eigenvalues coincide -
the order of atoms or the cell decides which frame an atom gets by the rule `first`. By the rule `mean` the attention
takes the mean over all of them: its output is linear in the angular moments Σ p T_m(e_t·r̄), so that the moments are
averaged, each axis by itself. Geometry alone decides which frames take part.

A tie is not a matter of yes or no. Frames take part with a weight that is 1 up to a first difference (what the digits
of a structure file leave), falls smoothly, and is 0 from a second one on (`Closeness`). So predictions are continuous
where symmetry breaks.

Which frames, per atom and head, with w the softmax weights:

max, static_local   every first axis × every second axis given it, each with the share of its log-weight's difference
                    from the largest; e3 = e1 × e2.
weighted_pca        both signs of e1 and e2 where their third moments vanish; where two eigenvalues coincide, every
                    direction of the circle around the third axis, where three do, of the sphere. The means of T_m over
                    these have closed forms: with c = n·r̄ for the circle around n and P_k the Legendre polynomials
                    (P_k(1 − 2c²) − P_k−1(1 − 2c²))/2 for m = 2k > 0, on the sphere 1/(1 − m²), 0 for odd m.

The CPU's kernel takes the mean itself (`kernels.cpu_ties`). Any other needs no change: atoms and heads whose frame is
decided get that frame, through the argument `frames`; the open ones get axes of zero length, whose moments are
Σ p T_m(0), and the difference of the mean from these is added.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Closeness:
    """When a difference counts as none, and when as a decision."""

    full: float
    """differences up to this do not count"""
    none: float
    """from this difference on, only the better one counts"""

    def share(self, difference: Tensor) -> Tensor:
        """Return 1 up to `full`, 0 from `none` on, and a cubic between them with no slope at either end."""
        way = ((difference - self.full) / (self.none - self.full)).clamp(0.0, 1.0)
        return 1.0 - way * way * (3.0 - 2.0 * way)


LOG_WEIGHTS = Closeness(2e-3, 6e-2)
"""Of log-weights (`static_local`: of squared distances in Å²) from the largest."""
EIGENVALUES = Closeness(1e-3, 1e-2)
"""Of neighbouring eigenvalues of Σ w r̄ r̄ᵀ, in units of their sum."""
SKEWS = Closeness(1e-3, 1e-2)
"""Of a third moment Σ w (e·r̄)³ from zero, in units of Σ w."""


@dataclass(frozen=True, eq=False)
class Averaged:
    """What the mean over ties asks of a kernel, and what is added to the kernel's output."""

    frames: Tensor
    """(N, H, 3, 3) rows e1, e2, e3 where the frame is decided, zeros where it is open"""
    moments: Tensor
    """(H, N, 3M) mean of Σ p T_m(e_t·r̄) less Σ p T_m(0) where the frame is open, zeros elsewhere"""
