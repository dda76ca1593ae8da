# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""The control API as clients lean on it: lists that change under their hands, requests that are
repeated, errors that all look the same."""
import concurrent.futures
import http.client
import json
import socket
import threading
import time
import urllib.parse

from harness import ApiError, Dormouse, UnixConnection, check, main, wait_until

KEY = "e2b_0123456789abcdef0123456789abcdef01234567"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PORT = free_port()
D = Dormouse("--listen", f"127.0.0.1:{PORT}", "--api-key", "env:DORM_TEST_API_KEY",
             env={"DORM_TEST_API_KEY": KEY}).__enter__()


def send(method, path, body=None, headers=None, connection=None):
    """returns status, headers, body as text"""
    c = connection or UnixConnection(D.socket, 180)
    try:
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        c.request(method, path, data, headers or {})
        reply = c.getresponse()
        return reply.status, reply.headers, reply.read().decode()
    finally:
        c.close()


def listing(path, **query):
    """one page: items, token"""
    query = {k: v for k, v in query.items() if v is not None}
    status, headers, text = send("GET", f"{path}?{urllib.parse.urlencode(query)}")
    check(status == 200, f"{path} {query}: {status} {text}")
    return json.loads(text), headers.get("x-next-token")


def ids(**query):
    return [s["sandboxID"] for s in listing("/v2/sandboxes", **query)[0]]


def test_template():
    D.build_template("base", 128)


# ---- lists ----------------------------------------------------------------------------------


def test_pages_under_change():
    """what is there from the first page to the last is listed once, whatever comes and goes"""
    kept = [D.create("base", metadata={"n": str(n)}) for n in range(6)]
    for order in (None, "asc"):
        doomed = [D.create("base") for _ in range(2)]
        everything = ids(order=order)
        want = everything if order else everything[::-1]
        check(want == kept + doomed, f"in the order of their creation: {want}")
        seen, token, born = [], None, []
        while True:
            page, token = listing("/v2/sandboxes", limit=2, order=order, nextToken=token)
            seen += [s["sandboxID"] for s in page]
            if not token:
                break
            check(len(page) == 2, f"a page of {len(page)}")
            last = seen[-1]
            if last in doomed or doomed:  # the token's own goes where it can, and one is born
                victim = last if last in doomed else doomed[0]
                doomed.remove(victim)
                D.api("DELETE", f"/sandboxes/{victim}")
                born.append(D.create("base"))
        check(len(seen) == len(set(seen)), f"twice: {seen}")
        check(set(kept) <= set(seen), f"{set(kept) - set(seen)} were not listed")
        if order:
            check(seen[-len(born):] == born, "and oldest first, those born meanwhile come last")
        else:
            check(not set(born) & set(seen), "newest first, those born meanwhile are not met")
        for sandbox in doomed + born:
            D.api("DELETE", f"/sandboxes/{sandbox}")
    status, _, text = send("GET", "/v2/sandboxes?nextToken=nonsense")
    check(status == 400 and "nextToken" in text, text)


def test_pages_over_restart():
    """a token holds over a restart, after which the table of sandboxes is in another order"""
    before = ids()
    first, token = listing("/v2/sandboxes", limit=3)
    D.kill()
    D.start()
    rest = ids(limit=100, nextToken=token)
    check([s["sandboxID"] for s in first] + rest == before == ids(), f"{before} {rest}")


def test_filters():
    mine = ids()[::-1]
    D.api("POST", f"/sandboxes/{mine[0]}/pause", {})
    check(ids(state="paused") == [mine[0]], "paused")
    check(mine[0] not in ids(state="running") and mine[0] in ids(state="running,paused"), "running")
    check(mine[0] in ids() and mine[0] not in [s["sandboxID"] for s in listing("/sandboxes")[0]], "of old")
    odd = D.create("base", metadata={"a b&c": "v=w ü%", "n": "2"})
    encoded = "&".join(f"{urllib.parse.quote(urllib.parse.quote(k, ''), '')}="
                       f"{urllib.parse.quote(urllib.parse.quote(v, ''), '')}"
                       for k, v in (("a b&c", "v=w ü%"), ("n", "2")))
    check(ids(metadata=encoded) == [odd], "both, encoded three times")
    check(set(ids(metadata="n=2")) == {odd, mine[2]}, "one of them")
    check(ids(metadata="n=2", state="paused") == [], "and no other")
    check(ids(template="base") == ids() and ids(template="nope") == [], "template")
    started = D.api("GET", f"/sandboxes/{odd}")["startedAt"]
    check(ids(startedAfter=started) == [], "none after the latest")
    check(ids(startedAfter="2020-01-01T00:00:00+02:00") == ids(), "all of this decade")
    earlier = D.api("GET", f"/sandboxes/{mine[-1]}")["startedAt"]
    check(ids(startedAfter=earlier) == [odd], "those after another")
    path = f"/sandboxes/metrics?sandbox_ids={odd},{mine[1]},{mine[0]},nope"
    wait_until(lambda: len(D.api("GET", path)["sandboxes"]) > 1, 60, "two guests say what they use")
    check(set(D.api("GET", path)["sandboxes"]) == {odd, mine[1]}, "who sleeps is not woken to be asked")
    for sandbox in ids():
        D.api("DELETE", f"/sandboxes/{sandbox}")


def test_snapshot_pages():
    sandbox = D.create("base")
    made = [D.api("POST", f"/sandboxes/{sandbox}/snapshots", {"name": f"n{n}"})["snapshotID"]
            for n in range(3)]
    seen, token = [], None
    while True:
        page, token = listing("/snapshots", sandboxID=sandbox, limit=1, nextToken=token)
        seen += [s["snapshotID"] for s in page]
        if not token:
            break
        D.api("DELETE", f"/templates/{page[0]['snapshotID']}")
    check(seen == made[::-1], f"{seen}, made {made}")
    status, _, text = send("DELETE", "/templates/ns%2Fn0%3Adefault")
    check(status == 204, f"by a name as E2B writes it: {status} {text}")
    check(send("DELETE", "/templates/ns%2Fn0%3Adefault")[0] == 404, "the second time")
    D.api("DELETE", f"/sandboxes/{sandbox}")


# ---- repeated requests ----------------------------------------------------------------------


def once(method, path, body, key):
    status, headers, text = send(method, path, body, {"Idempotency-Key": key})
    return status, headers.get("Idempotent-Replayed") == "true", json.loads(text) if text else None


def test_repeated_create():
    body = {"templateID": "base", "timeout": 3600}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: once("POST", "/v2/sandboxes", body, "one"), range(6)))
    check({a[0] for a in answers} == {201}, f"{answers}")
    check(sum(not a[1] for a in answers) == 1, "one of them was the first")
    check(all(a[2] == answers[0][2] for a in answers), "and its answer is everybody's")
    check(len(ids()) == 1, "one sandbox")
    status, _, error = once("POST", "/v2/sandboxes", dict(body, timeout=3601), "one")
    check(status == 422 and error["code"] == 422 and "Idempotency-Key" in error["message"], f"{error}")
    check(once("POST", "/v2/sandboxes", dict(body, templateID="nope"), "two")[0] == 404, "fails")
    check(once("POST", "/v2/sandboxes", body, "two")[:2] == (201, False), "and is tried again")
    check(once("POST", "/v2/sandboxes", body, "x" * 256)[0] == 400, "too long a key")
    check(len(ids()) == 2, "two")


def test_repeated_others():
    sandbox = ids()[0]
    for path, body, count in ((f"/sandboxes/{sandbox}/fork", {"count": 2}, lambda: len(ids())),
                              (f"/sandboxes/{sandbox}/snapshots", {}, lambda: len(listing("/snapshots")[0]))):
        before = count()
        first = once("POST", path, body, "k")
        again = once("POST", path, body, "k")
        check(first[0] == again[0] == 201 and not first[1] and again[1], f"{path}: {first} {again}")
        check(first[2] == again[2], f"{path}: {first} {again}")
        check(count() == before + body.get("count", 1), f"{path}: done once")
    made = [once("POST", "/v3/templates", {"name": "t", "memoryMB": 128}, "k")[2] for _ in range(2)]
    check(made[0]["buildID"] == made[1]["buildID"], f"{made}")
    for sandbox in ids():
        D.api("DELETE", f"/sandboxes/{sandbox}")
        check(send("DELETE", f"/sandboxes/{sandbox}")[0] == 404, "the second time")


def test_repeated_over_kill():
    """dormd is killed at many moments of a create: who asks again has one sandbox, always"""
    for round_, delay_ms in enumerate((1, 30, 60, 120, 200, None, None)):
        body = {"templateID": "base", "timeout": 3600, "metadata": {"round": str(round_)}, "wait": "full"}
        key = f"kill-{round_}"
        lost = threading.Thread(target=lambda: ignore(once, "POST", "/v2/sandboxes", body, key))
        lost.start()
        if delay_ms:
            time.sleep(delay_ms / 1000)
        else:
            wait_until(lambda: runs_on_disk(str(round_)), 60, "its record says that it runs")
        D.kill()
        lost.join()
        D.start()
        status, replayed, made = once("POST", "/v2/sandboxes", body, key)
        check(status == 201, f"after {delay_ms} ms: {status} {made}")
        check(replayed or delay_ms, "a dormd that was killed had made it")
        check(ids(metadata=f"round={round_}") == [made["sandboxID"]], f"after {delay_ms} ms: not one")
        check(once("POST", "/v2/sandboxes", body, key)[2]["sandboxID"] == made["sandboxID"], "again")
        check(D.exec(made["sandboxID"], "echo", "here") == "here", "it works")
    status, _, error = once("POST", "/v2/sandboxes", {"templateID": "base"}, "kill-6")
    check(status == 422, f"another body: {status} {error}")
    D.kill()
    D.start()
    status, replayed, made = once("POST", "/v2/sandboxes", body, "kill-6")
    check(status == 201 and replayed, f"its record knows who made it: {status} {made}")
    check(made["envdAccessToken"] == D.access(made["sandboxID"])["X-Access-Token"], "and its token")
    check(once("POST", "/v2/sandboxes", {"templateID": "base"}, "kill-6")[0] == 422, "another body")
    check(len(ids()) == 7, f"{ids()}")
    for sandbox in ids():
        D.api("DELETE", f"/sandboxes/{sandbox}")


def runs_on_disk(round_):
    """by the records, is there a running sandbox of this round?"""
    for path in (D.root / "sandboxes").glob("*/sandbox.json"):
        record = json.loads(path.read_text())
        if record.get("metadata") == {"round": round_} and record["state"] == "running":
            return True
    return False


def ignore(f, *args):
    try:
        f(*args)
    except (OSError, http.client.HTTPException, ValueError):
        pass  # dormd was killed: that is what this is about


# ---- errors ---------------------------------------------------------------------------------

LONG = "a" * 2000
BAD = (  # method, path, body, headers, status, word of the message
    ("GET", "/nowhere", None, {}, 404, "/nowhere"),
    ("GET", "/", None, {}, 404, "/"),
    ("GET", "/sandboxes/", None, {}, 404, ""),
    ("GET", "/sandboxes//memory", None, {}, 404, ""),
    ("GET", "/sandboxes/a/b/c/d", None, {}, 404, ""),
    ("GET", "/sandboxes/a%00b", None, {}, 404, ""),
    ("GET", "/%ff%fe", None, {}, 404, "%ff%fe"),
    ("GET", "/sandboxes/%ff%fe", None, {}, 404, "sandbox"),
    ("GET", f"/sandboxes/{LONG}", None, {}, 404, ""),
    ("GET", "/sandboxes/nope", None, {}, 404, "nope"),
    ("DELETE", "/sandboxes/nope", None, {}, 404, "nope"),
    ("DELETE", "/templates/%2e%2e%2fx", None, {}, 404, ".."),
    ("PATCH", "/sandboxes/nope", None, {}, 405, "PATCH"),
    ("PUT", "/v2/sandboxes", "{}", {}, 405, "PUT"),
    ("DELETE", "/healthz", None, {}, 405, "DELETE"),
    ("GET", "/store/check", None, {}, 405, "GET"),
    ("FROB", "/healthz", None, {}, 405, "FROB"),
    ("POST", "/v2/sandboxes", "{", {}, 400, "JSON"),
    ("POST", "/v2/sandboxes", "not json", {}, 400, "JSON"),
    ("POST", "/v2/sandboxes", "[]", {}, 400, "object"),
    ("POST", "/v2/sandboxes", "7", {}, 400, "JSON"),
    ("POST", "/v2/sandboxes", '{"a":1,"a":2}', {}, 400, "JSON"),
    ("POST", "/v2/sandboxes", b'{"templateID":"\xff"}', {}, 400, "JSON"),
    ("POST", "/v2/sandboxes", '{"templateID":"a\\u0000b"}', {}, 400, "JSON"),
    ("POST", "/v2/sandboxes", "[" * 100000, {}, 400, "JSON"),
    ("POST", "/v2/sandboxes", "", {}, 400, "templateID"),
    ("POST", "/v2/sandboxes", {"templateID": None}, {}, 400, "templateID"),
    ("POST", "/v2/sandboxes", {"templateID": LONG}, {}, 400, "templateID"),
    ("POST", "/v2/sandboxes", {"templateID": "ü"}, {}, 404, "ü"),
    ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": -1}, {}, 400, "timeout"),
    ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 1.5}, {}, 400, "timeout"),
    ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 10**30}, {}, 400, "integer"),
    ("POST", "/v2/sandboxes", {"templateID": "base", "metadata": ["a"]}, {}, 400, "metadata"),
    ("POST", "/v2/sandboxes", {"templateID": "base", "envVars": {"A": 1}}, {}, 400, "envVars.A"),
    ("POST", "/v2/sandboxes", {"templateID": "base", "volumeMounts": [{"name": "a"}]}, {}, 400, "volumeMounts"),
    ("POST", "/v2/sandboxes", {"templateID": "base:v2"}, {}, 404, "base:v2"),
    ("POST", "/v2/sandboxes", "x" * (1 << 20 | 1), {}, 413, "larger"),
    ("POST", "/sandboxes/nope/timeout", {}, {}, 400, "timeout"),
    ("POST", "/sandboxes/nope/timeout", {"timeout": None}, {}, 400, "timeout"),
    ("POST", "/sandboxes/nope/fork", {"count": 1001}, {}, 400, "count"),
    ("POST", "/sandboxes/nope/snapshots", {"name": "A b"}, {}, 400, "name"),
    ("GET", "/v2/sandboxes?limit=0", None, {}, 400, "limit"),
    ("GET", "/v2/sandboxes?limit=1001", None, {}, 400, "limit"),
    ("GET", "/v2/sandboxes?state=sleepy", None, {}, 400, "state"),
    ("GET", "/v2/sandboxes?order=up", None, {}, 400, "order"),
    ("GET", "/v2/sandboxes?startedAfter=yesterday", None, {}, 400, "startedAfter"),
    ("GET", "/v2/sandboxes?metadata=x", None, {}, 400, "metadata"),
    ("GET", "/sandboxes/metrics", None, {}, 400, "sandbox_ids"),
    ("GET", "/images/nope", None, {}, 404, "nope"),
    ("GET", "/templates/t/files/h", None, {}, 501, "files"),
    ("POST", "/snapshots/import?format=x", b"", {}, 400, "format"),
    ("GET", "/x", None, {"E2b-Sandbox-Id": "nope"}, 400, "E2b-Sandbox-Port"),
    ("GET", "/x", None, {"E2b-Sandbox-Id": "nope", "E2b-Sandbox-Port": "0"}, 400, "port"),
    ("GET", "/x", None, {"E2b-Sandbox-Id": "nope", "E2b-Sandbox-Port": "80"}, 502, "The sandbox was not found"),
    ("POST", "/x", "body", {"E2b-Sandbox-Id": "nope", "E2b-Sandbox-Port": "49983"}, 502, "The sandbox was not found"),
)


def check_error(method, path, status, headers, text, wanted, word):
    what = f"{method} {path[:60]}: {status} {text[:300]!r}"
    check(status == wanted, f"{what}, wanted {wanted}")
    check(headers["Content-Type"] == "application/json", f"{what}: {headers['Content-Type']}")
    body = json.loads(text)
    check(body["code"] == status and body["message"], f"{what}: its code")
    check(word in body["message"], f"{what} does not say {word!r}")
    check(set(body) <= {"code", "message", "hint", "error_code", "sandboxId", "port"}, what)
    check((status == 405) == ("Allow" in headers), f"{what}: Allow is {headers.get('Allow')}")
    if status == 503 or status == 429:
        check(headers["Retry-After"].isdigit(), f"{what}: no Retry-After")


def test_errors():
    for method, path, body, headers, wanted, word in BAD:
        status, got, text = send(method, path, body, headers)
        check_error(method, path, status, got, text, wanted, word)
    check(ids() == [], "and nothing was made")


def test_what_is_ignored():
    """members that nobody knows, as with E2B"""
    status, _, text = send("POST", "/v2/sandboxes", {"templateID": "base", "colour": "blue", "timeout": None})
    check(status == 201, f"{status} {text}")
    sandbox = json.loads(text)["sandboxID"]
    D.api("POST", f"/sandboxes/{sandbox}/pause", {})
    try:
        D.api("POST", f"/sandboxes/{sandbox}/pause", {})
        raise AssertionError("it slept twice")
    except ApiError as e:
        check(e.status == 409 and e.body["code"] == 409, f"{e.status} {e.body}")
    check(send("POST", f"/v2/sandboxes/{sandbox}/connect")[0] == 201, "woken, without a body")
    check(send("POST", f"/v2/sandboxes/{sandbox}/connect", {})[0] == 200, "it ran")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def test_methods_and_origins():
    for path in ("/healthz", "/v2/sandboxes", "/openapi.json", "/metrics"):
        full, head = send("GET", path), send("HEAD", path)
        check(head[0] == full[0] == 200 and not head[2], f"HEAD {path}: {head[0]} {head[2][:80]}")
        check(head[1]["Content-Type"] == full[1]["Content-Type"], f"HEAD {path}")
        check(full[1]["Access-Control-Allow-Origin"] == "*", f"{path}: for pages of other origins")
    status, headers, text = send("OPTIONS", "/sandboxes/x")
    check((status, text, headers["Allow"]) == (204, "", "GET, HEAD, DELETE, OPTIONS"), f"{headers}")
    check(send("OPTIONS", "/nowhere")[0] == 404, "there is nothing to be done")
    check(send("GET", "/nowhere")[1]["Access-Control-Allow-Origin"] == "*", "errors can be read, too")
    # A browser asks before it sends the headers of a sandbox, so whose it is cannot be known.
    status, headers, _ = send("OPTIONS", "/process.Process/Start", None,
                              {"Origin": "https://app.example", "Access-Control-Request-Method": "POST",
                               "Access-Control-Request-Headers": "e2b-sandbox-id,x-access-token"})
    check(status == 204 and headers["Access-Control-Allow-Headers"] == "*", f"{status} {headers}")
    check("POST" in headers["Access-Control-Allow-Methods"], f"{headers}")


def test_origins_of_sandboxes():
    """a page may use a sandbox's own API; what its ports allow is its own business"""
    sandbox = D.create("base")
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = send("OPTIONS", "/files", None, dict(asks, Host=f"49983-{sandbox}.localhost"))
    check(status == 204 and "POST" in headers["Access-Control-Allow-Methods"], f"{status} {headers}")
    status, headers, _ = send("GET", "/health", None, D.access(sandbox))
    check(status == 204 and headers.get_all("Access-Control-Allow-Origin") == ["*"], f"{status} {headers}")
    status, headers, text = send("OPTIONS", "/", None, dict(asks, Host=f"8080-{sandbox}.localhost"))
    check(status == 502 and "port is not open" in text, f"nobody listens there: {status} {text}")
    D.api("DELETE", f"/sandboxes/{sandbox}")


