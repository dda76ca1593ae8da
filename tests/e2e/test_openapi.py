# SPDX-License-Identifier: Apache-2.0
# timeout: 400
"""Does dormd do what /openapi.json says? Every operation is driven, every answer held against its
schema, every member of every body and every parameter given wrongly.

A new route: describe it in src/api/openapi.json, and drive it here with call(); the last case fails
until an answer of success has been seen from it.
"""
import json
import time
import urllib.parse

import schema
from harness import Dormouse, UnixConnection, check, main, wait_until

D = Dormouse().__enter__()
DOC = {}
SEEN = {}  # operationId -> statuses
STATE = {}
# What cannot succeed here, and the status that stands for it.
NO_SUCCESS = {"getTemplateFile": 501, "openSandboxPort": 426}


def operations():
    for path, methods in DOC["paths"].items():
        for method, op in methods.items():
            yield op["operationId"], method.upper(), path, op


def operation(wanted):
    for oid, method, path, op in operations():
        if oid == wanted:
            return method, path, op
    raise AssertionError(f"{wanted} is not described")


def send(method, path, data=None, headers=None):
    connection = UnixConnection(D.socket, 180)
    try:
        connection.request(method, path, data, headers or {})
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def check_answer(oid, op, status, headers, data):
    """status, type and body are as described; returns the body"""
    check(str(status) in op["responses"], f"{oid}: status {status} is not described: {data[:200]}")
    described = schema.resolve(DOC, op["responses"][str(status)])
    content = described.get("content")
    if not content:
        check(not data, f"{oid}: {status} has a body: {data[:200]}")
        return None
    kind = headers.get("Content-Type", "").partition(";")[0]
    check(kind in content, f"{oid}: {status} is {kind}, not {list(content)}")
    wanted = content[kind].get("schema", {})
    if kind == "application/json":
        values = [json.loads(data)]
    elif kind == "application/x-ndjson":
        values = [json.loads(line) for line in data.splitlines()]
        check(values and "ok" in values[-1], f"{oid}: its last line is {values[-1:]}")
    else:
        return data
    for value in values:
        wrong = list(schema.mismatches(DOC, wanted, value, oid))
        check(not wrong, f"{status}: {'; '.join(wrong[:5])}")
        if status >= 400:
            check(value["code"] == status, f"{oid}: code {value['code']} of a {status}")
    return values[-1]


def call(oid, *args, body=None, expect=None, query=None, headers=None, data=None):
    """drive an operation; args: of its path. Returns its body"""
    method, path, op = operation(oid)
    for arg in args:
        begin, end = path.index("{"), path.index("}") + 1
        path = path[:begin] + urllib.parse.quote(str(arg), safe="") + path[end:]
    if query:
        path += "?" + urllib.parse.urlencode(query)
    if body is not None:
        data = json.dumps(body)
    status, got, answer = send(method, path, data, headers)
    value = check_answer(oid, op, status, got, answer)
    SEEN.setdefault(oid, set()).add(status)
    if expect is None:
        check(status < 300, f"{oid} {path}: {status} {value}")
    else:
        check(status == expect, f"{oid} {path} {body}: {status} {value}, wanted {expect}")
    return value


def test_description():
    status, headers, data = send("GET", "/openapi.json")
    check(status == 200 and headers["Content-Type"] == "application/json", f"{status} {headers}")
    DOC.update(json.loads(data))
    check(DOC["openapi"].startswith("3.1."), DOC["openapi"])
    call("getOpenapi")
    for oid, method, path, op in operations():
        named = {schema.resolve(DOC, p)["name"] for p in op.get("parameters", [])
                 if schema.resolve(DOC, p)["in"] == "path"}
        check(named == set(part[1:-1] for part in path.split("/") if part.startswith("{")),
              f"{oid}: {path} and its parameters {named}")
        for name, body in DOC["components"]["schemas"].items():
            for example in body.get("examples", []):
                wrong = list(schema.mismatches(DOC, body, example, name))
                check(not wrong, f"example of {wrong}")


def test_templates():
    made = call("createTemplate", body={"name": "base", "memoryMB": 128})
    ids = made["templateID"], made["buildID"]
    call("getTemplateBuildStatus", *ids)
    call("startTemplateBuild", *ids, body={})
    call("startTemplateBuild", *ids, body={}, expect=409)
    wait_until(lambda: call("getTemplateBuildStatus", *ids)["status"] != "building", 300, "built")
    check(call("getTemplateBuildStatus", *ids)["status"] == "ready", "the template is built")
    check(call("getTemplateAlias", "base")["templateID"] == ids[0], "what its name leads to")
    check([t["names"] for t in call("listTemplates")] == [["base"]], "templates")
    check(call("getTemplate", "base:default")["templateID"] == ids[0], "the same")
    call("warmTemplate", "base", body={"full": True})
    call("getTemplateFile", "base", "abc", expect=501)
    later = call("createTemplateV2", body={"alias": "later", "memoryMB": 128})
    check(later["names"] == ["later"], f"{later}")
    call("startTemplateBuild", later["templateID"], later["buildID"],
         body={"recipe": {"base": {"tar": "/nowhere.tar"}}})
    wait_until(lambda: call("getTemplateBuildStatus", later["templateID"], later["buildID"])
               ["status"] == "error", 300, "it has failed")


