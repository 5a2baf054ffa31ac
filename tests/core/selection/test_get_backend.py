"""Selection among really installed distributions, in processes of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.distributions import Site, good

# Runs many selections in one process: each line of the answer is the chosen spec or the error.
MANY = """
import json, sys
import hardpoint
answers = {}
for text in json.loads(sys.argv[1]) if len(sys.argv) > 1 else TEXTS:
    try:
        backend = hardpoint.get_backend(text)
        answers[text] = [backend.info.name, hardpoint.backend_environment(backend)["HARDPOINT_BACKEND"]]
    except hardpoint.HardpointError as error:
        answers[text] = [type(error).__name__, str(error)]
print(json.dumps(answers))
"""
TEXTS = [
    "auto", "low", "LOW", "lows", "low:big", "absent,low", "absent,low,high", "absent", "npu", "ascend", "npu,low",
    "lowe", "zzzzzz", "lowe,cpu", "off", "shared", "wrongtype", "wrongname", "buildraises", "never", "cpu", "HOST",
]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("choose") / "site")
    site.backend("low", good("low", priority=5, more=', aliases=("Lows", "shared")'))
    site.backend("high", good("high", priority=9, more=', aliases=("shared",)'))
    site.backend("absent", good("absent", priority=99, available=False, reason="/dev/absent is not there"))
    site.backend("never", good("never", priority=-5))
    site.backend(
        "wrongtype",
        good("wrongtype", priority=-1).replace("    from dataclasses", "    return 7\n    from dataclasses"),
    )
    site.backend(
        "wrongname",
        good("wrongname", priority=-1).replace("info=hardpoint_info()", "info=replace(hardpoint_info(), name='x')"),
    )
    site.backend(
        "buildraises", good("buildraises", priority=-1).replace("    from dataclasses", "    1/0\n    from dataclasses")
    )
    return site


@pytest.fixture(scope="module")
def answers(site: Site) -> dict[str, Any]:
    done = site.python(f"TEXTS = {TEXTS!r}\n{MANY}")
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    answers["stderr"] = done.stderr
    return answers


@pytest.mark.parametrize(
    ("text", "name", "handed_on"),
    [
        ("auto", "high", "high"),  # not absent, which has a higher priority and no device; not cpu, which is last
        ("low", "low", "low"),
        ("LOW", "low", "low"),
        ("lows", "low", "low"),
        ("low:big", "low", "low:big"),
        ("absent,low", "low", "low"),
        ("absent,low,high", "low", "low"),  # the stated order, not the priority
        ("npu,low", "low", "low"),
        ("never", "never", "never"),  # by name, though auto never takes it
        ("cpu", "cpu", "cpu"),
        ("HOST", "cpu", "cpu"),
    ],
)
def test_chosen(answers: dict[str, Any], text: str, name: str, handed_on: str) -> None:
    assert answers[text] == [name, handed_on]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("absent", "BackendUnavailable", "'absent' (absent-dist 1.0): no device: /dev/absent is not there"),
        ("npu", "BackendUnavailable", "torch-npu is not installed; pip install 'hardpoint[npu]'"),
        ("ascend", "BackendUnavailable", "torch-npu is not installed; pip install 'hardpoint[npu]'"),
        ("lowe", "BackendUnavailable", "'lowe' is an unknown name (did you mean low or lows?)"),
        ("lowe,cpu", "BackendUnavailable", "'lowe' is an unknown name"),  # a typo is no wish for the next
        ("zzzzzz", "BackendUnavailable", "'zzzzzz' is an unknown name."),
        ("off", "BackendUnavailable", "turns hardpoint off"),
        ("shared", "BackendUnavailable", "'shared' is an alias of high and of low; use a name"),
        ("wrongtype", "PluginError", "should return a hardpoint.Backend, returned 7 (int)"),
        ("wrongname", "PluginError", "returned a Backend called 'x'"),
        ("buildraises", "PluginError", "raised for options {}: ZeroDivisionError"),
    ],
)
def test_refused(answers: dict[str, Any], text: str, error: str, words: str) -> None:
    assert answers[text][0] == error
    assert words in answers[text][1]


@pytest.mark.parametrize("text", ["absent", "npu", "lowe", "shared"])
def test_a_refusal_lists_every_candidate_with_its_reason(answers: dict[str, Any], text: str) -> None:
    lines = answers[text][1].partition("Candidates here:\n")[2].splitlines()
    names = {line.split()[0] for line in lines}
    assert names >= {"low", "high", "absent", "never", "cpu", "sim", "npu", "xpu"}
    assert all(len(line.split("  ")[-1]) > 3 for line in lines)


def test_falling_to_the_next_in_an_order_is_said(answers: dict[str, Any]) -> None:
    assert "low is used; 'absent' (absent-dist 1.0): no device: /dev/absent is not there" in answers["stderr"]


def test_equal_priority_is_an_error_that_names_both(site: Site) -> None:
    site.backend("rival", good("rival", priority=9))
    try:
        done = site.python("import hardpoint; hardpoint.get_backend()")
    finally:
        site.backend("rival", good("rival", priority=-9))
    assert "high (high-dist 1.0) and rival (rival-dist 1.0) have the same priority 9" in done.stderr


def test_one_object_for_one_choice_from_many_threads_and_after_a_fork(site: Site) -> None:
    code = """
