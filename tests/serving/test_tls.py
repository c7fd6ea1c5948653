"""TLS of both ports by a whole server: one-sided, mutual, exchanged while it runs, and refused when it can't be."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import ssl
import subprocess
import sys

import grpc
import pytest

from serving import logs
from serving.causes import cause
from serving.client import Client, Options
from serving.commands import predict
from serving.errors import BadSetting, CalotypeError, ModelNotReady
from serving.http import HttpPort
from serving.server import Server
from serving.settings import ServeSettings
from serving.tls import Tls
from tests.serving import fake_models
from tests.serving.certificates import Authority

QUICK = Options(timeout_seconds=10, attempts=1)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    fake_models.publish_classifier(folder)
    return folder


@pytest.fixture
def serve(models):
    """Start servers on free ports; stopped at the end."""
    servers = []

    def start(**chosen):
        server = Server(ServeSettings(**{"models": models, "port": 0, "http_port": 0, **chosen}))
        servers.append(server)
        return server.__enter__()

    yield start
    for server in servers:
        server.stop(10)


def secured(authority, *, mutual=False):
    certificate, key = authority.sign("server")
    more = {"tls_client_ca": authority.ca} if mutual else {}
    return {"tls_certificate": certificate, "tls_key": key, **more}


def address(server):
    return server.addresses[0].rpartition("/")[2]


def get(server, path, context=None):
    host = server.addresses[1].rpartition("/")[2]
    if server.addresses[1].startswith("https:"):
        connection = http.client.HTTPSConnection(host, context=context, timeout=10)
    else:
        connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def trusting(ca, pair=None):
    context = ssl.create_default_context(cafile=str(ca))
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def test_both_ports_speak_tls_and_nothing_else(serve, authority, form):
    server = serve(transport=form, **secured(authority))
    assert [name.partition("://")[0] for name in server.addresses] == ["grpcs", "https"]
    with Client(address(server), ca=authority.ca, options=QUICK) as client:
        assert len(client.classify(fake_models.pixels(3), model="digits")) == 3
    for path in ("/livez", "/readyz", "/metrics"):
        assert get(server, path, trusting(authority.ca)) == 200
    with Client(address(server), options=QUICK) as client, pytest.raises(CalotypeError):
        client.models()
    plain = http.client.HTTPConnection(server.addresses[1].rpartition("/")[2], timeout=10)
    plain.request("GET", "/livez")
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        plain.getresponse()
    plain.close()


def test_a_client_that_trusts_somebody_else_does_not_connect(serve, authority, tmp_path):
    server = serve(**secured(authority))
    other = Authority(tmp_path, "other")
    for asked in ({"ca": other.ca}, {}):
        with Client(f"grpcs://{address(server)}", **asked, options=QUICK) as client, pytest.raises(ModelNotReady):
            client.models()
    with pytest.raises(ssl.SSLCertVerificationError):
        get(server, "/livez", trusting(other.ca))


def test_the_http_port_can_be_left_plain(serve, authority):
    server = serve(http_plain=True, **secured(authority, mutual=True))
    assert server.addresses[1].startswith("http://")
    assert [get(server, path) for path in ("/livez", "/metrics")] == [200, 200]


def test_mutual_tls_wants_a_certificate_of_the_right_authority(serve, authority, tmp_path, form):
    """Of every call and of whoever reads the metrics; probes have none, and need none."""
    server = serve(transport=form, **secured(authority, mutual=True))
    certificate, key = authority.sign("client")
    with Client(address(server), ca=authority.ca, certificate=certificate, key=key, options=QUICK) as client:
        assert [info.name for info in client.models()] == ["digits"]
    stranger = Authority(tmp_path, "stranger").sign("stranger")
    for shown in ({}, dict(zip(("certificate", "key"), stranger, strict=True))):
        with Client(address(server), ca=authority.ca, **shown, options=QUICK) as client, pytest.raises(ModelNotReady):
            client.models()
    assert [get(server, path, trusting(authority.ca)) for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 403]
    assert get(server, "/metrics", trusting(authority.ca, (certificate, key))) == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(server, "/metrics", trusting(authority.ca, stranger))


def test_certificates_are_exchanged_while_the_server_runs(serve, authority, tmp_path, form):
    """Of a pair that doesn't fit, as in the middle of an exchange, the one before goes on."""
    server = serve(transport=form, **secured(authority))
    later = Authority(tmp_path, "later")
    made, private = later.pair("server")

    def connects(ca):
        with Client(address(server), ca=ca, options=QUICK) as client:
            try:
                client.models()
            except ModelNotReady:
                return False
            return True

    with Client(address(server), ca=authority.ca, options=QUICK) as early:
        early.models()
        (tmp_path / "server.pem").write_bytes(made)
        assert connects(authority.ca)
        assert get(server, "/livez", trusting(authority.ca)) == 200
        (tmp_path / "server.key").write_bytes(private)
        assert connects(later.ca)
        assert not connects(authority.ca)
        assert get(server, "/livez", trusting(later.ca)) == 200
        assert len(early.models()) == 1


