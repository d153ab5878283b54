"""Each report says what came of a run, in its own format, and shows no secret."""

from __future__ import annotations

import base64
import json
import re
import time
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
import yaml

from exec_server_conformance import reports
from exec_server_conformance.errors import ReportError
from exec_server_conformance.reports import jsonl, page, reference, schema
from exec_server_conformance.runner.contract import REVISIONS, bundle
from exec_server_conformance.runner.redaction import REDACTED, Redactor
from exec_server_conformance.runner.results import Cause, Divergence
from tests.support.sample_report import MARKUP, NASTY, sample
from tests.support.suite_runs import SESSION, against, run, written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def test_json_lines_validate_against_the_published_schema() -> None:
    published = json.loads(schema.PATH.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(published)
    lines = [json.loads(line) for line in jsonl.render(sample()).splitlines()]
    for line in lines:
        validator.validate(line)
        assert list(validator.iter_errors({**line, "event": "other"}))
    assert [line["event"] for line in lines] == ["run", *["play"] * 6, "summary"]
    assert jsonl.parse(jsonl.render(sample())) == sample()


def test_published_schema_is_current() -> None:
    assert schema.PATH.read_text(encoding="utf-8") == schema.text()


@pytest.mark.parametrize("text", ["", "{}\n", "nonsense\n", '{"event":"summary"}\n'])
def test_invalid_report_is_rejected(text: str) -> None:
    with pytest.raises(ReportError, match="not a report"):
        jsonl.parse(text)


def test_junit_totals() -> None:
    root = ET.fromstring(reports.FORMATS["junit"](sample()))
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["v1/fs", "v1/process"]
    for element in (root, *suites):
        cases = element.findall(".//testcase")
        assert int(element.get("tests", "")) == len(cases)
        for name in ("failure", "error", "skipped"):
            plural = {"failure": "failures", "error": "errors"}.get(name, name)
            assert int(element.get(plural, "")) == len(element.findall(f".//{name}"))
    found = {case.get("name"): [one.tag for one in case] for case in root.iter("testcase")}
    assert found == {
        "error [ws]": ["error", "system-out"],
        "failed [ws]": ["failure", "system-out"],
        "known [ws]": ["skipped"],
        "na [ws]": ["skipped"],
        "passed [ws]": [],
        "stale [ws]": ["failure", "system-out"],
    }
    failure = root.find(".//testcase[@name='failed [ws]']/failure")
    assert failure is not None
    assert failure.get("type") == "server-violation"
    assert MARKUP in (failure.text or "")


def test_tap_escapes_directives_and_explains_failures() -> None:
    lines = reports.FORMATS["tap"](sample()).splitlines()
    assert lines[:2] == ["TAP version 14", "1..6"]
    points = [line for line in lines if re.match(r"(not )?ok ", line)]
    assert [re.split(r" - ", point)[0] for point in points] == [
        "not ok 1",
        "not ok 2",
        "not ok 3",
        "ok 4",
        "ok 5",
        "not ok 6",
    ]
    assert points[2].endswith("v1/fs/known [ws] # TODO it is \\# so")
    assert points[3].endswith("v1/fs/na [ws] # SKIP needs \\#1")
    blocks = re.findall(r"^  ---\n(.*?)^  \.\.\.$", "\n".join(lines), re.MULTILINE | re.DOTALL)
    details = [yaml.safe_load(re.sub("^  ", "", block, flags=re.MULTILINE)) for block in blocks]
    assert [one["outcome"] for one in details] == ["error", "failed", "known", "stale"]
    assert details[1]["divergence"]["expected"] == {"a": NASTY}
    assert details[1]["trace"][1].endswith('main <- {"id":1,"result":{"processId":"p"}}')


def test_page_escapes_text() -> None:
    text = page.render(sample(), "https://reference.example")
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert 'href="https://reference.example/v1/process.md#processstart"' in text
    assert "<code>suite/unheard</code>" in text


def test_unrunnable_server_is_in_every_report() -> None:
    whole = sample()
    summary = msgspec.structs.replace(whole.summary, no_server="it is not there", exit_code=3)
    report = msgspec.structs.replace(whole, plays=[], summary=summary)
    for kind in reports.FORMATS:
        assert "it is not there" in reports.FORMATS[kind](report)
    assert "it is not there" in page.render(report)


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_method_links_to_its_section(revision: str) -> None:
    for method in bundle(revision)["x-methods"]:
        place = reference.place(revision, method)
        assert place is not None
        path, _, anchor = place.partition("#")
        text = (reference.CHECKOUT / path).read_text(encoding="utf-8")
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert anchor in [re.sub(r"[^a-z0-9-]", "", one.lower()) for one in headings]


SECRET = "s3cr3t-0123456789"


@pytest.mark.parametrize(
    "message",
    [
        {"params": {"env": {"PLAIN": SECRET}}},
        {"params": {"envPolicy": {"set": {"PLAIN": SECRET}}}},
        {"params": {"headers": [{"name": "AUTHORIZATION", "value": f"Bearer {SECRET}"}]}},
        {"params": {"headers": {"Cookie": SECRET}}},
        {"params": {"url": f"https://me:{SECRET}@example.com/"}},
        {"result": {"text": f"it was {SECRET}"}},
    ],
)
def test_secrets_are_redacted(message: Mapping[str, Any]) -> None:
    redactor = Redactor({"API_TOKEN": SECRET, "HOME": "/home/user"})
    text = redactor.message(json.dumps(message))
    assert SECRET not in text
    assert REDACTED in text
    assert Redactor({}).text(f'{{"env": {{"A": "{SECRET}"').count(SECRET) == 0


def test_secret_within_base64_is_redacted() -> None:
    message = {"params": {"chunk": base64.b64encode(f"it is {SECRET}!".encode()).decode()}}
    clean = Redactor({"API_TOKEN": SECRET}).value(message)
    assert base64.b64decode(clean["params"]["chunk"]) == f"it is {REDACTED}!".encode()


def test_shown_variables_are_still_redacted() -> None:
    redactor = Redactor({"API_TOKEN": SECRET}, shown={"PATH"})
    clean = redactor.value({"env": {"PATH": f"/bin:/{SECRET}", "HOME": "/home/user"}})
    assert clean == {"env": {"PATH": f"/bin:/{REDACTED}", "HOME": REDACTED}}


def test_text_without_secrets_is_unchanged() -> None:
    text = '{ "method": "x",  "params": {"env": {}, "path": "/home/user"}}'
    assert Redactor({"HOME": "/home/user", "TOKEN": "short"}).message(text) == text


def test_known_secret_is_redacted_everywhere() -> None:
    redactor = Redactor({})
    sent = {"headers": [{"value": f"Bearer {SECRET}", "name": "Authorization"}]}
    assert SECRET not in json.dumps(redactor.value(sent))
    assert redactor.text(f"echo: {SECRET}") == f"echo: {REDACTED}"


HIDDEN_PLACES: list[dict[str, Any]] = [
    {"headers": [{"name": "X-Auth-Token", "value": SECRET}]},
    {"headers": [{"name": "Private-Token", "value": SECRET}]},
    {"headers": [{"name": "x-amz-security-token", "value": SECRET}]},
    {"headers": [{"value": f"session={SECRET}; path=/", "name": "cookie"}]},
    {"headers": {"X-Session": SECRET}},
    {"accessToken": SECRET},
    {"url": f"https://example.com/?access_token={SECRET}&page=1"},
    {"url": f"https://example.com/a?page=1&X-Amz-Signature={SECRET}"},
    {"url": f"https://example.com/#id_token={SECRET}"},
    {"url": f"http://me@corp:{SECRET}@proxy:3128"},
    {"argv": ["curl", "-H", f"Authorization: Bearer {SECRET}", "http://localhost"]},
    {"argv": ["curl", "-HCookie: a=1; b=" + SECRET]},
    {"argv": ["curl", "-u", f"me:{SECRET}", "http://localhost"]},
    {"argv": ["curl", "--proxy", f"me:{SECRET}@proxy:3128", "http://localhost"]},
    {"argv": ["tool", "--api-key", SECRET]},
    {"argv": ["tool", f"--password={SECRET}"]},
    {"argv": ["env", f"DB_PASSWORD={SECRET}", "tool"]},
    {"argv": ["sh", "-c", f"export API_TOKEN='{SECRET}'; tool --token {SECRET}"]},
    {"chunk": base64.b64encode(f"export API_TOKEN={SECRET}\n".encode()).decode()},
    {"bodyBase64": base64.b64encode(f"client_secret={SECRET}&a=1".encode()).decode()},
    {"bodyBase64": base64.b64encode(json.dumps({"password": SECRET}).encode()).decode()},
    {"message": f"it sent Bearer {SECRET}"},
]


@pytest.mark.parametrize("place", HIDDEN_PLACES, ids=json.dumps)
def test_secrets_are_detected_by_their_location(place: dict[str, Any]) -> None:
    """They are taken out there, and wherever they come again."""
    redactor = Redactor({})
    for shown in (redactor.value({"params": place}), redactor.value({"text": f"it is {SECRET}"})):
        assert SECRET not in json.dumps(shown)
        for member in ("chunk", "bodyBase64"):
            if member in shown.get("params", {}):
                assert SECRET.encode() not in base64.b64decode(shown["params"][member])
    assert REDACTED in redactor.text(SECRET)


@pytest.mark.parametrize(
    "message",
    [
        {"sessionId": "0123456789", "processId": "author-key", "maxTokens": 5},
        {"argv": ["sh", "-c", "echo author: me; cat keys/token.txt --max-tokens"]},
        {"url": "http://localhost:8000/path?page=1&size=20"},
        {"headers": [{"name": "content-type", "value": "application/json"}]},
    ],
    ids=json.dumps,
)
def test_secret_like_text_is_kept(message: dict[str, Any]) -> None:
    assert Redactor({}).value({"params": message}) == {"params": message}


def test_proxy_and_basic_credentials_are_remembered() -> None:
    redactor = Redactor({"HTTPS_PROXY": f"http://me:{SECRET}@proxy:3128"})
    assert SECRET not in redactor.text(f"the proxy refused {SECRET}")
    other = "an0ther-s3cret"
    basic = base64.b64encode(f"me:{other}".encode()).decode()
    redactor.headers({"Proxy-Authorization": f"Basic {basic}"})
    assert redactor.text(f"{basic} {other}") == f"{REDACTED} {REDACTED}"


def test_secret_with_another_as_prefix_is_redacted() -> None:
    redactor = Redactor({"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefghijkl"})
    assert redactor.text("abcdefghijkl") == REDACTED


@pytest.mark.parametrize("part", ["token", "://", "?a", "-u:a@", "a", "token=", "a:"])
def test_redaction_is_linear(part: str) -> None:
    """Twice the text takes about twice the time, far from four times and more."""
    text = part * (40_000 // len(part))

    def seconds(message: str) -> float:
        begin = time.perf_counter()
        Redactor({}).value({"argv": [message], "url": message})
        return time.perf_counter() - begin

    half = min(seconds(text[: len(text) // 2]) for _ in range(3))
    assert min(seconds(text) for _ in range(3)) < 3.5 * half + 0.05


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("server --listen stdio", "server --listen stdio"),
        ("env TOKEN=abc server", "env TOKEN=[redacted] server"),
        ("server --api-key abc -v", "server --api-key [redacted] -v"),
        ("server --token='a b' -v", "server --token=[redacted] -v"),
    ],
)
def test_variable_values_in_commands_are_redacted(command: str, shown: str) -> None:
    assert Redactor({}).command(command) == shown


def test_run_writes_every_report_without_secrets(tmp_path: Path) -> None:
    """The run fails, so that what was expected and what came are shown, too."""
    session = json.loads(json.dumps(SESSION))
    session[1]["params"]["env"] = {"PLAIN": SECRET}
    session[2:2] = [
        {
            "call": "http/request",
            "params": {
                "requestId": "r",
                "method": "GET",
                "url": "http://127.0.0.1:1/",
                "headers": [{"name": "Authorization", "value": SECRET}],
            },
            "expect": {"result": {"headers": [{"name": "Authorization", "value": SECRET}]}},
        }
    ]
    options = [f"--{kind}={tmp_path / kind}" for kind in reports.KINDS]
    sessions = written(tmp_path / "sessions", session)
    done = run("--cmd", against("echoes"), "--sessions", sessions, "--verbose", *options)
    assert done.returncode == 1, done.stdout + done.stderr
    shown = [(tmp_path / kind).read_text(encoding="utf-8") for kind in reports.KINDS]
    for text in (done.stdout, *shown):
        assert "http/request" in text
        assert REDACTED in text
        assert SECRET not in text
    report = jsonl.parse((tmp_path / "jsonl").read_text(encoding="utf-8"))
    assert report.summary.exit_code == 1
    (one,) = report.plays
    assert one.cause is Cause.SERVER_VIOLATION
    assert isinstance(one.divergence, Divergence)
    assert (one.divergence.line, one.divergence.where) == (
        3,
        "http/request.result.headers[0].value",
    )
    assert one.trace[one.divergence.entry].direction == "received"


def test_unwritable_report_is_reported_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sessions = written(tmp_path / "sessions")
    done = run(
        "--cmd", against("none"), "--sessions", sessions, "--html", tmp_path / "file" / "a.html"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("exec-server-conformance: cannot write ")
