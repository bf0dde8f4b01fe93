"""What is shown on a terminal or a page cannot steer it, and no secret of a URL is in it."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.printable import has_secret, printable

SECRETS = {
    "s3://KEY:SECRET@bucket/x": "s3://***@bucket/x",
    "s3://KEY:SE/CR+ET@bucket/x": "s3://***@bucket/x",
    "https://user:word@host:80/x": "https://***@host:80/x",
    "https://TOKEN@host/x": "https://***@host/x",
    "zip://a::ftp://user:word@host/a.zip": "zip://a::ftp://***@host/a.zip",
    "az://c/x?sv=1&sig=abc%2B": "az://c/x?sv=1&sig=***",
    "https://h/x?X-Amz-Security-Token=abc&X-Amz-Date=1": "https://h/x?X-Amz-Security-Token=***&X-Amz-Date=***",
    "https://h/x?access_token=abc&v=1": "https://h/x?access_token=***&v=1",
}
HARMLESS = [
    "s3://bucket/a:b@c",
    "http://host:9000/data@v2",
    "http://[::1]:9000/data@v2",
    "sftp://user@host/x",
    "abfs://container@account.dfs.core.windows.net/x",
    "/data/a:b@c?design=1",
    "name: it is user@host, see https://host/page?version=2",
]


@pytest.mark.parametrize("url", SECRETS)
def test_secrets_in_urls_are_hidden(url: str) -> None:
    assert printable(f"no {url} here") == f"no {SECRETS[url]} here" and has_secret(url)


@pytest.mark.parametrize("url", HARMLESS)
def test_what_is_no_secret_is_shown(url: str) -> None:
    assert printable(url) == url and not has_secret(url)


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x9b2J", "a\nb", "a\rb", "\x07", "\x00", "\x7f", "\u202egnp.exe", "\u2028"]
)
def test_what_steers_a_terminal_is_an_escape(text: str) -> None:
    assert printable(text).isprintable() and "\\" in printable(text)


def test_letters_of_all_languages_stay() -> None:
    text = "Ärger, 猫, שלום, नमस्ते, 👩\u200d🚀, [bold]"
    assert printable(text) == text


@given(st.text())
def test_a_text_that_was_made_printable_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    printable(text).encode()


def test_every_user_error_is_printable_also_after_pickling() -> None:
    error = UserError("no \x1b[2J at s3://KEY:SECRET@b")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == r"no \x1b[2J at s3://***@b"
