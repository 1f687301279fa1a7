"""examples/deploy: the Slurm script and the Kubernetes Job hold together as documents; no cluster is at hand."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from command_line import run

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_is_bash():
    assert subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=False).returncode == 0


@pytest.mark.parametrize("name", ["slurm.sh", "kubernetes-training-job.yaml"])
def test_the_jobs_call_fit_with_options_that_it_has(name):
    (arguments,) = re.findall(r"-m corerec fit ([^#]*?)(?:&|$)", (DEPLOY / name).read_text(), re.MULTILINE)
    options = set(re.findall(r"(?<!\S)--?[a-z-]+", arguments))
    assert "--checkpoint" in options
    assert options <= set(re.findall(r"(?<!\S)--?[a-z-]+", run("fit", "--help").stdout))


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
