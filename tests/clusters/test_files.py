"""The files of `clusters/`, as far as they can be checked without a cloud: their form, and what is planted in them.

Ray's own check does not look into `node_config`, and KubeRay's schema is not in any package: the tables below say which
keys they have (boto3's `run_instances`, the Compute API's `instances`, the RayJob of KubeRay 1.7).
"""

import copy
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from grid.commands.main import main

FOLDER = Path(__file__).resolve().parents[2] / "clusters"
VIRTUAL_MACHINES = ("onprem", "aws", "gcp")
SCRIPTS = ("local.sh", "slurm.sbatch")

OPEN = object()
"""A mapping or value of any form."""

AWS_DISK = [{"DeviceName": str, "Ebs": {"VolumeSize": int, "VolumeType": str}}]
AWS_NODE = {
    "InstanceType": str,
    "ImageId": str,
    "BlockDeviceMappings": AWS_DISK,
    "InstanceMarketOptions": {"MarketType": str},
    "IamInstanceProfile": {"Name": str, "Arn": str},
    "KeyName": str,
    "SubnetIds": [str],
    "SecurityGroupIds": [str],
}
GCP_NODE = {
    "machineType": str,
    "disks": [
        {
            "boot": bool,
            "autoDelete": bool,
            "type": str,
            "initializeParams": {"diskSizeGb": int, "sourceImage": str, "diskType": str},
        }
    ],
    "guestAccelerators": [{"acceleratorType": str, "acceleratorCount": int}],
    "metadata": {"items": [{"key": str, "value": str}]},
    "scheduling": [{"provisioningModel": str, "onHostMaintenance": str, "automaticRestart": bool}],
    "networkInterfaces": OPEN,
    "serviceAccounts": OPEN,
}
PROVIDERS = {
    "local": {"type": str, "head_ip": str, "worker_ips": [str], "coordinator_address": str},
    "aws": {"type": str, "region": str, "availability_zone": str, "cache_stopped_nodes": bool},
    "gcp": {"type": str, "region": str, "availability_zone": str, "project_id": str},
}
QUANTITIES = {"cpu": str, "memory": str, "nvidia.com/gpu": str}
POD = {
    "metadata": OPEN,
    "spec": {
        "terminationGracePeriodSeconds": int,
        "tolerations": [{"key": str, "operator": str, "effect": str, "value": str}],
        "nodeSelector": OPEN,
        "containers": [
            {
                "name": str,
                "image": str,
                "resources": {"requests": QUANTITIES, "limits": QUANTITIES},
                "volumeMounts": [{"name": str, "mountPath": str}],
                "env": [{"name": str, "value": str}],
            }
        ],
        "volumes": [
            {
                "name": str,
                "configMap": {"name": str},
                "persistentVolumeClaim": {"claimName": str},
                "emptyDir": {"medium": str, "sizeLimit": str},
            }
        ],
    },
}
START_PARAMETERS = {"num-cpus": str, "num-gpus": str, "dashboard-host": str, "resources": str}
RAY_JOB = {
    "apiVersion": ("ray.io/v1",),
    "kind": ("RayJob",),
    "metadata": {"name": str, "namespace": str, "labels": OPEN},
    "spec": {
        "entrypoint": str,
        "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        "backoffLimit": int,
        "submitterConfig": {"backoffLimit": int},
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "activeDeadlineSeconds": int,
        "runtimeEnvYAML": str,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": ("token", "disabled")},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {"version": ("v1", "v2"), "idleTimeoutSeconds": int, "upscalingMode": str},
            "headGroupSpec": {"rayStartParams": START_PARAMETERS, "template": POD},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": START_PARAMETERS,
                    "template": POD,
                }
            ],
        },
    },
}
SKY = {
    "name": str,
    "num_nodes": int,
    "resources": {
        "accelerators": str,
        "use_spot": bool,
        "image_id": str,
        "disk_size": int,
        "job_recovery": {"strategy": ("FAILOVER", "EAGER_NEXT_REGION"), "max_restarts_on_errors": int},
    },
    "workdir": str,
    "file_mounts": OPEN,
    "secrets": OPEN,
    "envs": OPEN,
    "setup": str,
    "run": str,
}


