"""CrystalFramer and, with the frame `none`, its baseline Crystalformer (ICLR 2025, ICLR 2024)."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from crystalframer.config import KernelName, ModelConfig, Ties
from crystalframer.data.batch import CrystalBatch
from crystalframer.errors import UserError
from crystalframer.kernels import AttentionKernel, get_kernel, resolve_kernel
from crystalframer.kernels.noise import TieSeed, level_seed
from crystalframer.nn.attention import Block


class CrystalFramer(nn.Module):
    """A transformer over a crystal's atoms whose attention builds a local frame per atom, head and block.

    Element embedding, `num_blocks` blocks of attention and feed-forward network, mean pooling over the crystal's
    atoms, and a two-layer head. Call `calibrate` once on the first training batch before using it; the constants it
    measures are part of the state dict.

    Args:
        config: architecture, frame and encodings.
        kernel: attention implementation; `auto` picks by device, wherever the model is moved. The attribute of this
            name, and `ties`, can be changed any time and are not state.
        generator: source of the initial weights; the global one if None.
    """

    def __init__(
        self, config: ModelConfig, *, kernel: KernelName = "auto", generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.num_elements, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.head_in = nn.Linear(config.width, config.width)
        self.head_out = nn.Linear(config.width, config.num_targets)
        _initialise(self, generator)
        self.kernel: KernelName = kernel
        self.ties: Ties = config.ties
        self._was_calibrated = False
        self.register_load_state_dict_post_hook(_forget_calibration)  # type: ignore[no-untyped-call]

    def forward(
        self, batch: CrystalBatch, tie_seed: TieSeed | None = None, frames: list[Tensor] | None = None
    ) -> Tensor:
        """Predict.

        Args:
            batch: S crystals prepared with this model's cutoff.
            tie_seed: training: breaks ties of symmetric crystals at random; None: deterministic evaluation.
            frames: per block (N, H, 3, 3) frames to use instead of the model's own, for tests and pictures.

        Returns:
            (S, num_targets) in standardised units.

        Raises:
            RuntimeError: the model was not calibrated.
            UserError: an element beyond `num_elements`, or a batch made with another cutoff.
        """
        self._require_calibrated()
        x = self._embed(batch)
        kernel = self._attend
        for level, block in enumerate(self.levels):
            seed = None if tie_seed is None else level_seed(tie_seed, level)
            x = block(x, batch, kernel, seed, None if frames is None else frames[level])
        predicted: Tensor = self.head_out(torch.relu(self.head_in(self._pool(x, batch))))
        return predicted.to(x.dtype)

    @torch.no_grad()
    def calibrate(self, batch: CrystalBatch) -> None:
        """Measure the σ normalisation of every block on one batch, block after block, and keep it for good.

        Raises:
            ValueError: the batch is too uniform to measure a standard deviation.
        """
        x = self._embed(batch)
        kernel = self._attend
        for block in self.levels:
            block.attention.calibrate(x)
            x = block(x, batch, kernel)

    @property
    def kernel_name(self) -> KernelName:
        """The attention implementation in use: `kernel`, with `auto` resolved for the device the parameters are on.

        Raises:
            UserError: it does not run there.
        """
        return resolve_kernel(self.kernel, self.embedding.weight.device)

    @property
    def _attend(self) -> AttentionKernel:
        return get_kernel(self.kernel_name, self.ties)

    @property
    def is_calibrated(self) -> bool:
        """Whether every block knows its σ normalisation."""
        return all(not bool(block.attention.alpha_std.isnan()) for block in self.levels)

    @property
    def levels(self) -> list[Block]:
        """The blocks, from input to output."""
        return cast(list[Block], list(self.blocks))

    @torch.no_grad()
    def atom_states(self, batch: CrystalBatch) -> list[Tensor]:
        """Return the atom states entering each block and leaving the last, num_blocks + 1 tensors (N, width)."""
        self._require_calibrated()
        states = [self._embed(batch)]
        for block in self.levels:
            states.append(block(states[-1], batch, self._attend))
        return states

    def _require_calibrated(self) -> None:
        """Ask the device once, not in every pass: it would have to finish first."""
        if self._was_calibrated:
            return
        if not self.is_calibrated:
            raise RuntimeError("the model is not calibrated: call calibrate(batch) on the first training batch once")
        self._was_calibrated = True

    def _embed(self, batch: CrystalBatch) -> Tensor:
        if batch.cutoff != self.config.cutoff:
            raise UserError(
                f"the batch was made with a cutoff of {batch.cutoff} Å, but the model's is {self.config.cutoff} Å; "
                "make the batch with the model's cutoff"
            )
        largest = batch.largest_atomic_number
        if largest > self.config.num_elements:
            raise UserError(
                f"the batch has an atom of atomic number {largest}; this model knows the elements 1 to "
                f"{self.config.num_elements}; leave the crystal out or train with a larger model.num_elements"
            )
        if batch.species is not None and batch.occupancies is not None:
            vectors: Tensor = self.embedding(batch.species - 1)
            return (vectors * batch.occupancies[..., None]).sum(dim=1)
        embedded: Tensor = self.embedding(batch.atomic_numbers - 1)
        return embedded

    def _pool(self, x: Tensor, batch: CrystalBatch) -> Tensor:
        """Average atom states over each crystal: (N, width) to (S, width)."""
        total = torch.segment_reduce(x, "sum", offsets=batch.offsets, axis=0, unsafe=True)
        return total / (batch.offsets[1:] - batch.offsets[:-1])[:, None]


def _forget_calibration(model: nn.Module, incompatible_keys: object) -> None:
    """Look again after a state dict was loaded."""
    model._was_calibrated = False  # type: ignore[assignment]


def count_parameters(model: nn.Module) -> int:
    """Count parameters as published: the weights, and three frozen scalars per block (853,517 / 951,821 / 878,093)."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def _initialise(model: CrystalFramer, generator: torch.Generator | None = None) -> None:
    """Draw every weight in a fixed order from one generator: T-Fixup (Huang et al., ICML 2020).

    The blocks then train without normalisation or warm-up.

    With L blocks: embedding normal with standard deviation width^-½·(9L)^-¼; value, output and feed-forward weights
    Xavier uniform × 0.67·L^-¼; query, key and σ weights Xavier uniform; W_0 and each W_t Xavier uniform with gain
    1/√(basis functions) on the weight viewed as [H·d, basis]; biases of the blocks zero; the head as torch's Linear.
    """
    config = model.config
    fixup = 0.67 * config.num_blocks**-0.25
    nn.init.normal_(
        model.embedding.weight, std=config.width**-0.5 * (9 * config.num_blocks) ** -0.25, generator=generator
    )
    for block in model.levels:
        attention = block.attention
        for linear, gain in ((attention.query, 1.0), (attention.key, 1.0), (attention.value, fixup)):
            _xavier_linear(linear, gain, generator)
        nn.init.xavier_uniform_(attention.sigma_weight, generator=generator)
        _xavier_projection(attention.w_dist, config.num_dist, generator)
        if attention.w_angl is not None:
            for projection in attention.w_angl:
                _xavier_projection(projection, config.num_angl, generator)
        for linear in (attention.out, block.ffn_in, block.ffn_out):
            _xavier_linear(linear, fixup, generator)
    for linear in (model.head_in, model.head_out):
        bound = 1 / math.sqrt(linear.in_features)
        nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
        nn.init.uniform_(linear.bias, -bound, bound, generator=generator)


def _xavier_linear(linear: nn.Linear, gain: float, generator: torch.Generator | None) -> None:
    nn.init.xavier_uniform_(linear.weight, gain=gain, generator=generator)
    nn.init.zeros_(linear.bias)


def _xavier_projection(weight: Tensor, num_basis: int, generator: torch.Generator | None) -> None:
    """Initialise (H, d, basis) as the matrix [H·d, basis]."""
    nn.init.xavier_uniform_(weight.view(-1, num_basis), gain=num_basis**-0.5, generator=generator)
