"""The published data sets: all that is known of each, said once.

Settings, registry, preparation, model cards, submissions and estimates take what they need from `PUBLISHED`. The module
lies beside the rooms and imports nothing, so that `resolving.py` can take its presets from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FIGSHARE: tuple[str, ...] = (
    "https://ndownloader.figshare.com/files/{}",
    "https://api.figshare.com/v2/file/download/{}",
)
"""Addresses of a file at figshare by its number, tried in this order; figshare.com itself answers no scripts."""


@dataclass(frozen=True)
class PublishedTask:
    """A target property of a published data set."""

    unit: str
    counts: tuple[int, int, int]
    """Crystals with a target in the training, validation and test splits."""
    record_field: str = ""
    """Field of a record of the main file that holds the target; empty where it has files of its own."""
    ends: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """First and last id of the splits of which they are known, by split."""
    different: int | None = None
    """Different ids in the test split, where some stand there twice."""
    rounded: bool = False
    """Whether the counts are round numbers that were published, and not what the common rule, 80/10/10, gives."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """The counts as text."""
        return tuple(map(str, self.counts))

    def coverage(self, train: int, test: int) -> str:
        """Say how many of its training and test crystals a part of it has."""
        tested = self.different or self.counts[2]
        return f"{train:,} of {self.counts[0]:,} training, {test:,} of {tested:,} test crystals"

    def same_test_set(self, test: int) -> bool:
        """Return whether so many test crystals are the published test set, or all but 1 % of it."""
        return abs(test - (self.different or self.counts[2])) <= 0.01 * self.counts[2]


@dataclass(frozen=True)
class PublishedFile:
    """A file of a published data set."""

    name: str
    """What it is called in a store's manifest; unique within the data set."""
    file: str
    """Name under which it is kept, and looked for in a folder or below an address."""
    figshare: int
    """Number of the file at figshare."""
    inside: str = ""
    """Name of the file in the archive; also looked for in a folder."""
    part: str | None = None
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
class PublishedDataset:
    """A data set, its files, and whose work it is."""

    title: str
    licence: str
    """Terms of use as its makers state them."""
    cite: tuple[str, ...]
    """Whom to cite."""
    tasks: Mapping[str, PublishedTask]
    files: tuple[PublishedFile, ...] = ()
    """The main file first; none where the data set is part of the package."""
    records: int = 0
    """Records in the main file, one a crystal."""
    id_fields: tuple[str, ...] = ()
    """Field of a record that holds its id: the published name first, then those of common copies."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Published training, as differences to `TrainConfig`; its preset is called as the data set."""
    leaderboard: str = ""
    """Name of the data set on the JARVIS leaderboard, where properties are called as in the records."""

    @property
    def units(self) -> dict[str, str]:
        """Unit by task."""
        return {name: task.unit for name, task in self.tasks.items()}

    @property
    def fields(self) -> dict[str, str]:
        """Field of a record of the main file that holds the target, by task."""
        return {name: task.record_field for name, task in self.tasks.items() if task.record_field}


_JARVIS_ENDS = {
    "train": ("JVASP-21450", "JVASP-28366"),
    "val": ("JVASP-68836", "JVASP-5650"),
    "test": ("JVASP-38636", "JVASP-90134"),
}
_MP_ENDS = {"train": ("mp-569112", "mvc-6917"), "val": ("mp-558851", "mp-542332"), "test": ("mp-554286", "mp-17481")}
_OQMD_ENDS = {"train": ("838046", "368371"), "val": ("897017", "764365"), "test": ("820496", "452980")}


def _moduli(kind: str, train: int, val: int, test: int) -> tuple[PublishedFile, ...]:
    """Return the three files of a modulus by their numbers at figshare."""
    return tuple(
        PublishedFile(f"{kind}_{part}", f"{kind}_megnet_{part}.pkl", number, part=part, task=f"{kind}_modulus")
        for part, number in (("train", train), ("val", val), ("test", test))
    )


