"""Runs against a conforming server and against servers with one fault each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from exec_server_conformance.errors import Failure
from exec_server_conformance.runner.contract import contract
from exec_server_conformance.runner.patterns import generalise, match
from tests.support.suite_runs import SESSION, against, run, written

if TYPE_CHECKING:
    from pathlib import Path


def session_of(revision: str) -> list[dict[str, Any]]:
    """A session with nothing in it but the handshake."""
    return [{**SESSION[0], "session": f"{revision}/test/one"}]


def superset() -> dict[str, Any]:
    """The result of initialize of a server that speaks v0 and v1."""
    return {"protocolVersion": "exec-server.v0", "sessionId": "s"}


def test_conforming_server_passes(tmp_path: Path) -> None:
    done = run("--cmd", against("none"), "--sessions", written(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("1 passed, 0 failed, 0 known deviations, 0 n/a in ")


@pytest.mark.parametrize(
    ("fault", "line", "text"),
    [
        ("seq-gap", 3, "expected the events numbered 2 of process 'p' within 6 s"),
        ("seq-from-zero", 3, "numbers start from 1"),
        ("lost-chunk", 3, "expected a member 'stdout'"),
        ("wrong-stream", 3, "expected a member 'stdout'"),
        ("exit-code", 3, "exitCode: expected 0, got 1"),
        ("output-after-close", 3, "after that of its close"),
        ("exit-twice", 3, "second process/exited"),
        ("wrong-code", 4, "expected -32602, got -32603"),
        ("wrong-id", 2, "unexpected answer"),
        ("answer-twice", 3, "unexpected answer"),
        ("schema", 2, "violates the schema"),
        ("hangs", 2, "expected an answer to process/start within 6 s"),
        ("dies", 2, "the server closed the connection"),
        ("garbage", 2, "expected a JSON message"),
    ],
)
def test_each_fault_is_reported(tmp_path: Path, fault: str, line: int, text: str) -> None:
    # Some of these cannot even say which revision they speak.
    options = ["--revision", "v1", "--timeout", "6"]
    done = run("--cmd", against(fault), "--sessions", written(tmp_path), *options)
    assert done.returncode == 1
    failures = [one for one in done.stdout.splitlines() if one.startswith("FAILED")]
    assert len(failures) == 1
    assert failures[0].startswith("FAILED v1/test/one [stdio]: one.jsonl:")
    assert text in failures[0]
    assert abs(int(failures[0].split("one.jsonl:")[1].split(":")[0]) - line) <= 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", ["/no/such/program", "true --listen ws://127.0.0.1:0", "echo hello --listen"]
)
def test_unrunnable_server_is_one_message(tmp_path: Path, command: str) -> None:
    session = [{**SESSION[0], "transports": ["ws"]}, *SESSION[1:]]
    done = run("--cmd", command, "--sessions", written(tmp_path, session))
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("the server could not be run: ")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "one of the arguments --cmd --url is required"),
        (["--cmd", "x", "--url", "ws://x"], "argument --url: not allowed with argument --cmd"),
        (["--cmd", "x", "--jobs", "0"], "argument --jobs: expected 1 or more, not '0'"),
        (["--cmd", "x", "--jobs", "two"], "argument --jobs: expected 1 or more, not 'two'"),
        (["--cmd", "x", "--timeout", "0"], "--timeout: expected more than 0 seconds, not '0'"),
        (["--cmd", "x", "--timeout", "nan"], "--timeout: expected more than 0 seconds, not 'nan'"),
        (["--cmd", "x", "--timeout", "1s"], "--timeout: expected more than 0 seconds, not '1s'"),
    ],
)
def test_usage_errors_are_reported_before_the_run(options: list[str], said: str) -> None:
    done = run(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[-1]


def test_sessions_of_supported_revisions_are_run(tmp_path: Path) -> None:
    for revision in ("v0", "v1", "v2"):
        written(tmp_path, session_of(revision))
    for spoken in (["v0"], ["v1"], ["v2"], ["v1", "v2"], ["v0", "v1", "v2"]):
        done = run("--cmd", against("none", *spoken), "--sessions", tmp_path, "--verbose")
        assert done.returncode == 0, done.stdout
        played = [line.split()[1] for line in done.stdout.splitlines() if line[:6] == "passed"]
        assert sorted(played) == [f"{revision}/test/one" for revision in spoken]
    told = run("--cmd", against("none"), "--sessions", tmp_path, "--revision", "v2")
    assert told.returncode == 0
    assert told.stdout.startswith("1 passed")


def test_no_session_of_a_supported_revision_is_a_usage_error(tmp_path: Path) -> None:
    done = run("--cmd", against("none", "v1"), "--sessions", written(tmp_path, session_of("v0")))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "exec-server-conformance: no session of v1 matches\n"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), "v1/fs/read v1/process/a/start v2/fs/read"),
        (("--select", "v1/fs/*", "--select", "v2/*"), "v1/fs/read v2/fs/read"),
        (("--method", "process/*"), "v1/process/a/start"),
        (("--method", "fs/readFile", "--revision", "v2"), "v2/fs/read"),
        (("--tag", "a"), "v1/process/a/start"),
        (("--tag", "fs"), "v1/fs/read v2/fs/read"),
        (("--tag", "fsWatchMissing", "--tag", "slow"), "v1/process/a/start v2/fs/read"),
        (("--level", "quirk"), "v1/fs/read"),
        (("--level", "contract", "--tag", "fs"), "v2/fs/read"),
    ],
)
def test_session_filters(tmp_path: Path, options: tuple[str, ...], names: str) -> None:
    about = {"description": "anything", "transports": ["stdio"]}
    read = {"call": "fs/readFile", "params": {}}
    written(tmp_path, [{"session": "v1/fs/read", **about, "level": "quirk"}, read])
    written(
        tmp_path, [{"session": "v2/fs/read", **about, "capabilities": ["fsWatchMissing"]}, read]
    )
    written(
        tmp_path,
        [{"session": "v1/process/a/start", **about, "tags": ["slow"]}, {"call": "process/start"}],
    )
    done = run("--list", "--sessions", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert " ".join(line.split()[0] for line in done.stdout.splitlines()) == names


def test_filter_without_matches_is_a_usage_error(tmp_path: Path) -> None:
    options = ["--method", "fs/*", "--level", "quirk", "--level", "contract"]
    done = run("--cmd", against("none"), "--sessions", written(tmp_path), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "exec-server-conformance: no session matches method fs/*, level quirk or contract\n"
    )


@pytest.mark.parametrize(
    ("gate", "revisions", "version", "reason"),
    [
        ({"since": "0.130.0"}, ["v1"], "0.129.9", "needs codex 0.130.0"),
        ({"since": "0.130.0"}, ["v1"], "0.130.0", None),
        ({"since": "0.130.0"}, ["v1"], None, None),
        ({"until": "0.130.0"}, ["v1"], "0.130.1", "shows behaviour that ended with codex 0.130.0"),
        ({"until": "0.130.0"}, ["v1"], "0.130.0", None),
        ({"until": "0.130.0"}, ["v1"], None, "shows behaviour that ended with codex 0.130.0"),
        ({"capabilities": ["shellSnapshotV2"]}, ["v1"], None, None),
        ({"capabilities": ["fsWatchMissing"]}, ["v1"], None, "needs the capability fsWatchMissing"),
        ({"capabilities": ["fileWriteStreaming"]}, ["v1"], None, "needs the capability fileWr"),
        ({"strict": True}, ["v1"], None, None),
        ({"strict": True}, ["v1", "v2"], None, "needs a server that supports only v1"),
    ],
)
def test_inapplicable_sessions_are_counted_separately(
    tmp_path: Path,
    gate: dict[str, Any],
    revisions: list[str],
    version: str | None,
    reason: str | None,
) -> None:
    written(tmp_path, [{**SESSION[0], **gate}, *SESSION[1:]])
    options = ["--server-version", version] if version else []
    done = run("--cmd", against("none", *revisions), "--sessions", tmp_path, *options)
    assert done.returncode == 0
    if reason is None:
        assert done.stdout.startswith("1 passed, 0 failed, 0 known deviations, 0 n/a in ")
    else:
        first, second = done.stdout.splitlines()
        assert first.startswith(f"n/a    1: {reason}")
        assert second.startswith("0 passed, 0 failed, 0 known deviations, 1 n/a in ")


def test_members_of_another_supported_revision_are_allowed(tmp_path: Path) -> None:
    written(tmp_path, session_of("v0"))
    both = run("--cmd", against("none", "v0", "v1"), "--sessions", tmp_path)
    assert both.returncode == 0, both.stdout
    contract("v0", ("v1",)).check("#/$defs/InitializeResult", superset(), "the result")
    pointer = "#/$defs/InitializeResult"
    assert contract("v0", ("v1",)).check(pointer, superset(), "the result") == []
    (addition,) = contract("v0").check(pointer, superset(), "the result")
    assert (addition.kind, addition.path) == ("member", ("sessionId",))
    (addition,) = contract("v0", ("v1",)).check(pointer, {**superset(), "neither": 1}, "the result")
    assert (addition.path, addition.example) == (("neither",), 1)
    with pytest.raises(Failure, match="string"):
        contract("v0", ("v1",)).check(
            "#/$defs/InitializeResult", {**superset(), "sessionId": 1}, "the result"
        )


def test_known_deviation_is_excused_and_stale_one_fails(tmp_path: Path) -> None:
    known = tmp_path / "known.toml"
    known.write_text(
        '[[deviation]]\nsessions = "v1/test/*"\n'
        'reason = "it is so"\n'
        'fails_with = { kind = "value", at = "process \'p\'.exitCode" }\n'
    )
    arguments = ["--sessions", written(tmp_path), "--known-deviations", known]
    excused = run("--cmd", against("exit-code"), *arguments)
    assert excused.returncode == 0
    assert "0 passed, 0 failed, 1 known deviations" in excused.stdout
    assert "it is so" in excused.stdout
    stale = run("--cmd", against("none"), *arguments)
    assert stale.returncode == 4
    assert "STALE" in stale.stdout


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "one.jsonl:1"),
        ("nonsense", "one.jsonl:1"),
        ('{"session": "x"}', "one.jsonl:1"),
        (json.dumps(SESSION[0]) + '\n{"dance": 1}', "one.jsonl:2"),
        (json.dumps(SESSION[0]) + '\n{"call": "x", "parms": 1}', "one.jsonl:2"),
    ],
)
def test_invalid_session_file_is_reported_with_its_line(
    tmp_path: Path, text: str, where: str
) -> None:
    (tmp_path / "one.jsonl").write_text(text)
    for done in (run("check", "--sessions", tmp_path), run("--list", "--sessions", tmp_path)):
        assert done.returncode == 2
        assert where in done.stderr
        assert "Traceback" not in done.stderr


def test_recording_is_reproducible(tmp_path: Path) -> None:
    bare = [{name: value for name, value in line.items() if name != "expect"} for line in SESSION]
    scenario = written(tmp_path, bare)
    outputs = []
    for name in ("first", "second"):
        done = run(
            "record",
            "--cmd",
            against("none"),
            "--scenario",
            scenario / "v1/test/one.jsonl",
            "--out",
            tmp_path / name,
            "--source",
            "test",
        )
        assert done.returncode == 0, done.stdout
        outputs.append((tmp_path / name / "v1/test/one.jsonl").read_text())
    assert outputs[0] == outputs[1]
    assert '"exitCode": 0' in outputs[0]


def test_bundled_sessions_are_valid_and_listed() -> None:
    assert run("check").returncode == 0
    listed = run("--list").stdout.splitlines()
    assert len(listed) >= 150


@pytest.mark.parametrize(
    ("expected", "actual", "matches"),
    [
        (1, 1, True),
        (1, True, False),
        (1, 1.0, False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {}, False),
        ([1, 2], [1, 2], True),
        ([1, 2], [2, 1], False),
        ({"$unordered": [1, 2]}, [2, 1], True),
        ({"$unordered": [1, 2]}, [2, 2], False),
        ({"$type": "integer"}, 5, True),
        ({"$type": "integer"}, True, False),
        ({"$type": "string"}, 5, False),
        ({"$regex": "a+"}, "aaa", True),
        ({"$regex": "a+"}, "aab", False),
        (
            {"$chunks": {"pty": "ab"}},
            [{"stream": "pty", "chunk": "YQ=="}, {"stream": "pty", "chunk": "Yg=="}],
            True,
        ),
        ({"$chunks": {"pty": "ab"}}, [{"stream": "stdout", "chunk": "YWI="}], False),
        (
            {"$chunks": {"stdout": "ab"}},
            [{"stream": "stdout", "chunk": "YWI="}, {"stream": "stderr", "chunk": "YWI="}],
            False,
        ),
        ({"$contains": [1, 3]}, [1, 2, 3], True),
        ({"$contains": [3, 1]}, [1, 2, 3], False),
        ({"$contains": [{"a": 1}]}, [{"a": 2}, {"a": 1, "b": 2}], True),
        ({"$contains": []}, {}, False),
        ({"$type": "object"}, {}, True),
        ({"$type": "object"}, [], False),
        ({"$type": "array"}, [], True),
    ],
)
def test_patterns(expected: Any, actual: Any, matches: bool) -> None:
    if matches:
        match(expected, actual, "value")
    else:
        with pytest.raises(Failure):
            match(expected, actual, "value")


@pytest.mark.parametrize(
    ("expected", "actual", "text"),
    [
        ([1, 2], [1, 3, 4], "expected 2 elements, got 3; missing: [2]; unexpected: [3, 4]"),
        ({"$unordered": [1, 2]}, [2, 2, 5], "expected 2 elements, got 3; missing: [1]; unex"),
        ([1, 1], [1], "expected 2 elements, got 1"),
        (
            "x" * 500 + "ab",
            "x" * 500 + "cd",
            'expected "xxxxxxxxxxxxxxxxxxxxab" from character 480',
        ),
        ({"bodyBase64": "aGk="}, {"bodyBase64": "aG8="}, 'base64 of "hi", got "ho"'),
        ({"a": {"b": 1}}, {}, "value: expected a member 'a' such as {\"b\": 1}, got {}"),
    ],
)
def test_mismatch_describes_the_difference(expected: Any, actual: Any, text: str) -> None:
    with pytest.raises(Failure) as failure:
        match(expected, actual, "value")
    assert text in str(failure.value)


def test_generalised_expectation_matches_the_recorded_value() -> None:
    value = {
        "sessionId": "00000000-0000-4000-8000-000000000000",
        "path": "/tmp/x/y",
        "entries": [2, 1],
    }
    general = generalise(value, {"/tmp/x": "${workspace}"})
    assert general["path"] == "${workspace}/y"
    match({**general, "path": "/tmp/x/y"}, value, "value")


ADDITIONS = {
    "unknown-notification": "notification process/vanished",
    "unknown-member": "member process/start.result.color",
    "unknown-flag": "flag environment/info.result.capabilities.timeTravel",
    "unknown-stream": "enum-value process/output.params.stream",
}


@pytest.mark.parametrize(("fault", "place"), ADDITIONS.items())
def test_additions_are_drift_and_fail_only_a_strict_run(
    tmp_path: Path, fault: str, place: str
) -> None:
    revision = "v2" if fault == "unknown-flag" else "v1"  # v1 has no flags
    steps = SESSION[1:]
    if fault == "unknown-flag":
        steps = [{"call": "environment/info", "params": {}, "expect": {"result": {}}}]
    elif fault == "unknown-stream":
        process = {"process": "p", "expect": {"output": {"holo": "hi"}, "exitCode": 0}}
        steps = [SESSION[1], process]
    sessions = tmp_path / "sessions"
    for name in ("one", "two"):
        written(sessions, [{**SESSION[0], "session": f"{revision}/test/{name}"}, *steps])
    reports = {kind: tmp_path / f"report.{kind}" for kind in ("junit", "jsonl", "tap", "html")}
    options = [word for kind, path in reports.items() for word in (f"--{kind}", str(path))]
    done = run("--cmd", against(fault, revision), "--sessions", sessions, *options)
    assert done.returncode == 0, done.stdout
    found = [line for line in done.stdout.splitlines() if line.startswith("DRIFT")]
    assert len(found) == 1, done.stdout
    assert found[0].startswith(f"DRIFT  {place}")
    assert f"(2 times in 2 sessions, such as {revision}/test/one)" in found[0]
    kind, _, where = place.partition(" ")
    assert f'name="drift" value="{place}' in reports["junit"].read_text()
    assert f"# drift: {place}" in reports["tap"].read_text()
    assert f"<td><code>{where}</code></td>" in reports["html"].read_text()
    entries = [json.loads(line) for line in reports["jsonl"].read_text().splitlines()]
    (entry,) = [one for one in entries if one["event"] == "drift"]
    assert (entry["kind"], entry["place"], entry["count"]) == (kind, where, 2)
    strict = run("--cmd", against(fault, revision), "--sessions", sessions, "--strict")
    assert strict.returncode == 1
    assert "2 passed, 0 failed" in strict.stdout
    assert "DRIFT" not in run("--cmd", against("none", revision), "--sessions", sessions).stdout
