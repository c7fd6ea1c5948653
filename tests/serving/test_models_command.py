"""`calotype models`: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from serving import bundle as bundles
from serving.commands.models import command
from serving.errors import BadInput, BadRepository, ModelNotFound
from tests.serving import fake_models


@pytest.fixture
def models(tmp_path):
    """A repository with two versions of a classifier, a reconstructor and a plain model."""
    for _ in range(2):
        fake_models.publish_classifier(tmp_path)
    fake_models.publish_reconstructor(tmp_path)
    fake_models.write_plain(tmp_path)
    return tmp_path


def _run(*arguments, exit_code=0):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result


def _json(*arguments, exit_code=0):
    return json.loads(_run(*arguments, "--json", exit_code=exit_code).stdout)


def test_list_tells_every_version_and_which_one_serves(models):
    """All models, all versions, broken ones with their reason."""
    (models / "digits" / "2" / bundles.CHECKSUMS).unlink()
    listed = {model["name"]: model for model in _json("list", "--models", models)["models"]}
    assert {name: model["serving"] for name, model in listed.items()} == {"digits": 1, "digits-ae": 1, "plain": 1}
    assert [version["kind"] for version in listed["digits"]["versions"]] == ["bundle", "broken"]
    assert "checksums" in listed["digits"]["versions"][1]["reason"]
    assert listed["digits-ae"]["versions"][0]["task"] == "reconstruct"


def test_tables_go_to_stderr(models):
    """Stdout carries results for programs; a table is for people."""
    result = _run("list", "--models", models)
    assert result.stdout == ""
    assert "digits-ae  1        bundle  reconstruct  a server takes it" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("`calotype models verify` tells.")


@pytest.mark.parametrize(
    ("config", "taken", "words"),
    [
        ("version_policy { specific { versions: [ 1, 7 ] } }", 1, ""),
        ("version_policy { specific { versions: 7 } }", None, ""),
        ("version_policy { all { } }", 2, ""),
        ("version_policy {", None, "config.pbtxt, line 1"),
    ],
)
def test_list_tells_what_the_configuration_has_a_server_take(models, config, taken, words):
    """A newer version that it leaves out is not the one; where it can't be read none is, and the sentence says why."""
    (models / "digits" / "config.pbtxt").write_text(config)
    [listed] = _json("list", "digits", "--models", models)["models"]
    assert listed["serving"] == taken
    shown = _run("list", "digits", "--models", models).stderr
    assert words in shown
    takes = [line.split()[1] for line in shown.splitlines() if line.endswith("a server takes it")]
    assert takes == ([] if taken is None else [str(taken)])


def test_the_workspace_of_the_environment_is_the_default(models, monkeypatch):
    """Without --models it is models/ in the workspace."""
    workspace = models.parent / "workspace"
    workspace.mkdir()
    models.rename(workspace / "models")
    monkeypatch.setenv("CALOTYPE_WORKSPACE", str(workspace))
    assert len(_json("list")["models"]) == 3


def test_show_prints_the_bundle(models):
    """The newest version unless told, with its path."""
    assert _json("show", "digits", "--models", models)["version"] == 2
    shown = _json("show", "digits", "--version", 1, "--models", models)
    assert (shown["version"], shown["labels"]) == (1, ["zero", "one", "two"])
    assert shown["path"] == str(models / "digits" / "1")
    assert _json("show", "plain", "--models", models)["kind"] == "plain"


def test_verify_finds_damage_by_file_and_exits_1(models):
    """Whole: exit 0. One byte changed: exit 1, the file named, the others still whole."""
    assert _json("verify", "--models", models)["whole"] is True
    path = models / "digits" / "1" / bundles.MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found = _json("verify", "--models", models, exit_code=1)
    assert [row["version"] for row in found["versions"] if row["damage"]] == [1]
    assert str(path) in next(row["damage"] for row in found["versions"] if row["damage"])
    assert str(path) in _run("verify", "digits", "--models", models, exit_code=1).stderr
    _run("verify", "digits-ae", "--models", models)


def test_verify_loads_what_has_no_checksums(models):
    """A plain model that no runtime can load is damage too."""
    fake_models.write_plain(models, "noise", model=b"noise")
    assert _json("verify", "noise", "--models", models, exit_code=1)["whole"] is False


def test_rollback_goes_back_one_version_and_stops_at_the_first(models):
    """Version 2 is withdrawn, 1 serves; then there is none to go back to, and nothing changes."""
    rolled = _json("rollback", "digits", "--models", models)
    assert rolled == {"model": "digits", "withdrawn": 2, "version": 1}
    assert (models / "digits" / ".withdrawn-2").is_dir()
    with pytest.raises(BadInput, match="only one"):
        _run("rollback", "digits", "--models", models)
    assert bundles.versions(models, "digits") == [1]


@pytest.mark.parametrize("arguments", [("show", "nobody"), ("verify", "nobody"), ("rollback", "../models")])
def test_an_unknown_model_is_told(models, arguments):
    """With the names that there are."""
    with pytest.raises(ModelNotFound, match="it has digits, digits-ae, plain"):
        _run(*arguments, "--models", models)


def test_a_missing_repository_is_told(tmp_path):
    """Nothing is made by looking."""
    with pytest.raises(BadRepository):
        _run("list", "--models", tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def url(models):
    """The same repository at a URL."""
    return f"file://{models}"


def test_a_repository_at_a_url_is_told_as_the_same_folder(models, url):
    """List, show and verify answer alike, and name the URL where they would name the folder."""
    (models / "digits" / "2" / bundles.CHECKSUMS).unlink()
    with (models / "digits-ae" / "1" / bundles.MODEL).open("ab") as file:
        file.write(b"x")
    for words, exit_code in ((["list"], 0), (["show", "digits"], 0), (["verify"], 1), (["verify", "plain"], 0)):
        local, remote = (_run(*words, "--models", place, "--json", exit_code=exit_code) for place in (models, url))
        assert json.loads(remote.stdout) == json.loads(local.stdout.replace(str(models), url))


def test_a_url_that_cannot_be_had_is_a_sentence(tmp_path):
    """No such kind, no such model, and no rollback at a distance."""
    with pytest.raises(BadRepository, match="of no known kind"):
        _run("list", "--models", "nosuchkind://me:hush-hush@x/models")
    with pytest.raises(ModelNotFound, match="in file:///"):
        _run("show", "absent", "--models", f"file://{tmp_path}")
    with pytest.raises(BadInput, match=r"is withdrawn in the folder .* Received: s3://bucket/models"):
        _run("rollback", "digits", "--models", "s3://me:hush-hush@bucket/models")