PUBLISHED: Mapping[str, PublishedDataset] = {
    "sample": PublishedDataset(
        title="Materials Project data of three published sets, part of the package",
        licence="Materials Project data, CC BY 4.0 (crystalframer/data/embedded/ATTRIBUTION.md)",
        cite=("A. Jain et al., APL Materials 1, 011002 (2013), doi:10.1063/1.4812323, and those of ATTRIBUTION.md",),
        tasks={
            "formation_energy": PublishedTask("eV/atom", (3104, 395, 439)),
            "e_hull": PublishedTask("eV/atom", (3104, 395, 439)),
            "bulk_modulus": PublishedTask("log10(GPa)", (947, 125, 109)),
            "shear_modulus": PublishedTask("log10(GPa)", (947, 125, 109)),
            "bandgap": PublishedTask("eV", (845, 100, 111)),
        },
    ),
    "jarvis": PublishedDataset(
        title="JARVIS-DFT 3D, release of 2021-08-18 (dft_3d_2021)",
        licence="NIST data, free to use with attribution (figshare, doi:10.6084/m9.figshare.6815699)",
        cite=("K. Choudhary et al., npj Computational Materials 6, 173 (2020), doi:10.1038/s41524-020-00440-1",),
        tasks={
            "formation_energy": PublishedTask("eV/atom", (44578, 5572, 5572), "formation_energy_peratom", _JARVIS_ENDS),
            "total_energy": PublishedTask("eV/atom", (44578, 5572, 5572), "optb88vdw_total_energy", _JARVIS_ENDS),
            "bandgap_opt": PublishedTask("eV", (44578, 5572, 5572), "optb88vdw_bandgap", _JARVIS_ENDS),
            "bandgap_mbj": PublishedTask(
                "eV", (14537, 1817, 1817), "mbj_bandgap", {"train": ("JVASP-11762", "JVASP-12820")}, different=1815
            ),
            "e_hull": PublishedTask("eV", (44296, 5537, 5537), "ehull", {"train": ("JVASP-33661", "JVASP-14073")}),
        },
        files=(PublishedFile("dft_3d_2021", "jdft_3d-8-18-2021.json.zip", 29204826, "jdft_3d-8-18-2021.json"),),
        records=55723,
        id_fields=("jid", "id"),
        training={"epochs": 2000, "batch_size": 256, "average_epochs": 50},
        leaderboard="dft_3d",
    ),
    "mp": PublishedDataset(
        title="Materials Project, MEGNet snapshot of 2018 (megnet), and its bulk and shear moduli",
        licence="Materials Project data, CC BY 4.0",
        cite=(
            "A. Jain et al., APL Materials 1, 011002 (2013), doi:10.1063/1.4812323",
            "C. Chen et al., Chemistry of Materials 31, 3564 (2019), doi:10.1021/acs.chemmater.9b01294",
            "M. de Jong et al., Scientific Data 2, 150009 (2015), doi:10.1038/sdata.2015.9 (moduli)",
            "K. Yan et al., Matformer, NeurIPS 2022, arXiv:2209.11807 (the split of the moduli)",
        ),
        tasks={
            "formation_energy": PublishedTask("eV/atom", (60000, 5000, 4239), "e_form", _MP_ENDS, rounded=True),
            "bandgap": PublishedTask("eV", (60000, 5000, 4239), "gap pbe", _MP_ENDS, rounded=True),
            "bulk_modulus": PublishedTask("log10(GPa)", (4664, 393, 393)),
            "shear_modulus": PublishedTask("log10(GPa)", (4664, 392, 393)),
        },
        files=(
            PublishedFile("megnet", "megnet.json.zip", 26724977, "megnet.json"),
            *_moduli("bulk", 40258705, 40258675, 40258666),
            *_moduli("shear", 40258681, 40258684, 40258678),
        ),
        records=69239,
        id_fields=("id",),
        training={"epochs": 800, "batch_size": 128, "average_epochs": 50},
        leaderboard="megnet",
    ),
    "oqmd": PublishedDataset(
        title="Open Quantum Materials Database (oqmd_3d_no_cfid)",
        licence="OQMD data, CC BY 4.0",
        cite=(
            "J. E. Saal et al., JOM 65, 1501 (2013), doi:10.1007/s11837-013-0755-4",
            "S. Kirklin et al., npj Computational Materials 1, 15010 (2015), doi:10.1038/npjcompumats.2015.10",
        ),
        tasks={
            "formation_energy": PublishedTask("eV/atom", (654108, 81763, 81763), "_oqmd_delta_e", _OQMD_ENDS),
            "bandgap": PublishedTask("eV", (653388, 81673, 81673), "_oqmd_band_gap", {"train": ("307903", "932283")}),
            "e_hull": PublishedTask("eV/atom", (654108, 81763, 81763), "_oqmd_stability", _OQMD_ENDS),
        },
        files=(PublishedFile("oqmd_3d_no_cfid", "all_oqmd.json.zip", 26790182, "all_oqmd.json"),),
        records=817636,
        id_fields=("_oqmd_entry_id", "id"),
        training={"epochs": 200, "batch_size": 1024, "average_epochs": 20},
    ),
}
"""The published data sets by name."""
