"""The names of runs."""

import shlex

import pytest

from eca_lightning.training.run_name import run_name

FFCV = "--config configs/imagenet/resnet50_ffcv.yaml --config configs/schedules/ffcv40.yaml"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("--config configs/quickstart.yaml", "quickstart"),
        ("-c configs/quickstart.yaml", "quickstart"),
        ("--config=configs/quickstart.yaml", "quickstart"),
        ("--model eca_lightning.ImageClassifier --data.root x", "run-ImageClassifier"),
        (f"{FFCV} --model.backbone.attention eca", "resnet50_ffcv-ffcv40-eca"),
        (f"{FFCV} --model.init_args.backbone.attention=eca", "resnet50_ffcv-ffcv40-eca"),
        (f"{FFCV} --model.backbone models/se_resnet50.yaml", "resnet50_ffcv-ffcv40-se_resnet50"),
        (f"{FFCV} --model.optimizer torch.optim.AdamW", "resnet50_ffcv-ffcv40-AdamW"),
        (f"{FFCV} --model.optimizer.lr 0.2", "resnet50_ffcv-ffcv40-lr_0.2"),
        (f"{FFCV} --model.lr_scheduler null", "resnet50_ffcv-ffcv40-lr_scheduler_null"),
        (f"{FFCV} --model.a.kernel '[3, 5, 5, 7]'", "resnet50_ffcv-ffcv40-kernel_3_5_5_7"),
        (f"{FFCV} --trainer.max_epochs 20", "resnet50_ffcv-ffcv40-max_epochs_20"),
        (f"{FFCV} --seed_everything 1", "resnet50_ffcv-ffcv40-seed_1"),
        (f"{FFCV} --trainer.callbacks+=my.Callback", "resnet50_ffcv-ffcv40-Callback"),
    ],
)
def test_recipe_and_what_overrides_it(arguments, name):
    assert run_name(["fit", *shlex.split(arguments)]) == name


@pytest.mark.parametrize(
    "options",
    [
        "--config configs/trainer/gpu8.yaml --trainer.num_nodes 4 --trainer.precision 32",
        "--data.root /data/imagenet --data.batch_size 32 --data.num_workers=3",
        "--ckpt_path auto --trainer.logger.init_args.version job_1 --trainer.logger.save_dir /runs",
        "--print_config",
        "--async_checkpoints true --last_checkpoint.every_n_train_steps 5 --reports null",
        "--model.backbone.fused false --model.compile true --model.backbone_weights w/eca.pth",
    ],
)
def test_hardware_paths_and_checkpoints_leave_the_name(options):
    assert run_name([*shlex.split(FFCV), *shlex.split(options)]) == "resnet50_ffcv-ffcv40"
    assert run_name([*shlex.split(options), *shlex.split(FFCV)]) == "resnet50_ffcv-ffcv40"


def test_options_may_stand_in_any_order():
    options = ["--model.backbone.attention=eca", "--model.optimizer.lr=0.2"]
    config = ["--config", "a.yaml"]
    names = {run_name([*options, *config]), run_name([*config, *options[::-1]])}
    assert names == {"a-eca-lr_0.2"}


def test_names_are_folders_on_any_file_system_and_differ_where_runs_do():
    long = [[f"--model.option_{i}", f"../{'value ' * 9}{i}{end}"] for i in range(9) for end in "ab"]
    names = [
        run_name(["--config", "a.yaml", *(word for option in long[start::2] for word in option)])
        for start in (0, 1)
    ]
    assert names[0] != names[1]
    for name in names:
        assert len(name) <= 120
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-")
