"""Manifests, each checked against its schema, and against the image and one another."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from kubeflow.training import ApiClient
from kubeflow_trainer_api import models

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
MANIFESTS = {
    f"{manifest['kind']}-{manifest['metadata']['name']}": manifest
    for path in FILES
    for manifest in yaml.safe_load_all(path.read_text())
}
NODES, GPUS = 2, 8


def validate(manifest):
    """Raise unless all fields of a manifest are in its schema, with values of the right type."""
    group = manifest["apiVersion"].partition("/")[0]
    if group == "trainer.kubeflow.org":
        model = getattr(models, f"TrainerV1alpha1{manifest['kind']}")
        assert model.from_dict(manifest).to_dict() == manifest  # unknown fields get lost
    elif group == "kubeflow.org":
        response = SimpleNamespace(data=json.dumps(manifest))
        read = ApiClient().deserialize(response, f"KubeflowOrgV1{manifest['kind']}")
        assert ApiClient().sanitize_for_serialization(read) == manifest
    else:
        latest = kubernetes_validate.latest_version()
        kubernetes_validate.validate(manifest, latest, strict=True)


def pod(manifest):
    """The pod that a manifest describes, if it does."""
    spec = manifest["spec"]
    if manifest["kind"] == "PyTorchJob":
        return spec["pytorchReplicaSpecs"]["Worker"]["template"]
    if manifest["kind"] == "TrainingRuntime":
        return spec["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    return spec.get("template")


PODS = {name: pod(manifest) for name, manifest in MANIFESTS.items() if pod(manifest)}
CONTAINERS = {name: template["spec"]["containers"][0] for name, template in PODS.items()}
TRAINING = ["TrainingRuntime-eca-lightning", "PyTorchJob-eca-resnet50"]
ARGUMENTS = {
    "trainjob": MANIFESTS["TrainJob-eca-resnet50"]["spec"]["trainer"]["args"],
    "pytorchjob": CONTAINERS["PyTorchJob-eca-resnet50"]["args"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_keep_to_their_schemas(name):
    validate(MANIFESTS[name])


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_schemas_know_a_misspelt_field(name):
    manifest = copy.deepcopy(MANIFESTS[name])
    manifest["spec"]["replicass"] = 1
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        validate(manifest)


@pytest.mark.parametrize("name", PODS)
def test_pods_keep_to_the_schema_of_the_newest_kubernetes(name):
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {}, **PODS[name]})


needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def kubectl(*arguments, **options):
    """Run Kubernetes's own client, which needs no cluster for what is asked of it here."""
    command = ["kubectl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def read_by_kubectl(template):
    """A pod template, after kubectl has read it into the types that it was compiled with."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **copy.deepcopy(template)}
    pod["metadata"] = {"name": "pod", **pod["metadata"]}
    container = pod["spec"]["containers"][0]
    change = f"{container['name']}={container['image']}"
    container["image"] = "another"
    command = ["set", "image", "--local", "--filename=-", "--output=json", change]
    done = kubectl(*command, input=json.dumps(pod), check=True)
    spec = json.loads(done.stdout)["spec"]
    if spec["containers"][0]["resources"] == {}:  # which it adds
        del spec["containers"][0]["resources"]
    return spec


@needs_kubectl
def test_kubectl_reads_all_manifests_as_they_are(tmp_path):
    for path in FILES:
        shutil.copy(path, tmp_path)
    resources = {"resources": [path.name for path in FILES]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(resources))
    done = kubectl("kustomize", tmp_path, check=True)
    found = {f"{m['kind']}-{m['metadata']['name']}": m for m in yaml.safe_load_all(done.stdout)}
    assert found == MANIFESTS


@needs_kubectl
@pytest.mark.parametrize("name", PODS)
def test_kubectl_knows_all_fields_of_the_pods(name):
    assert read_by_kubectl(PODS[name]) == PODS[name]["spec"]


@needs_kubectl
def test_kubectl_knows_no_misspelt_field():
    template = copy.deepcopy(next(iter(PODS.values())))
    template["spec"]["containers"][0]["imagePullPolice"] = "Always"
    assert read_by_kubectl(template) != template["spec"]
    template["spec"]["containers"][0] |= {"args": "fit"}
    with pytest.raises(subprocess.CalledProcessError):
        read_by_kubectl(template)


@pytest.mark.parametrize("name", PODS)
def test_pods_use_the_image_as_its_user(name):
    dockerfile = (ROOT / "Dockerfile").read_text()
    version = re.search(r'image\.version="(.*)"', dockerfile)[1]
    assert CONTAINERS[name]["image"] == f"eca-lightning:{version}"
    user = PODS[name]["spec"]["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in dockerfile
    assert user["runAsNonRoot"]


@pytest.mark.parametrize("name", PODS)
def test_volumes_are_claims_that_exist_in_places_where_configs_look(name):
    claims = {
        manifest["metadata"]["name"]
        for manifest in MANIFESTS.values()
        if manifest["kind"] == "PersistentVolumeClaim"
    }
    spec = PODS[name]["spec"]
    used = [volume.get("persistentVolumeClaim") for volume in spec["volumes"]]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINERS[name]["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in spec["volumes"]}
    assert {claim["claimName"] for claim in used if claim} <= claims
    assert mounts["runs"] == "/workspace/runs"


@pytest.mark.parametrize("name", TRAINING)
def test_training_pods_have_shared_memory_and_read_their_data_only(name):
    volumes = {volume["name"]: volume for volume in PODS[name]["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in CONTAINERS[name]["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    assert mounts["/workspace/data/imagenet"]["readOnly"]
    assert PODS[name]["spec"]["securityContext"]["fsGroup"] == 1000


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_understood_and_fit_the_number_of_gpus(name, understood):
    config = understood(ARGUMENTS[name])
    assert config["trainer"]["num_nodes"] == NODES
    assert int(config["trainer"]["devices"]) == GPUS
    assert config["ckpt_path"] == "auto"
    # 256 images a step, as the paper has it
    assert config["data"]["init_args"]["batch_size"] * NODES * GPUS == 256
    assert config["data"]["init_args"]["root"] == "data/imagenet"
    assert config["trainer"]["logger"]["init_args"]["version"] == "eca-resnet50"


def test_trainjob_refers_to_the_runtime_and_asks_for_the_same_gpus():
    job, runtime = (
        MANIFESTS["TrainJob-eca-resnet50"]["spec"],
        MANIFESTS["TrainingRuntime-eca-lightning"],
    )
    reference = job["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (runtime["kind"], runtime["metadata"]["name"])
    trainer = job["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (NODES, GPUS)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == str(GPUS)
    # Trainer finds what it completes by these names.
    [replicated] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    step = "trainer.kubeflow.org/trainjob-ancestor-step"
    assert replicated["template"]["metadata"]["labels"][step] == "trainer"
    assert CONTAINERS["TrainingRuntime-eca-lightning"]["name"] == "node"


def test_pytorchjob_asks_for_the_same_gpus():
    workers = MANIFESTS["PyTorchJob-eca-resnet50"]["spec"]["pytorchReplicaSpecs"]["Worker"]
    container = CONTAINERS["PyTorchJob-eca-resnet50"]
    assert workers["replicas"] == NODES
    assert f"--nproc-per-node={GPUS}" in container["command"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == str(GPUS)
    assert container["name"] == "pytorch"  # by which the operator finds it


def test_the_service_finds_tensorboard():
    service = MANIFESTS["Service-tensorboard"]["spec"]
    container = CONTAINERS["Deployment-tensorboard"]
    labels = PODS["Deployment-tensorboard"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert service["ports"][0]["targetPort"] == container["ports"][0]["name"]
    port = container["args"][container["args"].index("--port") + 1]
    assert container["ports"][0]["containerPort"] == int(port)
