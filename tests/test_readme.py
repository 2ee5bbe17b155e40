"""What the README and docs/ tell people to type works, and their links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from mkdocs.commands.build import build
from mkdocs.config import load_config
from PIL import Image
from thorough import one_in

from eca_lightning import ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.cli import main

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [*ROOT.glob("*.md"), ROOT / "data/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
STARTERS = {
    r"^(\w+=\S+ )+": "",
    r"^(sbatch|bash) .*?deploy/\w+/train\.\w+ ": "eca-lightning fit ",
    r"^sbatch .*?deploy/\w+/compare\.\w+ ": "eca-lightning compare ",
    r"^srun .*?eca-lightning ": "eca-lightning ",
    r"^docker run .*?eca-lightning:\S+ ": "eca-lightning ",
}
"""What may stand before the arguments of the program, and what it comes to."""


def blocks(language, *pages):
    """The code blocks of a language."""
    texts = [PAGES[page] for page in pages or PAGES]
    pattern = rf"^```{language}\n(.*?)^```"
    return [b for text in texts for b in re.findall(pattern, text, re.MULTILINE | re.DOTALL)]


LINES = [line for block in blocks("bash") for line in block.replace("\\\n", "").splitlines()]


def started(line):
    """A line as the program is called in the end."""
    for starter, program in STARTERS.items():
        line = re.sub(starter, program, line)
    return line


COMMANDS = sorted({started(line) for line in LINES if started(line).startswith("eca-lightning ")})
COMMANDS = [command for command in COMMANDS if " --run " not in command]  # test_finetune has runs
COMMANDS.remove("eca-lightning --help")


def test_the_pages_have_commands_and_code():
    assert len(COMMANDS) > 30
    assert len(blocks("python", "docs/python.md")) > 1


@pytest.mark.slow
@pytest.mark.parametrize("command", one_in(3, COMMANDS))
def test_commands_are_understood(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command, comments=True)[1:]
    monkeypatch.setattr("sys.argv", ["eca-lightning"])
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


def test_the_readme_is_one_page():
    assert len(PAGES["README.md"].split()) <= 700


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES.values():
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page, re.MULTILINE)) <= targets


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python", "docs/python.md"))
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(ImageClassifier(BackboneConfig("resnet20", "eca", num_classes=3)))
    trainer.save_checkpoint("best.ckpt")
    Path("photos").mkdir()
    Image.new("RGB", (300, 280)).save("photos/1.jpg")
    names = {}
    exec(code, names)
    if "logits" in names:
        assert names["logits"].shape == torch.Size([2, 1000])
    if "PredictionWriter" in code:
        assert json.loads(Path("photos.jsonl").read_text())["image"] == "photos/1.jpg"
    if "from_pretrained" in code:
        weights = [names[name].backbone.fc.weight for name in ("model", "same")]
        assert torch.equal(*weights)


@pytest.mark.parametrize("code", blocks("yaml", "docs/training.md", "docs/scaling.md"))
def test_yaml_goes_behind_a_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["eca-lightning"])
    (tmp_path / "second.yaml").write_text(code)
    configs = ["configs/imagenet/resnet50_paper.yaml", str(tmp_path / "second.yaml")]
    with pytest.raises(SystemExit):
        main(["fit", *(f"--config={path}" for path in configs), "--print_config"])
    used = yaml.safe_load(capsys.readouterr().out)
    for key, section in yaml.safe_load(code).items():
        written = section.get("init_args", section)
        resolved = used[key].get("init_args", used[key])
        for option, value in written.items():
            assert all(str(part) in str(resolved[option]) for part in words(value)), option


def words(value):
    """The plain values of a nested one; of class paths the last name."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [word for part in inner for word in words(part)]
    return [str(value).rpartition(".")[2]] if isinstance(value, str) else [value]


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)h][^)]*)\)", PAGES[name]):
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_written_about_exist(name):
    files = r"\b(?:configs|deploy|tests|tools)/[\w/]+\.[a-z]+"
    for file in set(re.findall(files, PAGES[name])):
        assert (ROOT / file).exists() or file in ADDED, file


ADDED = {"configs/schedules/warmup_100.yaml"}
"""What docs/extending.md tells readers to add."""


def test_every_page_is_listed():
    listed = {f"docs/{name}" for name in re.findall(r"\]\(([\w/]+\.md)\)", PAGES["docs/README.md"])}
    pages = {name for name in PAGES if re.fullmatch(r"docs/(\w+|reference/README)\.md", name)}
    assert listed | {"docs/README.md"} == pages


def test_the_site_is_built_and_has_all_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("mkdocs.yml", site_dir=str(tmp_path), strict=True)
    build(config)  # raises where a link leads nowhere
    pages = {name[5:-3] for name in PAGES if name.startswith("docs/")}
    pages |= {"RESULTS", "CONTRIBUTING", "CHANGELOG"}
    pages = {re.sub("README$", "index", name) for name in pages}
    built = {str(page.relative_to(tmp_path))[:-5] for page in tmp_path.rglob("*.html")}
    assert built == {*pages, "404"}
    menu = (tmp_path / "index.html").read_text()
    assert not [page for page in pages if f'href="{page}.html"' not in menu]
    results = (tmp_path / "RESULTS.html").read_text()
    assert 'href="scaling.html"' in results
