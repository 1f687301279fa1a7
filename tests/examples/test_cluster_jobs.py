"""examples/deploy: the Slurm script and the Kubernetes Job train one model, with this machine in place of several."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import corerec
from corerec.engines.bert4rec import Bert4Rec

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
SOURCE = str(Path(corerec.__file__).parents[1])  # of this checkout, whatever is installed
SMALL = ["--hidden-dim", "8", "--num-heads", "2", "--max-seq-len", "6", "--device", "cpu"]
# Runs a command once for each machine, all on this one; passes SIGTERM on, as Slurm's srun does.
SRUN = """
import os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    del command[0]
tasks = [subprocess.Popen(command) for _ in range(int(os.environ["SLURM_JOB_NUM_NODES"]))]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(abs(task.wait()) for task in tasks))
"""

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.skipif(sys.platform == "win32", reason="shell scripts"),
]


@pytest.fixture
def folder(tmp_path):
    """log.csv; alone.model, which one process learned of it; and the programs that the jobs name."""
    rows = [f"{user},{(user + step) % 12},{step}" for user in range(40) for step in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    (tmp_path / "srun.py").write_text(SRUN)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, code in (
        ("torchrun", f'exec "{sys.executable}" -m torch.distributed.run "$@"'),
        ("srun", f'exec "{sys.executable}" {tmp_path}/srun.py "$@"'),
        ("scontrol", f'if [ "$1" = show ]; then echo localhost; else echo "$@" >>{tmp_path}/requeued; fi'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{code}\n")
        (programs / name).chmod(0o755)
    return tmp_path


def environment(folder, **more):
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"} | more


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def sbatch(folder, epochs):
    """The script, as Slurm starts it on the first of two machines."""
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": "7", "PORT": free_port()}
    command = ["bash", str(DEPLOY / "slurm.sh"), "log.csv", "m.model", *SMALL, "--epochs", str(epochs)]
    more = ["--checkpoint-every-s", "0"]
    with open(folder / "said.txt", "a") as said:
        return subprocess.Popen(
            [*command, *more], cwd=folder, env=environment(folder, **slurm), stdout=said, stderr=said
        )


def assert_model_of_one_process(folder, model, epochs):
    command = ["-m", "corerec", "fit", "log.csv", "-o", "alone.model", "-q", *SMALL, "--epochs", str(epochs)]
    subprocess.run([sys.executable, *command], cwd=folder, env=environment(folder), check=True)
    one, alone = (Bert4Rec.load(folder / name).fitted.network.state_dict() for name in (model, "alone.model"))
    assert one.keys() == alone.keys()
    assert all(torch.allclose(one[name].float(), alone[name].float(), atol=1e-3) for name in one)


@pytest.mark.slow
def test_a_slurm_job_that_is_out_of_time_is_queued_again_and_goes_on(folder):
    job, deadline = sbatch(folder, epochs=60), time.monotonic() + 120
    while not (folder / "m.model.training").exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 0, (folder / "said.txt").read_text()
    assert (folder / "requeued").read_text() == "requeue 7\n"
    assert not (folder / "m.model").exists()

    job = sbatch(folder, epochs=60)

    assert job.wait(timeout=240) == 0, (folder / "said.txt").read_text()
    assert (folder / "said.txt").read_text().count("epoch 60/60") == 1
    assert (folder / "requeued").read_text() == "requeue 7\n"
    assert not (folder / "m.model.training").exists()
    assert_model_of_one_process(folder, "m.model", 60)


@pytest.mark.slow
def test_a_slurm_job_that_fails_is_not_queued_again(folder):
    (folder / "log.csv").unlink()
    assert sbatch(folder, epochs=1).wait(timeout=120) != 0
    assert not (folder / "requeued").exists()


@pytest.fixture
def manifests():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    return list(yaml.safe_load_all((DEPLOY / "kubernetes-training-job.yaml").read_text()))


def test_the_pods_of_the_kubernetes_job_find_each_other(manifests):
    service, job = manifests
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {variable["name"]: variable["value"] for variable in container["env"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(values["PODS"])
    # Kubernetes names pod 0 of an Indexed Job JOB-0, and gives it the host name JOB-0.SUBDOMAIN.
    assert pod["subdomain"] == service["metadata"]["name"]
    assert values["FIRST"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert int(values["OMP_NUM_THREADS"]) == int(container["resources"]["limits"]["cpu"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.slow
def test_the_pods_of_the_kubernetes_job_train_one_model(manifests, folder):
    (container,) = manifests[1]["spec"]["template"]["spec"]["containers"]
    *shell, script = container["command"]
    script = script.replace("/opt/corerec/bin/", "").replace("29500", free_port()).replace("ratings.parquet", "log.csv")
    script = f"{script} --epochs 2 {' '.join(SMALL)}"
    values = {variable["name"]: variable["value"] for variable in container["env"]}
    values |= {"FIRST": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    pods = [
        subprocess.Popen(
            [*shell, script],
            cwd=folder,
            env=environment(folder, **values, JOB_COMPLETION_INDEX=str(pod)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for pod in range(int(values["PODS"]))
    ]
    said = [pod.communicate(timeout=240)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], said
    assert sum(text.count("epoch 2/2") for text in said) == 1
    assert_model_of_one_process(folder, "movies.model", 2)