def tcp(method, path, headers=None, body=None):
    return send(method, path, body, headers, http.client.HTTPConnection("127.0.0.1", PORT, timeout=30))


def test_without_a_key():
    """over TCP: the description and a browser's question need none, the rest does"""
    check(json.loads(tcp("GET", "/openapi.json")[2])["openapi"].startswith("3.1"), "the description")
    check(tcp("OPTIONS", "/v2/sandboxes", {"Access-Control-Request-Method": "POST"})[0] == 204, "OPTIONS")
    for method, path in (("GET", "/v2/sandboxes"), ("POST", "/v2/sandboxes"), ("GET", "/nowhere"),
                         ("GET", "/images"), ("HEAD", "/v2/sandboxes"), ("GET", "/openapi.json/x")):
        status, headers, text = tcp(method, path)
        check(status == 401, f"{method} {path}: {status}")
        if method != "HEAD":
            check_error(method, path, status, headers, text, 401, "X-API-KEY")
    check(tcp("GET", "/v2/sandboxes", {"X-API-KEY": KEY})[0] == 200, "with it")


def test_nothing_is_left():
    for sandbox in D.sandboxes():
        D.api("DELETE", f"/sandboxes/{sandbox['sandboxID']}")
    wait_until(lambda: not list((D.root / "sandboxes").iterdir()), 20, "sandboxes/ is empty")
    check(not list((D.root / "tmp").iterdir()), "tmp/ is empty")
    D.__exit__(None)


main(globals())