def misfits(value, form, where=""):
    """Where a value has not the form."""
    if form is OPEN:
        return []
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return [f"{where}: no mapping"]
        unknown = [f"{where}.{key}: unknown" for key in value if key not in form]
        return unknown + [
            each for key in value if key in form for each in misfits(value[key], form[key], f"{where}.{key}")
        ]
    if isinstance(form, list):
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [each for number, one in enumerate(value) for each in misfits(one, form[0], f"{where}[{number}]")]
    if isinstance(form, tuple):
        return [] if value in form else [f"{where}: {value!r} is none of {form}"]
    return [] if type(value) is form else [f"{where}: {value!r} is no {form.__name__}"]


def read(name):
    return yaml.safe_load((FOLDER / name).read_text())


def check_machines(config):
    """Ray's own check of a cluster file, and what it leaves out."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))
    kind = config["provider"]["type"]
    form = {"aws": AWS_NODE, "gcp": GCP_NODE}.get(kind)
    found = misfits(config["provider"], PROVIDERS[kind], "provider")
    found += [
        each
        for name, node in config.get("available_node_types", {}).items()
        for each in misfits(node["node_config"], form, name)
    ]
    assert not found, found


def set_at(config, path, value):
    """A copy with one entry changed; None takes it away. A key of the form `old>new` renames."""
    changed = copy.deepcopy(config)
    *folders, last = path
    place = changed
    for each in folders:
        place = place[each]
    if isinstance(last, str) and ">" in last:
        old, new = last.split(">")
        place[new] = place.pop(old)
    elif value is None:
        del place[last]
    else:
        place[last] = value
    return changed


@pytest.mark.parametrize("name", VIRTUAL_MACHINES)
def test_ray_takes_the_files_for_machines(name):
    check_machines(read(f"{name}.yaml"))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("onprem", ["max_workers>max_wrokers"], 0),
        ("onprem", ["provider", "head_ip"], None),
        ("onprem", ["auth", "ssh_usr"], "me"),
        ("aws", ["provider", "typ"], "aws"),
        ("aws", ["head_node_type"], "haed"),
        ("aws", ["available_node_types", "gpu", "resources", "GPU"], 0.5),
        ("aws", ["available_node_types", "gpu", "min_workers"], 9),
        ("aws", ["available_node_types", "gpu", "node_config", "InstanceType>InstanceTyp"], 0),
        ("aws", ["available_node_types", "gpu", "node_config", "BlockDeviceMappings", 0, "Ebs", "VolumeSize"], "200"),
        ("aws", ["setup_comands"], []),
        ("gcp", ["idle_timeout_minutes"], "five"),
        ("gcp", ["available_node_types", "gpu", "node_config", "scheduling", 0, "provisioningModle"], "SPOT"),
        ("gcp", ["available_node_types", "gpu", "node_config", "guestAccelerators", 0, "acceleratorCount"], "1"),
        ("gcp", ["available_node_types", "head", "node_config"], None),
    ],
)
def test_a_planted_mistake_is_seen(name, path, value):
    with pytest.raises(Exception, match=r".") as caught:
        check_machines(set_at(read(f"{name}.yaml"), path, value))
    assert not isinstance(caught.value, ImportError | OSError)


@pytest.mark.parametrize("name", VIRTUAL_MACHINES)
def test_a_cluster_of_machines_is_closed_to_others_and_installs_nothing_of_its_own(name):
    config = read(f"{name}.yaml")
    assert config["setup_commands"] == []
    head, workers = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-cpus=0" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--address=$RAY_HEAD_IP:6379" in workers
    assert all("RAY_AUTH_MODE=token" in each for each in (head, workers))


def test_the_job_for_kubernetes_has_the_form_of_a_ray_job():
    job = read("kuberay-rayjob.yaml")
    assert misfits(job, RAY_JOB) == []
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (each["template"]["spec"] for each in pods):
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert all(one["resources"]["limits"] == one["resources"]["requests"] for one in pod["containers"])


CONTAINER = ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "backoffLimit>backofLimit"], 0),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 0),
        (["spec", "rayClusterSpec", "autoscalerOptions", "version"], "v3"),
        (["spec", "entrypoint>entrypoints"], 0),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"], "8"),
        (
            [
                *("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "resources"),
                "limit",
            ],
            {},
        ),
    ],
)
def test_a_mistake_planted_in_the_job_is_seen(path, value):
    assert misfits(set_at(read("kuberay-rayjob.yaml"), path, value), RAY_JOB)


def test_the_job_pins_the_ray_that_this_project_pins():
    pinned = re.search(r"^ray==(.*)$", (FOLDER.parent / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert read("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_the_file_for_skypilot_has_its_form_and_its_script_is_bash():
    config = read("skypilot.yaml")
    assert misfits(config, SKY) == []
    assert misfits(set_at(config, ["resources", "use_spot>use_spots"], 0), SKY)
    for script in (config["run"], config["setup"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "--dashboard-host 127.0.0.1" in config["run"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash_and_keep_the_head_to_themselves(name):
    text = (FOLDER / name).read_text()
    subprocess.run(["bash", "-n", str(FOLDER / name)], check=True)
    broken = subprocess.run(
        ["bash", "-n"], input=text.replace("done", "doen", 1), text=True, capture_output=True, check=False
    )
    assert broken.returncode
    assert "--dashboard-host 127.0.0.1" in text
    assert "RAY_AUTH_MODE=token" in text


FAKES = {
    "scontrol": 'printf "n1\\nn2\\n"',
    "hostname": "echo 127.0.0.1",
    # What srun is to run comes after its own options.
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo "srun $*" >> "$SAID"; exec "$@"',
    "ray": 'echo "ray $RAY_AUTH_MODE $*" >> "$SAID"; sleep 60 > /dev/null 2>&1 & trap "kill $!; exit 0" TERM; wait',
    "python": 'echo "python $(stat -c %a "$RAY_AUTH_TOKEN_PATH") $*" >> "$SAID"; exit 7',
    "seq": "echo 1",
}


def test_the_batch_script_starts_a_head_and_workers_and_hands_on_how_the_sweep_ended(tmp_path):
    for name, body in FAKES.items():
        file = tmp_path / name
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(0o755)
    said = tmp_path / "said"
    own = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "n[1-2]", "TTA_GRID_BIN": str(tmp_path), "SAID": str(said)}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(FOLDER / "slurm.sbatch"), "sweep.yaml", "/shared/out"],
        env=os.environ | own | {"HOME": str(tmp_path), "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = said.read_text().splitlines()
    assert done.returncode == 7, done.stderr
    assert any(
        line.startswith("ray token start --head --block --node-ip-address 127.0.0.1 --port 26900") for line in lines
    )
    assert sum(line.startswith("ray token start --block --address 127.0.0.1:26900") for line in lines) == 1
    assert any(
        "python 600 -u -m grid run sweep.yaml --address 127.0.0.1:26900 --results /shared/out" in x for x in lines
    )
    assert not list((tmp_path / ".tta-grid").iterdir())


def test_the_image_has_what_a_node_needs():
    text = (FOLDER / "Dockerfile").read_text()
    assert "pip install --no-cache-dir --constraint constraints.txt '.[cluster]'" in text
    assert "ENTRYPOINT []" in text
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        assert all((FOLDER.parent / name).exists() for name in line.split()[:-1])


def test_the_commands_on_the_page_exist():
    text = (FOLDER / "README.md").read_text()
    commands = set(re.findall(r"tta-grid ([a-z]+)", text))
    assert {"submit", "status", "logs", "stop", "fetch", "doctor"} <= commands
    options = {
        "submit": ("--results", "--code", "--python"),
        "run": ("--address", "--wait"),
        "plan": ("--simulate", "--price"),
    }
    for command in commands:
        shown = CliRunner().invoke(main, [command, "--help"])
        assert shown.exit_code == 0, command
        assert all(option in shown.output for option in options.get(command, ()))
    assert all((FOLDER / name).exists() for name in re.findall(r"clusters/([\w.-]+\.\w+)", text))


def test_the_pins_hold_all_that_the_extra_brings():
    """Of what Ray's metadata says that it needs beyond `ray[tune]`, by the names that it says."""
    from importlib.metadata import requires

    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (FOLDER.parent / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extra = [text for text in requires("ray") if re.search(r"extra == ['\"]default['\"]", text)]
    names = {
        re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", text)[0]).lower() for text in extra if "python_version" not in text
    }
    assert {"aiohttp-cors", "virtualenv"} <= names
    assert names <= pinned