import os, threading
import hardpoint
barrier, seen = threading.Barrier(8), []
def choose():
    barrier.wait()
    seen.append(hardpoint.get_backend())
threads = [threading.Thread(target=choose) for _ in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
assert len({id(backend) for backend in seen}) == 1 and len(seen) == 8
import hardpoint.selection as selection
# a thread that holds the lock when the process is forked must not leave the child waiting for ever
held, go = threading.Event(), threading.Event()
def hold():
    with selection._lock, selection._selection.registry._lock:
        held.set(); go.wait(30)
holder = threading.Thread(target=hold); holder.start(); held.wait()
child = os.fork()
if child == 0:
    import signal; signal.alarm(20)
    assert hardpoint.get_backend() is seen[0]
    hardpoint.get_backend("low")
    os._exit(7)
go.set(); holder.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert hardpoint.get_backend(fresh=True) is not seen[0]
print("ok")
"""
    done = site.python(code, HARDPOINT_BACKEND="low")
    assert done.stdout.strip() == "ok", done.stderr


def test_a_child_forked_after_the_device_was_initialised_is_refused(site: Site) -> None:
    """torch marks such a child in the device's module; the mark is set by hand, since no device is here."""
    code = """
import sys, types, torch, dataclasses
import hardpoint
backend = hardpoint.get_backend()
import hardpoint.selection as selection
(choice,) = selection._selection.built
cuda = dataclasses.replace(backend.info, device_type="cuda")
selection._selection.built[choice] = dataclasses.replace(backend, info=cuda)
assert hardpoint.get_backend().info.device_type == "cuda"
torch.cuda._is_in_bad_fork = lambda: True
hardpoint.get_backend()
"""
    done = site.python(code, HARDPOINT_BACKEND="low")
    assert "BackendUnavailable" in done.stderr
    assert "initialised 'cuda' devices" in done.stderr
    assert "spawn" in done.stderr


def test_a_changed_variable_is_said_and_not_followed(site: Site) -> None:
    code = """
import os, hardpoint
hardpoint.get_backend()
os.environ["HARDPOINT_BACKEND"] = " LOW "
hardpoint.get_backend()
os.environ["HARDPOINT_BACKEND"] = "cpu"
try:
    hardpoint.get_backend()
except hardpoint.BackendUnavailable as error:
    print(error)
print(hardpoint.get_backend(fresh=True).info.name)
"""
    done = site.python(code, HARDPOINT_BACKEND="low")
    assert "HARDPOINT_BACKEND was 'low'" in done.stdout
    assert done.stdout.splitlines()[-1] == "cpu", done.stderr


def test_children_see_the_same_choice_and_os_environ_is_not_written(site: Site) -> None:
    code = """
import json, os, subprocess, sys
before = dict(os.environ)
import hardpoint
hand_on = hardpoint.backend_environment()
assert dict(os.environ) == before
child = "import hardpoint; print(hardpoint.get_backend().info.name)"
bare = {k: v for k, v in os.environ.items() if not k.startswith("HARDPOINT_")}
out = subprocess.run([sys.executable, "-c", child], env={**bare, **hand_on}, capture_output=True, text=True)
print(json.dumps([hand_on, out.stdout.strip(), hardpoint.get_backend().info.name]))
"""
    done = site.python(
        code, HARDPOINT_BACKEND="absent,low", HARDPOINT_PLUGINS="hardpoint,low,absent", HARDPOINT_LOW_X="1"
    )
    hand_on, child, parent = json.loads(done.stdout)
    assert (child, parent) == ("low", "low")
    assert hand_on == {
        "HARDPOINT_BACKEND": "low",
        "HARDPOINT_PLUGINS": "hardpoint,low,absent",
        "HARDPOINT_LOW_X": "1",
    }
    off = site.python("import hardpoint; print(hardpoint.backend_environment())", HARDPOINT_BACKEND="off")
    assert off.stdout.strip() == "{'HARDPOINT_BACKEND': 'off'}"
