"""What a benchmark covers. Imports nothing heavy, so that ``--help`` is instant."""

from dataclasses import dataclass, replace

from crystalframer.config import FRAMES, KERNELS, FrameName, KernelName, ModelConfig
from crystalframer.errors import UserError, near_matches
from crystalframer.resolving import MODEL_PRESETS, build_trial

REAL = "real"
"""The size that stands for a batch of real crystals of the data set."""
USABLE: dict[str, tuple[KernelName, ...]] = {"cpu": ("reference", "cpu"), "cuda": ("reference", "triton")}
"""The implementations that make sense on a kind of device."""


@dataclass(frozen=True)
class Settings:
    """Subsets and effort of a benchmark; the defaults are the full table."""

    kernels: tuple[KernelName, ...] = ()
    """Implementations; empty: all that are usable on the device."""
    frames: tuple[FrameName, ...] = FRAMES
    presets: tuple[str, ...] = tuple(MODEL_PRESETS)
    sizes: tuple[str, ...] = ("8", "10", "20", "50", "100", "200", "500", REAL)
    """Atoms per random crystal, or `REAL`."""
    threads: tuple[int, ...] = (1, 2)
    cutoff: float = 7.0
    """Å"""
    atoms: int = 256
    """Atoms per batch, about; a batch has at least two crystals"""
    repeats: int = 5
    """Interleaved rounds after the warm-up"""
    seconds: float = 0.2
    """A quick call is repeated within a round until it has taken this long"""
    device: str = "cpu"
    dataset: str = "sample"
    """Where real crystals come from; its task `formation_energy` must exist"""
    memory: bool = True
    """Whether peak memory is measured, each time in a process of its own"""

    @property
    def variants(self) -> list[tuple[FrameName, str]]:
        """Frames × presets; `none` has no angular encoding to set, so it comes once, with the first preset."""
        return [
            (frame, preset)
            for frame in self.frames
            for preset in (self.presets[:1] if frame == "none" else self.presets)
        ]


QUICK = replace(
    Settings(),
    frames=("max",),
    presets=("default",),
    sizes=("8", REAL),
    threads=(1,),
    cutoff=5.0,
    atoms=24,
    repeats=2,
    seconds=0.0,
)
"""Seconds instead of hours: shows that everything works, its numbers mean little."""


def check(settings: Settings) -> Settings:
    """Return the settings with every list filled in.

    Raises:
        UserError: a name is unknown, a number is out of range, or a kernel does not run on the device.
    """
    for option, got, known in (
        ("--kernels", settings.kernels, [name for name in KERNELS if name != "auto"]),
        ("--frames", settings.frames, FRAMES),
        ("--presets", settings.presets, MODEL_PRESETS),
    ):
        for name in got:
            if name not in known:
                raise UserError(f"{option}: unknown name {name!r}{near_matches(name, known)}")
    for size in settings.sizes:
        if size != REAL and not (size.isdecimal() and int(size) >= 1):
            raise UserError(f"--sizes: got {size!r}, expected numbers of atoms from 1 on, or {REAL!r}")
    for option, number, least in (
        ("--threads", min(settings.threads), 1),
        ("--atoms", settings.atoms, 1),
        ("--repeats", settings.repeats, 1),
    ):
        if number < least:
            raise UserError(f"{option}: got {number}, expected at least {least}")
    if not 0 <= settings.seconds <= 60:
        raise UserError(f"--seconds: got {settings.seconds}, expected 0 to 60")
    kind = settings.device.partition(":")[0]
    if kind not in USABLE:
        raise UserError(f"--device: got {settings.device!r}, expected cpu, cuda or cuda:N")
    for kernel in settings.kernels:
        if kernel not in USABLE[kind]:
            raise UserError(
                f"--kernels: {kernel} has no speed worth measuring on {settings.device!r}; expected "
                f"{' or '.join(USABLE[kind])}, or another --device"
            )
    return replace(settings, kernels=settings.kernels or USABLE[kind])


def model_config(settings: Settings, frame: FrameName, preset: str) -> ModelConfig:
    """Return the full-size model of a variant.

    Raises:
        UserError: the cutoff is not a positive number.
    """
    return build_trial({"model.frame": frame, "model.preset": preset, "model.cutoff": settings.cutoff}).model
