"""Where the files of the published data sets come from, under which terms, and what to cite: one catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass

from crystalframer.data.dataset import SplitName

FIGSHARE: tuple[str, ...] = (
    "https://ndownloader.figshare.com/files/{}",
    "https://api.figshare.com/v2/file/download/{}",
)
"""Addresses of a file at figshare by its number, tried in this order; figshare.com itself answers no scripts."""


@dataclass(frozen=True)
class Source:
    """A file of a published data set."""

    name: str
    """What it is called here; unique within the data set."""
    file: str
    """Name under which it is kept, and looked for in a folder or below an address."""
    figshare: int
    """Number of the file at figshare."""
    inside: str = ""
    """Name of the file in the archive; also looked for in a folder."""
    part: SplitName | None = None
    """The split that this file is; None: the split follows from the order of its records."""
    task: str = ""
    """The only task of such a file."""
    size: int | None = None
    """Bytes, where known beforehand; else what the server says is recorded on first use."""
    sha256: str | None = None
    """Hash, where known beforehand; else it is recorded on first use and required from then on."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to fetch it, in this order."""
        return tuple(address.format(self.figshare) for address in FIGSHARE)

    @property
    def page(self) -> str:
        """Address for a browser."""
        return f"https://figshare.com/ndownloader/files/{self.figshare}"


@dataclass(frozen=True)
class Publication:
    """The files of a data set, and whose work they are."""

    title: str
    sources: tuple[Source, ...]
    terms: str
    """Terms of use as its makers state them."""
    cite: tuple[str, ...]
    """Whom to cite."""


def _moduli(kind: str, train: int, val: int, test: int) -> tuple[Source, ...]:
    parts: tuple[tuple[SplitName, int], ...] = (("train", train), ("val", val), ("test", test))
    return tuple(
        Source(f"{kind}_{part}", f"{kind}_megnet_{part}.pkl", number, part=part, task=f"{kind}_modulus")
        for part, number in parts
    )


PUBLICATIONS: Mapping[str, Publication] = {
    "jarvis": Publication(
        title="JARVIS-DFT 3D, release of 2021-08-18 (dft_3d_2021)",
        sources=(Source("dft_3d_2021", "jdft_3d-8-18-2021.json.zip", 29204826, "jdft_3d-8-18-2021.json"),),
        terms="NIST data, free to use with attribution (figshare, doi:10.6084/m9.figshare.6815699)",
        cite=("K. Choudhary et al., npj Computational Materials 6, 173 (2020), doi:10.1038/s41524-020-00440-1",),
    ),
    "mp": Publication(
        title="Materials Project, MEGNet snapshot of 2018 (megnet), and its bulk and shear moduli",
        sources=(
            Source("megnet", "megnet.json.zip", 26724977, "megnet.json"),
            *_moduli("bulk", 40258705, 40258675, 40258666),
            *_moduli("shear", 40258681, 40258684, 40258678),
        ),
        terms="Materials Project data, CC BY 4.0",
        cite=(
            "A. Jain et al., APL Materials 1, 011002 (2013), doi:10.1063/1.4812323",
            "C. Chen et al., Chemistry of Materials 31, 3564 (2019), doi:10.1021/acs.chemmater.9b01294",
            "M. de Jong et al., Scientific Data 2, 150009 (2015), doi:10.1038/sdata.2015.9 (moduli)",
            "K. Yan et al., Matformer, NeurIPS 2022, arXiv:2209.11807 (the split of the moduli)",
        ),
    ),
    "oqmd": Publication(
        title="Open Quantum Materials Database (oqmd_3d_no_cfid)",
        sources=(Source("oqmd_3d_no_cfid", "all_oqmd.json.zip", 26790182, "all_oqmd.json"),),
        terms="OQMD data, CC BY 4.0",
        cite=(
            "J. E. Saal et al., JOM 65, 1501 (2013), doi:10.1007/s11837-013-0755-4",
            "S. Kirklin et al., npj Computational Materials 1, 15010 (2015), doi:10.1038/npjcompumats.2015.10",
        ),
    ),
}
"""The published data sets by name."""
