"""What a checkpoint from elsewhere names is neither removed, nor imported, nor called."""

import functools
import sys
from contextlib import suppress

import pytest
import torch
import yaml
from command import fails, noise_run
from thorough import one_in, thorough

from eca_lightning import ImageClassifier, load_classifier
from eca_lightning.cli import main
from eca_lightning.training.checkpoint_io import AtomicCheckpointIO

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_program")]

MODEL_CHECKPOINT = "ModelCheckpoint"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The options of a small run, and a checkpoint of it."""
    folder = tmp_path_factory.mktemp("run")
    config = noise_run(folder)
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(folder / "run.yaml")]
    main(["fit", *options, "--trainer.logger.save_dir", str(folder)])
    return options, folder / "run" / "version_0" / "checkpoints" / "best.ckpt"


def forge(checkpoint, **changes):
    """Write a changed copy of a checkpoint to forged.ckpt."""
    content = torch.load(checkpoint, weights_only=True)
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(content[key], dict) and value else value
    torch.save(content, "forged.ckpt")
    return "forged.ckpt"


@pytest.mark.parametrize(
    "spelling",
    [
        "runs/run/version_0/checkpoints/../../../../precious/file.ckpt",
        *thorough(
            "runs/run/version_0/checkpoints/../../../../precious",
            "local://{folder}/precious",
            "{folder}/runs/run/version_0/checkpoints/link/file.ckpt",
        ),
    ],
)
def test_nothing_outside_of_the_run_is_removed(run, tmp_path, spelling):
    options, checkpoint = run
    folder = tmp_path / "runs" / "run" / "version_0" / "checkpoints"
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file.ckpt").write_text("of a week")
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "precious")
    path, score = spelling.format(folder=tmp_path), torch.tensor(-1.0)
    states = torch.load(checkpoint, weights_only=True)["callbacks"]
    key = next(key for key in states if key.startswith(MODEL_CHECKPOINT))
    for dirpath in ("runs/run/version_0/checkpoints", spelling.rpartition("/")[0]):
        names = {"dirpath": dirpath, "kth_best_model_path": path, "best_model_path": path}
        scores = {"best_k_models": {path: score}, "kth_value": score, "best_model_score": score}
        state = states[key] | names | scores | {"last_model_path": path}
        forged = forge(checkpoint, callbacks={key: state})
        where = ["--trainer.logger.name", "run", "--trainer.logger.version", "0"]
        main(["fit", *options, *where, "--ckpt_path", forged, "--trainer.max_epochs", "2"])
        assert (tmp_path / "precious" / "file.ckpt").read_text() == "of a week"
        assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == 1


def test_only_single_checkpoints_are_removed(tmp_path):
    writer = AtomicCheckpointIO()
    (tmp_path / "folder.ckpt").mkdir()
    for name in ("best.ckpt", "notes.txt", "folder.ckpt/best.ckpt"):
        (tmp_path / name).touch()
    for name in ("best.ckpt", "notes.txt", "folder.ckpt", "missing.ckpt", "folder.ckpt/../x.ckpt"):
        writer.remove_checkpoint(tmp_path / name)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["folder.ckpt", "folder.ckpt/best.ckpt", "notes.txt"]


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported."""
    (tmp_path / "trap.py").write_text(
        "import pathlib, torch\n"
        "pathlib.Path('sprung').touch()\n"
        "class Net(torch.nn.Identity):\n"
        "    def __init__(self, *args, **options): super().__init__()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "sprung"
    sys.modules.pop("trap", None)


BACKBONE = {"name": "resnet20", "num_classes": 3}
HOSTILE = {
    "class": {"_class_path": "trap.Net"},
    "instantiator": {"_instantiator": "trap.Net"},
    "optimizer": {"optimizer": {"class_path": "trap.Net"}},
    "mixing": {"mixing": {"class_path": "trap.Net"}},
    "schedule": {"lr_scheduler": "trap.Net"},
    "attention": {"backbone": BACKBONE | {"attention": "trap.Net"}},
    "backbone": {"backbone": BACKBONE | {"name": "trap.Net"}},
    "detector": {"detector": {"name": "retinanet", "backbone": BACKBONE | {"name": "trap.Net"}}},
    "loaded backbone": {"backbone": BACKBONE | {"name": "os._exit"}},
    "loaded module": {"backbone": BACKBONE | {"attention": "os.path"}},
}


@pytest.mark.parametrize("what", one_in(2, HOSTILE))
def test_nothing_is_imported(run, capsys, trap, what):
    options, checkpoint = run
    forged = forge(checkpoint, hyper_parameters=HOSTILE[what])
    images = options[-1].replace("run.yaml", "images")
    commands = [["validate", *options, "--ckpt_path", forged]]
    if what == "backbone":
        commands += [["import", forged, "new.ckpt"], ["export", forged, "new.safetensors"]]
        commands += [["attention", forged, images]]
    for command in commands:
        with suppress(SystemExit):
            main(command)
        assert "Traceback" not in capsys.readouterr().err
    for load in (ImageClassifier.load_from_checkpoint, load_classifier):
        with suppress(ValueError):
            load(forged)
    assert not trap.exists()
    assert "trap" not in sys.modules


def test_what_the_user_names_as_well_is_imported(run, trap, monkeypatch):
    options, _ = run
    mine = ["--model.backbone.attention", "trap.Net", "--model.backbone.attention_options", "{}"]
    main(["fit", *options, *mine, "--trainer.logger.save_dir", "mine"])
    (checkpoint,) = trap.parent.glob("mine/*/*/checkpoints/best.ckpt")
    main(["validate", *options, *mine, "--ckpt_path", str(checkpoint)])
    assert isinstance(load_classifier(checkpoint), ImageClassifier)
    assert isinstance(ImageClassifier.load_from_checkpoint(checkpoint), ImageClassifier)
    monkeypatch.delitem(sys.modules, "trap")
    with pytest.raises(ValueError, match=r"attention 'trap.Net' is code of another package"):
        load_classifier(checkpoint)
    main(["export", str(checkpoint), "new.safetensors", "--modules", "[trap]"])


ENDLESS: list = []
ENDLESS.append(ENDLESS)
BOMB = functools.reduce(lambda inside, _: [inside] * 10, range(30), "x")  # 10^30 values
DEEP = functools.reduce(lambda inside, _: [inside], range(60), "x")


@pytest.mark.parametrize("value", [BOMB, DEEP, *thorough(ENDLESS)], ids=["bomb", "deep", "endless"])
def test_lists_that_are_endless_deep_or_huge_are_refused(run, capsys, value):
    options, checkpoint = run
    forged = forge(checkpoint, class_names=[value])
    for command in ("fit", "validate"):
        assert "lists and dicts" in fails(capsys, command, *options, "--ckpt_path", forged)
    assert "lists and dicts" in fails(capsys, "import", forged, "new.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": 10**12},
        {"num_classes": -3},
        {"num_classes": "3"},
        {"in_channels": 2**62},
        {"attention": "eca", "attention_options": 3},
        {"attention": "eca", "attention_options": {"kernel_size": 10**13 + 1}},
        {"stem": ["small"]},
    ],
)
def test_backbones_of_other_types_or_sizes_are_refused(run, capsys, change):
    _, checkpoint = run
    forged = forge(checkpoint, hyper_parameters={"backbone": BACKBONE | change})
    for command, output in (("import", "new.ckpt"), ("export", "new.safetensors")):
        fails(capsys, command, forged, output)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer_states": [{}]},
        {"loops": {"fit_loop": 3}},
        {"hyper_parameters": {"backbone": 3}},
        {"pytorch-lightning_version": "?"},
        *thorough(
            {"optimizer_states": {}},
            {"callbacks": {"ModelCheckpoint": 3}},
            {"callbacks": {"BestScores": {"no": 1}, "LearningRateMonitor": {"a": 1}}},
            {"hyper_parameters": {"label_smoothing": "much"}},
            {"state_dict": {"backbone.fc.weight": "text"}},
            {"lr_schedulers": 3},
            {"global_step": "seven"},
        ),
    ],
)
def test_states_of_other_shapes_are_refused_in_one_line(run, capsys, changes):
    options, checkpoint = run
    forged = forge(checkpoint, **changes)
    more = ["--trainer.max_epochs", "2", "--ckpt_path", forged, "--reports", "[BestScores]"]
    assert "forged.ckpt" in fails(capsys, "fit", *options, *more)
