"""cluster.yaml and clusters/: valid for Ray, for AWS and for bash; one Ray everywhere; no secrets, no open doors."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from crystalframer.commands.doctor import DRIVERS
from tests.cluster import page

ROOT = Path(__file__).parents[2]
LAUNCHED = ["cluster.yaml", "clusters/onpremises.yaml", "clusters/gcp.yaml"]
CLOUDS = ["cluster.yaml", "clusters/gcp.yaml"]
SLURM = ROOT / "clusters" / "slurm.sbatch"
SLURM_TRAIN = ROOT / "clusters" / "slurm_train.sbatch"
EDITED = ["clusters/onpremises.yaml", "clusters/gcp.yaml", "clusters/slurm.sbatch", "clusters/slurm_train.sbatch"]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def all_files() -> list[Path]:
    return [ROOT / "cluster.yaml", *sorted(path for path in (ROOT / "clusters").iterdir() if path.is_file())]


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_schema(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(read(name))
    validate_config(prepared)
    for node_type in prepared["available_node_types"].values():
        assert all(isinstance(amount, int) for amount in node_type["resources"].values())
    with pytest.raises(Exception, match="unknown_key"):
        validate_config({**prepared, "unknown_key": 1})


@pytest.mark.parametrize("name", LAUNCHED)
def test_its_own_commands_and_no_nightly(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(read(name))
    assert all("ray[default] @" not in command for command in prepared["setup_commands"])
    assert any("-c constraints.txt" in command for command in prepared["setup_commands"])
    assert prepared["setup_commands"][: len(read(name)["setup_commands"])] == read(name)["setup_commands"]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[commands] == read(name)[commands]


@pytest.mark.parametrize(("name", "places"), [("cluster.yaml", 4), *((name, 3) for name in EDITED)])
def test_places_to_edit(name: str, places: int) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"# EDIT (\d)", text) == [str(number) for number in range(1, places + 1)]
    assert f"{'Four' if places == 4 else 'Three'} places to edit are marked with EDIT" in text


@pytest.mark.parametrize("name", CLOUDS)
def test_the_ray_of_the_image_is_the_tested_one(name: str) -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert read(name)["docker"]["image"] == f"rayproject/ray:{pinned.group(1)}-py311-gpu"


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_come_from_zero_and_go_when_idle(name: str) -> None:
    config = read(name)
    head, worker = config["available_node_types"]["head"], config["available_node_types"]["gpu_worker"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert worker["min_workers"] == 0
    assert worker["max_workers"] == config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert worker["resources"]["GPU"] >= 1


@pytest.mark.parametrize("path", all_files(), ids=lambda path: path.name)
def test_no_secret_and_no_open_door(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if re.search(r"\bray (start|symmetric-run)", text):
        assert "RAY_AUTH_MODE=token" in text or "clusters/environment.sh" in text
    assert not re.search(r"RAY_AUTH_TOKEN\s*=|password\s*[:=]\s*\S|aws_secret|://\w+:\w+@", text, re.IGNORECASE)
    assert "0.0.0.0" not in text
    if path.suffix == ".yaml":
        start = " ".join(read(str(path.relative_to(ROOT)))["head_start_ray_commands"])
        assert "--dashboard-host=127.0.0.1" in start
        assert "security_group" not in read(str(path.relative_to(ROOT)))["provider"]  # Ray's own admits SSH alone


def test_the_request_for_machines_is_one_that_aws_knows() -> None:
    botocore_session = pytest.importorskip("botocore.session", reason="needs the extra `cluster`")
    validate = pytest.importorskip("botocore.validate", reason="needs the extra `cluster`")
    service = botocore_session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    types = shape.members["InstanceType"].enum
    for node_type in read("cluster.yaml")["available_node_types"].values():
        request = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1, "ImageId": "ami-1"}
        report = validate.ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()
        assert request["InstanceType"] in types
    wrong = validate.ParamValidator().validate({"MinCount": 1, "MaxCount": 1, "InstanceTyp": "g6.2xlarge"}, shape)
    assert wrong.has_errors()


def test_the_region_has_an_image() -> None:
    """Not Ray's default image, which is of 2023: one that is asked for in the region of the cluster."""
    text, config = (ROOT / "cluster.yaml").read_text(encoding="utf-8"), read("cluster.yaml")
    region = config["provider"]["region"]
    assert config["provider"]["availability_zone"].startswith(region)
    assert f"aws ssm get-parameter --region {region} " in text
    images = {node["node_config"]["ImageId"] for node in config["available_node_types"].values()}
    assert images == {"ami-0123456789abcdef0"}, "to be edited, once"