def test_what_is_no_certificate_is_one_sentence_that_names_the_flag(authority, tmp_path):
    certificate, key = authority.sign("server")
    foreign = authority.sign("other")[1]
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    missing = tmp_path / "missing.pem"
    for arguments, flag in (
        ((missing, key), "--tls-certificate"),
        ((certificate, missing), "--tls-key"),
        ((junk, key), "--tls-certificate"),
        ((certificate, junk), "--tls-key"),
        ((certificate, foreign), "--tls-key"),
        ((certificate, key, missing), "--tls-client-ca"),
        ((certificate, key, junk), "--tls-client-ca"),
    ):
        with pytest.raises(BadSetting, match=flag):
            Tls(*arguments)


@pytest.mark.parametrize("secure", [True, False])
def test_a_client_that_cannot_connect_is_told_what_may_be_wrong(serve, authority, tmp_path, secure):
    """At once where no further attempt would mend it."""
    other = Authority(tmp_path, "other")
    server = serve(**(secured(authority) if secure else {}))
    wrong = [(address(server), {"ca": other.ca}, "not trusted"), (f"grpcs://{address(server)}", {}, "not trusted")]
    if not secure:
        wrong = [(address(server), {"ca": authority.ca}, "does not speak TLS")]
        wrong += [(server.addresses[1].rpartition("/")[2], {}, "no gRPC port")]
    for where, asked, words in wrong:
        waits = []
        with Client(where, **asked, sleep=waits.append) as client, pytest.raises(ModelNotReady, match=words):
            client.models()
        assert waits == []
    if secure:
        with Client(address(server), options=QUICK) as client, pytest.raises(ModelNotReady, match="grpcs://"):
            client.models()


def test_a_server_that_is_not_there_is_told_as_such():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"127.0.0.1:{port}", options=QUICK) as client, pytest.raises(ModelNotReady, match="Nobody listens"):
        client.models()


def test_localhost_hides_nothing():
    """It is two addresses, and the core tells of the last one alone, whichever that was."""
    failed = "connections to all backends failing; last error: UNKNOWN: "
    refused = cause(failed + "ipv6:%5B::1%5D:8001: Failed to connect to remote host: Connection refused")
    assert "127.0.0.1" in refused.sentence
    assert not refused.lasting
    assert cause(failed + "ipv6:%5B::1%5D:8001: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED").lasting
    assert cause("Socket closed") is None


def test_a_certificate_of_another_name_is_told_as_such(serve, authority):
    server = serve(host="0.0.0.0", **secured(authority))
    where = f"127.0.0.2:{address(server).rpartition(':')[2]}"
    with Client(where, ca=authority.ca, options=QUICK) as client, pytest.raises(ModelNotReady, match="another name"):
        client.models()


@pytest.mark.parametrize(
    "address", ["http://localhost:8001", "https://localhost:8001", "GRPCS://localhost:1", "", "grpc://"]
)
def test_an_address_of_something_else_is_refused(address):
    """Before anything is sent, with what was expected."""
    with pytest.raises(BadSetting, match=r"grpcs://host:port"):
        Client(address)


def test_the_addresses_that_grpc_knows_are_taken():
    for where in (
        "dns:///localhost:1",
        "unix:///nowhere",
        "unix:nowhere",
        "ipv4:127.0.0.1:1",
        "[::1]:1",
        "grpc://a:1/",
    ):
        Client(where).close()


def test_a_file_of_something_else_is_refused_by_its_name(authority, tmp_path):
    """Before anything is sent; what is in a key is not told."""
    certificate, key = authority.sign("client")
    locked = tmp_path / "locked.key"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n")
    for wrong, words in (
        ({"ca": key}, r"ca must be .*client\.key"),
        ({"ca": junk}, r"ca must be .*junk\.pem"),
        ({"ca": b""}, "ca must be .* 0 bytes"),
        ({"certificate": key, "key": key}, "certificate must be"),
        ({"certificate": certificate, "key": certificate}, "key must be"),
        ({"certificate": certificate, "key": locked}, "passphrase"),
    ):
        with pytest.raises(BadSetting, match=words) as caught:
            Client("127.0.0.1:1", **wrong)
        assert "BEGIN" not in str(caught.value)
    Client("127.0.0.1:1", ca=authority.ca.read_text(), certificate=str(certificate), key=key.read_bytes()).close()