def test_sandboxes():
    sb = call("createSandbox", body={
        "templateID": "team/base:default", "timeout": 3600, "metadata": {"k": "v w"},
        "envVars": {"A": "b"}, "autoPause": True, "wait": "working-set", "pagerMode": "auto",
        "network": {"allowPublicTraffic": False, "maskRequestHost": "x:${PORT}"}})["sandboxID"]
    STATE["sandbox"] = sb
    got = call("getSandbox", sb, query={"repair": "1"})
    check(got["network"] == {"allowPublicTraffic": False, "maskRequestHost": "x:${PORT}"}, f"{got}")
    check(got["lifecycle"]["onTimeout"] == "pause" and got["alias"] == "base", f"{got}")
    check(got["repair"], "what its last repair did")
    old = call("createSandboxV1", body={"templateID": "base", "secure": True})
    check(old["envdAccessToken"], "a token")
    check(len(call("listSandboxes")) == 2 and len(call("listSandboxesV1")) == 2, "two")
    wait_until(lambda: list(call("listSandboxMetrics", query={"sandbox_ids": f"{sb},nope"})["sandboxes"])
               == [sb], 60, "its guest says what it uses")
    check(call("getSandboxMetrics", sb, query={"start": 1, "end": int(time.time())}), "kept")
    call("getSandboxMemory", sb)
    call("listSandboxPorts", sb)
    call("openSandboxPort", sb, 80, expect=426)
    call("setSandboxNetwork", sb, body={"allow_internet_access": False})
    call("getSandboxNetwork", sb)
    call("setSandboxTimeout", sb, body={"timeout": 1800})
    ends = call("getSandbox", sb)["endAt"]
    call("refreshSandbox", sb, body={"duration": 60})
    check(call("getSandbox", sb)["endAt"] == ends, "never shorter")
    call("refreshSandbox", sb, body={"duration": 7200})
    check(call("getSandbox", sb)["endAt"] > ends, "but longer")
    call("deleteSandbox", old["sandboxID"])
    call("deleteSandbox", old["sandboxID"], expect=404)


def test_sleep_and_fork():
    sb = STATE["sandbox"]
    forks = call("forkSandbox", sb, body={"count": 2, "timeout": 600, "wait": "full"})
    check(len({f["sandbox"]["sandboxID"] for f in forks}) == 2, f"{forks}")
    call("pauseSandbox", sb, query={"details": "1"})
    call("pauseSandbox", sb, body={}, expect=409)
    check(call("listSandboxes", query={"state": "paused"})[0]["sandboxID"] == sb, "it is paused")
    check(sb not in [s["sandboxID"] for s in call("listSandboxesV1")], "not among running ones")
    call("getSandbox", sb)
    call("getSandboxMemory", sb)
    call("listSandboxPorts", sb, expect=502)
    call("connectSandbox", sb, body={"timeout": 3600, "wait": "working-set"})
    check(SEEN["connectSandbox"] == {201}, "woken")
    call("connectSandbox", sb, body={})
    call("connectSandboxV1", sb, body={"timeout": 300})
    call("resumeSandboxV1", sb)
    check(SEEN["connectSandbox"] == {201, 200}, "it ran already")
    for f in forks:
        call("deleteSandbox", f["sandbox"]["sandboxID"])


def test_snapshots():
    sb = STATE["sandbox"]
    made = call("createSnapshot", sb, body={"name": "team/kept:default"})
    sid = made["snapshotID"]
    check(made["names"] == ["kept"], f"{made}")
    check([s["snapshotID"] for s in call("listSnapshots", query={"name": "kept", "sandboxID": sb})]
          == [sid], "by its name")
    check(call("getSnapshot", "kept")["id"] == sid, "by its name")
    call("getSnapshotTrees")
    call("getSnapshotTree", sid)
    call("verifySnapshot", sid)
    call("compactSnapshot", sid, body={"force": True})
    stream = call("exportSnapshot", sid)
    call("deleteTemplate", "team/kept:default")
    call("deleteTemplate", sid, expect=404)
    check(call("importSnapshot", query={"name": "back"}, data=stream)["snapshotID"] == sid, "back")
    call("exportSnapshot", sid, query={"format": "raw"})
    call("createSandbox", body={"templateID": sid, "timeout": 600})