def test_image_driver_and_torch_belong_together() -> None:
    """Of the CUDA that the pinned torch brings along, the driver that it needs, and the images' drivers."""
    pinned = (ROOT / "requirements-linux-x86_64.txt").read_text(encoding="utf-8")
    cuda = re.search(r"^nvidia-cuda-runtime==(\d+)\.", pinned, re.MULTILINE)
    torch = re.search(r"^torch==(\S+)", pinned, re.MULTILINE)
    assert cuda is not None
    assert torch is not None
    need = DRIVERS[cuda.group(1)]
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    assert f"{torch.group(1)}, built for CUDA {cuda.group(1)}: needs NVIDIA driver {need} or newer" in page
    assert f"NVIDIA's driver ({need} or newer)" in (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    for node in read("clusters/gcp.yaml")["available_node_types"].values():
        family = node["node_config"]["disks"][0]["initializeParams"]["sourceImage"].rpartition("/")[2]
        assert int(family.rpartition("-")[2]) >= need
        assert f"`{family}`" in page


@pytest.mark.parametrize("name", CLOUDS)
def test_a_gpu_machine_whose_gpu_torch_cannot_use_ends_its_setup(name: str) -> None:
    (check,) = read(name)["worker_setup_commands"]
    assert check == "cd ~/crystalframer && crystalframer doctor --gpu"
    assert any("nfs-common" in command for command in read(name)["initialization_commands"])


def test_the_page_speaks_of_quota_and_price() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    for word in ("All G and VT Spot Instance Requests", "describe-spot-price-history", "cost_per_hour", "nfs-common"):
        assert word in page


def test_the_shell_scripts_parse() -> None:
    for path in (SLURM, SLURM_TRAIN, ROOT / "clusters" / "environment.sh"):
        subprocess.run(["bash", "-n", str(path)], check=True)


SRUN = """#!/bin/bash
# Stands for Slurm's: says what it was asked, answers for `hostname`, and for Ray waits as long as a sweep would.
echo "srun $*" >> "$CALLS"
case "$*" in
*hostname*) echo "127.0.1.1 10.1.2.3" ;;
*symmetric-run*) eval "$SWEEP" ;;
esac
"""
RECORDS = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $1" in
"scontrol show") printf 'node7\\nnode8\\n' ;;
esac
"""


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """The environment of a Slurm job, whose programs write down their arguments."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": RECORDS, "ray": RECORDS}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    activate = tmp_path / "checkout" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("")
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "SWEEP": "exit 0",
        "SLURM_SUBMIT_DIR": str(tmp_path / "checkout"),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "2",
    }


def run_batch(allocation: dict[str, str], *arguments: str, script: Path = SLURM) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        ["bash", str(script), *arguments], env=allocation, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr, Path(allocation["CALLS"]).read_text().splitlines()


def test_slurm_starts_ray_on_every_node(allocation: dict[str, str]) -> None:
    code, output, calls = run_batch(allocation, "sweeps/other.yaml", "--set", "train.epochs=2")
    assert code == 0, output
    assert "ray get-auth-token --generate" in calls
    assert "srun --nodes=1 --ntasks=1 --nodelist=node7 hostname --ip-address" in calls
    assert calls[-1] == (
        "srun --nodes=2 --ntasks-per-node=1 --cpus-per-task=16 "
        "ray symmetric-run --address 10.1.2.3:23456 --min-nodes 2 --num-cpus 16 "
        "--num-gpus 2 --include-dashboard=false -- python pipelines/ablate_frames.py --address 10.1.2.3:23456 "
        "sweeps/other.yaml --set train.epochs=2"
    )


@pytest.mark.parametrize(("sweep", "expected"), [("exit 1", 1), ("exit 2", 2)])
def test_slurm_sees_how_the_sweep_ended(allocation: dict[str, str], sweep: str, expected: int) -> None:
    assert run_batch({**allocation, "SWEEP": sweep})[0] == expected


def test_slurm_queues_again_when_time_is_up(allocation: dict[str, str]) -> None:
    # the batch script is srun's parent; Slurm's own signal goes to it alone (B:)
    code, output, calls = run_batch({**allocation, "SWEEP": "kill -USR1 $PPID; sleep 0.5; exit 143"})
    assert "scontrol requeue 123456" in calls
    assert "time is up: queued again" in output
    assert code == 143  # it waited for the sweep's end


@pytest.mark.parametrize("path", [SLURM, SLURM_TRAIN])
def test_slurm_is_asked_for_memory_cores_and_where(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for option in ("mem", "cpus-per-task", "gpus-per-node"):
        assert re.search(rf"^#SBATCH --{option}=", text, re.MULTILINE), option
    for option in ("partition", "account"):
        assert re.search(rf"^##SBATCH --{option}=", text, re.MULTILINE), option
    steps = re.findall(r"^srun .*", text, re.MULTILINE)
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in steps[-1]


def test_one_training_on_one_gpu(allocation: dict[str, str]) -> None:
    program = Path(allocation["PATH"].partition(os.pathsep)[0]) / "crystalframer"
    program.write_text(RECORDS)
    program.chmod(0o755)
    code, output, calls = run_batch(allocation, "--task", "bandgap", script=SLURM_TRAIN)
    assert code == 0, output
    assert calls == [
        "crystalframer doctor --gpu",
        "srun --ntasks=1 --cpus-per-task=16 crystalframer train --device cuda --task bandgap",
    ]
    program.write_text("#!/bin/bash\nexit 1\n")
    assert run_batch(allocation, script=SLURM_TRAIN)[0] == 2, "no GPU"


def test_nothing_in_clusters_is_executable() -> None:
    assert not [path for path in all_files() if path.stat().st_mode & stat.S_IXUSR]


def test_what_is_not_typed_is_on_the_page() -> None:
    found = [line for title in (page.OWN_MACHINES, page.SLURM, page.CLOUD) for line in page.PAGE.commands(title)]
    assert set(page.NOT_TYPED) <= set(found)
    assert set(page.PAGE.commands(page.SLURM)) <= set(page.NOT_TYPED)
    assert page.jobs()["stop"] == ['ray exec $CLUSTER "ray job stop one"']