def test_predict_tells_a_tls_mistake_in_one_line(serve, authority, tmp_path):
    """The core's own lines stay off the terminal, unless they are asked for."""
    server = serve(**secured(authority))
    image = tmp_path / "a.png"
    image.write_bytes(fake_models_png())
    code = "import sys; from serving import cli; sys.exit(cli.run(cli.load('predict')))"
    asked = [sys.executable, "-c", code, image, "--model", "digits", "--server", f"grpcs://{address(server)}"]
    plain = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False, env=plain)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The server's certificate is not trusted")
    assert done.stderr.count("\n") == 1
    done = subprocess.run(
        asked, capture_output=True, text=True, timeout=60, check=False, env=plain | {"GRPC_VERBOSITY": "INFO"}
    )
    assert "ssl_transport_security" in done.stderr


@pytest.mark.parametrize("half", [{"tls_certificate": "c"}, {"tls_key": "k"}, {"tls_client_ca": "a"}])
def test_half_of_what_tls_needs_is_refused(half):
    with pytest.raises(BadSetting, match="--tls"):
        ServeSettings(**half)


def test_a_client_with_half_a_pair_or_a_missing_file_is_told_at_once(tmp_path):
    for wrong in ({"certificate": b"c"}, {"key": b"k"}, {"ca": tmp_path / "missing"}):
        with pytest.raises(BadSetting):
            Client("127.0.0.1:1", **wrong)


def test_a_handshake_that_nobody_finishes_holds_nobody_up(authority):
    certificate, key = authority.sign("server")
    port = HttpPort(host="127.0.0.1", port=0, metrics=bytes, ready=lambda: True, tls=Tls(certificate, key))
    port.start()
    try:
        with socket.create_connection(("127.0.0.1", port.port)):
            connection = http.client.HTTPSConnection("127.0.0.1", port.port, context=trusting(authority.ca), timeout=5)
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200
            connection.close()
    finally:
        port.stop()


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("wrong", 401), ("good", 200), ("some", 200)])
def test_metrics_need_a_token_and_probes_do_not(serve, tmp_path, token, status):
    (tmp_path / "tokens").write_text("good\nsome other")
    server = serve(tokens=tmp_path / "tokens")
    assert get(server, "/livez") == get(server, "/readyz") == 200
    connection = http.client.HTTPConnection(server.addresses[1].rpartition("/")[2], timeout=10)
    connection.request("GET", "/metrics", headers={} if token is None else {"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == status
    assert ('model="digits"' in text) == (token == "good")


def test_predict_shows_a_token_and_certificates(serve, authority, tmp_path, capsys, monkeypatch):
    """And takes the token from the environment, where no list of processes shows it."""
    (tmp_path / "tokens").write_text("secret digits")
    server = serve(tokens=tmp_path / "tokens", **secured(authority, mutual=True))
    certificate, key = authority.sign("client")
    image = tmp_path / "a.png"
    image.write_bytes(fake_models_png())
    monkeypatch.setenv("CALOTYPE_TOKEN", "secret")
    arguments = [image, "--model", "digits", "--server", address(server), "--json"]
    arguments += ["--ca", authority.ca, "--certificate", certificate, "--key", key]
    predict.command.main(list(map(str, arguments)), standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["failed"] == 0


def fake_models_png():
    from serving.codec import png

    return png(fake_models.pixels(1)[0])


@pytest.mark.parametrize(
    ("tls", "tokens", "words"),
    [
        (False, False, ["--tokens", "--tls-certificate"]),
        (True, False, ["--tokens"]),
        (False, True, ["--tls-certificate"]),
        (True, True, []),
    ],
)
def test_an_open_server_says_what_it_lacks(serve, authority, tmp_path, tls, tokens, words):
    (tmp_path / "tokens").write_text("secret")
    said = io.StringIO()
    logs.configure(form="text", level="info", stream=said)
    more = secured(authority) if tls else {}
    serve(host="0.0.0.0", tokens=tmp_path / "tokens" if tokens else None, **more)
    assert [word for word in ("--tokens", "--tls-certificate") if word in said.getvalue()] == words
    assert ("open_to_the_network" in said.getvalue()) == bool(words)


def test_the_addresses_as_printed_are_what_a_client_takes(serve):
    server = serve()
    with Client(server.addresses[0], options=QUICK) as client:
        assert len(client.models()) == 1
    with grpc.insecure_channel(address(server)) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
