"""What schemathesis does not know about Baton: who may call what, and how to work on a real cluster."""

import itertools
import os
import time

import schemathesis
from schemathesis.core.parameters import ParameterLocation

RANK = {"none": 0, "viewer": 1, "operator": 2, "admin": 3}
ROLE = os.environ["BATON_CONTRACT_ROLE"]

# Of a real cluster: what there is, so that commands reach something, and the tokens that must not be revoked.
REAL = "BATON_CONTRACT_NODES" in os.environ
NAMES = {name: os.environ.get(f"BATON_CONTRACT_{name.upper()}S", "").split() for name in ("node", "group", "volume")}
KEEP = os.environ.get("BATON_CONTRACT_KEEP", "").split()

# Answers of layers that come before the role: no such path or method, too large, too much.
BEFORE = {400, 404, 405, 413, 429}


@schemathesis.check
def role_is_enforced(ctx, response, case):
    """An operation answers 401 to nobody, 403 to a role below the documented one, and 403 to nobody else."""
    needed = case.operation.definition.raw["x-baton-role"]
    status = response.status_code
    if needed == "none":
        # Reading is open; what else might be tried at the same path is not.
        if case.method.upper() in ("GET", "HEAD"):
            assert status not in (401, 403), f"open to everybody, answered {status}"
    elif ROLE == "none":
        assert status == 401 or status in BEFORE, f"answered {status} to nobody"
    elif RANK[ROLE] < RANK[needed]:
        assert status == 403 or status in BEFORE, f"needs {needed}, answered {status} to {ROLE}"
    else:
        assert status not in (401, 403), f"needs {needed}, answered {status} to {ROLE}"


@schemathesis.check
def errors_are_problems(ctx, response, case):
    """RFC 9457: the document repeats the status and says what to do next; role questions answer in words."""
    status = response.status_code
    if status < 400 or case.operation.definition.raw["x-baton-role"] == "none" or case.method.upper() == "HEAD":
        return
    kind = response.headers.get("content-type", [""])[0]
    assert kind == "application/problem+json", f"{status} is {kind}"
    problem = response.json()
    assert problem["status"] == status and problem["type"].startswith("/problems/"), problem
    assert len(problem["detail"]) > 10, problem


@schemathesis.check
def every_answer_is_named(ctx, response, case):
    """Which node answered, and which request."""
    for name in ("x-request-id", "baton-node"):
        assert response.headers.get(name), f"no {name}"


class Pace:
    """Not more often than the agents allow a client, 100 reads and 10 commands a second: a 429 proves little."""

    def __init__(self, per_s):
        self.pause, self.next = 1 / per_s, 0.0

    def wait(self):
        time.sleep(max(0.0, self.next - time.monotonic()))
        self.next = time.monotonic() + self.pause


if not REAL:

    @schemathesis.hook
    def filter_case(context, case):
        """The fake agent takes any text for a specification, and whatever is written as YAML is a text."""
        wrong = case.meta and case.meta.is_negative_at(ParameterLocation.BODY)
        return not (wrong and case.media_type == "application/yaml")


if REAL:
    READS, COMMANDS = Pace(80), Pace(9)
    TURN = itertools.count()

    @schemathesis.hook
    def before_call(context, case, kwargs):
        (READS if case.method.upper() == "GET" else COMMANDS).wait()
        given = case.path_parameters or {}
        if not case.meta or case.meta.is_negative_at(ParameterLocation.PATH):
            return
        for name, there in NAMES.items():
            turn = next(TURN)
            # Two of three reach something; the third asks for what is not there.
            if name in given and there and turn % 3:
                given[name] = there[turn % len(there)]
        if given.get("id") in KEEP:
            given["id"] = "0" * len(given["id"])


@schemathesis.hook
def filter_case(context, case):
    # HTTP lets a request carry headers that nobody described; they are ignored, and rightly so.
    return not any("unknown-property" in name.lower() for name in case.headers or {})
