"""What of a URL may be told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.urls import MASK, masked, scrubbed, without_secrets

PASSWORD = st.text("abcXYZ019@:!$&'()*+,;=-._~%", min_size=8, max_size=12)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://host/a.zip?sig=abc%2B&se=2026-01-01T00:00:00Z", "https://host/a.zip"),
        ("https://host/a.zip?X-Amz-Date=1&X-Amz-Signature=abc", "https://host/a.zip"),
        ("zip://*.png::https://host/a.zip?access_token=abc", "zip://*.png::https://host/a.zip"),
        ("https://host/a?token=abc::x#y", "https://host/a::x#y"),
        ("https://host/a?design=1&version=2", "https://host/a?design=1&version=2"),
        ("https://host/a?monkey=1&author=2", "https://host/a?monkey=1&author=2"),
        ("postgresql://host/db?user=me&sslpassword=pw", "postgresql://host/db"),
        ("mysql://host/db?passwd=pw", "mysql://host/db"),
        ("az://container/x?AccountKey=abc", "az://container/x"),
        ("postgresql+psycopg://me:pw@host/db", "postgresql+psycopg://host/db"),
        ("postgresql://me:p/w@host/db", "postgresql://host/db"),
        ("s3://AKIA:wJal/rXUt+n?FE#MI@bucket/photos", "s3://bucket/photos"),
        ("http://host:9000/a@b.zip", "http://host:9000/a@b.zip"),
        ("http://[::1]:9000/a@b.zip", "http://[::1]:9000/a@b.zip"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ("zip://a.png::https://me:pw@host/a.zip", "zip://a.png::https://host/a.zip"),
        ("photos?token=1", "photos"),
    ],
)
def test_signatures_and_tokens_go(url, kept):
    """A query that holds a secret goes as a whole, so that a place signed anew is the same place."""
    assert without_secrets(url) == kept


@given(PASSWORD)
def test_no_password_is_told(password):
    """Whatever is in a password, no form of the URL that is told has it, and no error that quotes the URL."""
    url = f"https://me:{password}@host:8443/photos"
    for told in (without_secrets(url), masked(url), scrubbed(f"cannot open {url!r}\nfor {password}", url)):
        assert password not in told
        assert "\n" not in told
    assert masked(url) == f"https://{MASK}@host:8443/photos"


def test_what_others_say_keeps_its_sense():
    """An error loses its secrets and its line breaks, nothing else; another URL's password in it goes too."""
    said = scrubbed("Cannot connect to\n  http://a:b@proxy:3128 for me@example.org", "s3://bucket/x")
    assert said == f"Cannot connect to http://{MASK}@proxy:3128 for me@example.org"
    assert scrubbed('Invalid bucket name "a:b@bucket"', "s3://a:b@bucket/x") == f'Invalid bucket name "{MASK}@bucket"'
    assert scrubbed("No such bucket: 's3://bucket/x'", "s3://bucket/x") == "No such bucket: 's3://bucket/x'"
