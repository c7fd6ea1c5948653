"""Settings: flags before environment before defaults, each within its bounds and each documented."""

from pathlib import Path

import pytest

from serving import settings
from serving.errors import BadSetting
from serving.images import MAX_PIXELS
from serving.row_queue import BatchLimits

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
NUMBERS = [name for name in settings.defaults() if settings.about(name).unit]


def test_defaults_are_within_their_own_bounds():
    assert settings.read({}, {}) == settings.ServeSettings()


def test_a_flag_goes_before_the_environment_and_that_before_the_default():
    environment = {"CALOTYPE_MAX_BATCH_ROWS": "16", "CALOTYPE_PORT": "9000"}
    chosen = settings.read({"max_batch_rows": "8", "port": None}, environment)
    assert (chosen.max_batch_rows, chosen.port, chosen.http_port) == (8, 9000, 8002)


def test_an_empty_variable_counts_as_not_set():
    assert settings.read({}, {"CALOTYPE_PORT": ""}).port == 8001


def test_the_repository_is_the_workspaces_unless_told():
    assert settings.read({}, {"CALOTYPE_WORKSPACE": "/w"}).models == Path("/w/models")
    assert settings.read({"models": "/m"}, {"CALOTYPE_WORKSPACE": "/w"}).models == Path("/m")


@pytest.mark.parametrize("name", NUMBERS)
def test_the_bounds_themselves_are_allowed_and_what_lies_beyond_is_not(name):
    known, kind = settings.about(name), type(settings.defaults()[name])
    for good in (known.low, known.high):
        assert getattr(settings.read({name: str(kind(good))}, {}), name) == good
    for bad in (known.low - 1, known.high + 1):
        with pytest.raises(BadSetting):
            settings.read({name: str(kind(bad))}, {})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["many", "", "nan", "1e999", "0x10"])
def test_what_is_no_number_is_refused_by_a_sentence_with_flag_variable_bounds_and_value(name, text):
    with pytest.raises(BadSetting) as refused:
        settings.read({name: text}, {})
    sentence = str(refused.value)
    assert settings.flag(name) in sentence
    assert settings.variable(name) in sentence
    assert f"{settings.about(name).high:g}" in sentence
    assert repr(text) in sentence or text in {"nan", "1e999"}


@pytest.mark.parametrize(("name", "text"), [("log_format", "xml"), ("log_level", "loud"), ("host", "")])
def test_words_are_checked_too(name, text):
    with pytest.raises(BadSetting, match=settings.flag(name)):
        settings.read({name: text}, {})


@pytest.mark.parametrize(
    ("text", "plain"), [("true", True), ("1", True), ("Yes", True), ("false", False), ("0", False)]
)
def test_a_switch_is_said_by_a_flag_or_by_a_word_in_the_environment(text, plain):
    assert settings.read({"http_plain": None}, {"CALOTYPE_HTTP_PLAIN": text}).http_plain is plain
    assert settings.read({"http_plain": "true"}, {"CALOTYPE_HTTP_PLAIN": text}).http_plain is True
    with pytest.raises(BadSetting, match="--http-plain"):
        settings.read({}, {"CALOTYPE_HTTP_PLAIN": "perhaps"})


def test_files_are_not_set_unless_named():
    assert settings.read({}, {}).tokens is None
    assert settings.read({"tokens": "a"}, {"CALOTYPE_TOKENS": "b"}).tokens == Path("a")


@pytest.mark.parametrize("name", list(settings.defaults()))
def test_every_setting_is_documented_with_variable_default_and_unit(name):
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith(f"| `{settings.flag(name)}` |")]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    known = settings.about(name)
    assert cells[:3] == [f"`{settings.flag(name)}`", f"`{settings.variable(name)}`", f"`{settings.defaults()[name]}`"]
    assert cells[3] == known.unit
    if known.unit:
        assert cells[4] == f"{known.low:g} to {known.high:g}"
    assert cells[5] == known.text


def test_defaults_agree_with_those_of_the_rooms():
    chosen, limits = settings.ServeSettings(), BatchLimits()
    assert chosen.max_image_pixels == MAX_PIXELS
    assert (chosen.max_batch_rows, chosen.max_wait_ms) == (limits.max_batch_rows, limits.max_wait_ms)
    assert (chosen.max_queue_rows, chosen.max_queue_bytes) == (limits.max_queue_rows, limits.max_queue_bytes)
