"""What a copy of a bucket lacks, decided from listings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.mirror_plan import Listing, decide, listing

WHOLE = ("model.onnx", "bundle.json", "checksums")


def files(*names, tag="1"):
    return {name: (len(name), tag) for name in names}


def decided(now, *, before=None, mirrored=None, refused=None):
    return decide(
        Listing(versions=now),
        before=Listing(versions=before or {}),
        mirrored=Listing(versions=mirrored or {}),
        refused=refused or {},
    )


def test_a_listing_is_models_versions_and_files():
    """Only `name/version/file` and `name/config.pbtxt` count; what starts with a dot or can't be a name is nobody's."""
    told = {"size": 5, "ETag": "e"}
    paths = [
        *("digits/config.pbtxt", "digits/1/model.onnx", "digits/10/checksums", "digits/1/deeper/x", "digits/readme"),
        *("digits/.withdrawn-2/model.onnx", "digits/01/model.onnx", "digits/1/.part", ".trash/1/model.onnx", "x"),
        *("a b/1/model.onnx", "../1/model.onnx", "digits//model.onnx", "/1/model.onnx", "-x/config.pbtxt", ""),
    ]
    found = listing([*((path, told) for path in paths), ("digits/3/model.onnx", {"type": "directory"})])
    assert found.configs == {"digits": (5, "e")}
    assert found.versions == {("digits", 1): {"model.onnx": (5, "e")}, ("digits", 10): {"checksums": (5, "e")}}
    assert found.names == {"digits"}


def test_what_is_uploaded_again_is_the_same():
    """Where a store tells a tag of the content the time doesn't count; elsewhere the time is what there is."""
    told = [{"size": 1, "ETag": "e", "LastModified": 1}, {"size": 1, "ETag": "e", "LastModified": 2}]
    one, two = (listing([("a/1/model.onnx", each)]) for each in told)
    assert one == two
    one, two = (listing([("a/1/model.onnx", {"size": 1, "mtime": time})]) for time in (1.5, 2.5))
    assert one != two


def test_a_bundle_is_taken_when_its_checksums_are_there():
    """Which come last; until then it is told what is missing."""
    key = ("digits", 1)
    assert decided({key: files(*WHOLE)}).fetch == (key,)
    for missing in WHOLE:
        some = decided({key: files(*(name for name in WHOLE if name != missing))}, before={key: files(*WHOLE)})
        assert some.fetch == ()
        assert missing in some.unready[0][1]


def test_a_plain_model_is_taken_when_two_looks_found_it_the_same():
    """It has nothing that says when it is whole; one that still grows waits."""
    key, model = ("plain", 1), files("model.onnx")
    assert decided({key: model}).settling == (key,)
    assert decided({key: model}, before={key: files("model.onnx", tag="0")}).settling == (key,)
    assert decided({key: model}, before={key: model}).fetch == (key,)
    assert decided({key: files("readme")}, before={key: files("readme")}).unready


def test_the_newest_come_first():
    """Each model's newest version before anybody's older ones."""
    now = {(name, number): files(*WHOLE) for name in "ab" for number in (1, 2, 10)}
    assert decided(now).fetch == (("a", 10), ("b", 10), ("a", 2), ("b", 2), ("a", 1), ("b", 1))


def test_what_was_found_damaged_is_tried_again_when_it_changed():
    """Not before: it would be fetched at every look."""
    key, now = ("digits", 1), files(*WHOLE)
    assert decided({key: now}, refused={key: now}).fetch == ()
    assert decided({key: now}, refused={key: files(*WHOLE, tag="0")}).fetch == (key,)


VERSIONS = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.integers(1, 4)),
    st.builds(files, tag=st.sampled_from("xy")) | st.builds(lambda tag: files(*WHOLE, tag=tag), st.sampled_from("xy")),
)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_a_copy_that_follows_ends_up_alike(now, before, mirrored):
    """Carried out, a decision leaves only what can't be taken undone; nothing that is still there goes."""
    decision = decided(now, before=before, mirrored=mirrored)
    assert set(decision.gone) == mirrored.keys() - now.keys()
    kept = {key: each for key, each in mirrored.items() if key not in decision.gone}
    after = kept | {key: now[key] for key in decision.fetch}
    again = decided(now, before=now, mirrored=after)
    assert not again.gone
    assert set(again.fetch) == set(decision.settling)
    assert {key for key, _ in again.unready} == {key for key, _ in decision.unready}