def test_store_and_host():
    for oid in ("listLayers", "getStoreUsage", "getHealthz", "getHealth", "getReady", "getDoctor",
                "getPager", "getMetrics", "rewrapStore"):
        call(oid)
    call("checkStore", body={"data": True})
    call("repairStore", body={})
    images = call("listImages")
    mine = [i for i in images if STATE["sandbox"] in i["sandboxes"]]
    check(len(mine) == 1 and mine[0]["sharers"] >= 1 and mine[0]["residentBytes"] > 0, f"{images}")
    check(call("getImage", mine[0]["imageID"])["imageID"] == mine[0]["imageID"], "the same")
    call("upgradePager")


def test_keys():
    made = call("createKey", body={"name": "a-key", "scope": "use", "maxSandboxes": 3})
    check([k["id"] for k in call("listKeys")] == [made["id"]], f"{call('listKeys')}")
    call("rotateKey", made["id"], body={})
    call("revokeKey", made["id"])


def test_events_and_usage():
    sandbox = STATE["sandbox"]
    check(sandbox in [s["sandboxID"] for s in call("getSandboxUsage")["sandboxes"]], "it is there")
    call("watchEvents", query={"follow": "false"})
    call("watchSandboxEvents", sandbox, query={"follow": "false"})
    call("getSandboxLogs", sandbox)
    call("getSandboxLogsV1", sandbox)


def test_drain():
    call("drainHost", body={"timeout": 10})
    check(call("getHost")["draining"], "it is drained")
    call("undrainHost")


def wrong_values(name, s):
    """values that s does not allow"""
    s = schema.resolve(DOC, s)
    if "type" not in s:  # what is not supported
        yield {"a": "b"}
        return
    yield {"string": 7, "integer": "x", "boolean": "x", "object": 7, "array": 7}[s["type"]]
    if isinstance(s.get("additionalProperties"), dict):
        yield {name: 1}
    if "enum" in s:
        yield "nonsense"
    if "minimum" in s:
        yield s["minimum"] - 1
    if "maximum" in s:
        yield s["maximum"] + 1
    if "maxLength" in s:
        yield "x" * (s["maxLength"] + 1)


def bodies():
    for oid, method, path, op in operations():
        content = op.get("requestBody", {}).get("content", {})
        if "schema" in content.get("application/json", {}):
            yield oid, path.count("{"), schema.resolve(DOC, content["application/json"]["schema"])


def refused(oid, n_args, body, *names):
    e = call(oid, *["nope"] * n_args, body=body, expect=400)
    check(any(n in e["message"] for n in names), f"{oid} {body}: {e['message']!r} names no {names}")


def good_body(s):
    """what must be there"""
    return {name: {"string": "base", "integer": 1}[s["properties"][name]["type"]]
            for name in s.get("required", [])}


def test_wrong_members():
    n = 0
    for oid, n_args, s in bodies():
        for name in s.get("required", []):
            refused(oid, n_args, {k: v for k, v in good_body(s).items() if k != name}, name)
        for name, member in s["properties"].items():
            for value in wrong_values(name, member):
                refused(oid, n_args, {**good_body(s), name: value}, name)
                n += 1
            for inner, its in schema.resolve(DOC, member).get("properties", {}).items():
                for value in wrong_values(inner, its):
                    refused(oid, n_args, {**good_body(s), name: {inner: value}}, inner, name)
                    n += 1
    check(n > 100, f"only {n} members were tried")


def test_wrong_parameters():
    n = 0
    for oid, _, path, op in operations():
        for p in map(lambda p: schema.resolve(DOC, p), op.get("parameters", [])):
            s = p["schema"]
            if p["in"] == "query" and (s.get("type") == "integer" or s.keys() & {"enum", "const", "format"}):
                e = call(oid, *["nope"] * path.count("{"), query={p["name"]: "nonsense"}, expect=400)
                check(p["name"] in e["message"], f"{oid} {p['name']}: {e['message']}")
                n += 1
    check(n > 10, f"only {n} parameters were tried")


def test_unknown_ones():
    for oid, _, path, op in operations():
        if "404" in op["responses"] and "{" in path:
            content = op.get("requestBody", {}).get("content", {}).get("application/json")
            body = good_body(schema.resolve(DOC, content["schema"])) if content else None
            e = call(oid, *["nope"] + ["1"] * (path.count("{") - 1), body=body, expect=
                     426 if oid == "openSandboxPort" else 404)
            check(e["message"], f"{oid}: {e}")


def test_all_were_driven():
    for oid, *_ in operations():
        wanted = NO_SUCCESS.get(oid)
        check(any(s < 300 or s == wanted for s in SEEN.get(oid, ())), f"{oid} never succeeded here")
    D.__exit__(None)


main(globals())
