"""A browser signs in with a key once, and can then read and do nothing else."""

import pytest
from html_page import Page, check_form

HTML = {"Accept": "text/html"}
COOKIE = "tokenstone_session"


@pytest.fixture
def sign_in(guarded, key):
    """Sign in with a new key of those scopes; the cookie is then in the client."""

    def sign(*scopes: str, follow=False, wanted="/runs", **of_key):
        text = key(guarded, *scopes, **of_key)["Authorization"].removeprefix("Bearer ")
        return guarded.post("/sign-in", data={"key": text, "next": wanted}, follow_redirects=follow)

    return sign


def test_a_stranger_is_asked_for_a_key_at_the_page_they_wanted(guarded):
    response = guarded.get("/runs?state=failed", headers=HTML)
    assert response.status_code == 401
    found = Page(response.text)
    check_form(found)
    assert {"type": "hidden", "name": "next", "value": "/runs?state=failed"} in [a for tag, a in found.tags]
    assert "password" in {a.get("type") for tag, a in found.tags if tag == "input"}, "it is not shown while typed"


def test_a_key_that_may_read_opens_the_pages_and_nothing_else(guarded, sign_in, problem):
    response = sign_in("read", wanted="/runs?state=failed")
    assert response.status_code == 303
    assert response.headers["location"] == "/runs?state=failed"
    told = response.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(told.split("; "))
    assert "tsk_" in told.split(".")[0]
    for path in ("/clusters", "/runs", "/compare", "/v1/runs", "/v1/fleet/html"):
        assert guarded.get(path, headers=HTML).status_code == 200, path
    assert "Sign out" in guarded.get("/runs").text
    problem(guarded.put("/v1/cluster-prices", json={}), 401)
    problem(guarded.post("/v1/runs", json={}), 401)


def test_the_cookie_holds_no_key_and_the_page_neither(guarded, key):
    text = key(guarded, "read")["Authorization"].removeprefix("Bearer ")
    response = guarded.post("/sign-in", data={"key": text, "next": "/runs"}, follow_redirects=False)
    secret = text.split("_", 2)[2]
    assert secret not in response.headers["set-cookie"]
    assert secret not in str(response.headers) + response.text
    wrong = guarded.post("/sign-in", data={"key": text + "x", "next": "/runs"})
    assert wrong.status_code == 403
    assert secret not in wrong.text


def test_a_session_of_an_admin_can_read_and_not_administer(guarded, sign_in, problem):
    sign_in("admin")
    assert guarded.get("/v1/runs").status_code == 200
    problem(guarded.get("/v1/keys"), 403)


def test_what_is_no_key_is_refused_with_the_form(guarded):
    for text in ("", "x", "tsk_000000000000_" + "A" * 43):
        response = guarded.post("/sign-in", data={"key": text, "next": "/runs"})
        assert response.status_code == 403
        assert "unknown, revoked or expired" in response.text
        check_form(Page(response.text))
    assert COOKIE not in guarded.cookies


def test_a_key_that_may_not_read_is_refused(guarded, sign_in):
    response = sign_in("ingest")
    assert response.status_code == 403
    assert "may not read" in response.text


def test_a_form_of_another_site_is_refused(guarded, key):
    text = key(guarded, "read")["Authorization"].removeprefix("Bearer ")
    response = guarded.post("/sign-in", data={"key": text}, headers={"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 403
    assert COOKIE not in guarded.cookies


def test_nobody_is_sent_elsewhere(sign_in):
    for wanted in ("//elsewhere.test/", "/\\elsewhere.test", "https://elsewhere.test/", "", "runs", "/a\nb"):
        assert sign_in("read", wanted=wanted).headers["location"] == "/clusters"


def test_a_session_ends_after_its_time_with_its_key_and_by_signing_out(guarded, key, sign_in, clock):
    sign_in("read")
    clock.now += 12 * 3600 - 1
    assert guarded.get("/runs").status_code == 200
    clock.now += 2
    assert guarded.get("/runs").status_code == 401
    sign_in("read")
    prefix = guarded.cookies[COOKIE].split(".")[0]
    assert guarded.delete(f"/v1/keys/{prefix}", headers=key(guarded, "admin")).status_code == 200
    assert guarded.get("/runs").status_code == 401
    sign_in("read")
    guarded.post("/sign-out", follow_redirects=False)
    assert guarded.get("/runs").status_code == 401


def test_a_session_ends_when_its_key_expires(guarded, sign_in, clock):
    sign_in("read", expires=clock.now + 60)
    assert guarded.get("/runs").status_code == 200
    clock.now += 61
    assert guarded.get("/runs").status_code == 401


def test_a_session_that_somebody_changed_is_none(guarded, sign_in):
    sign_in("read")
    prefix, expires, mac = guarded.cookies[COOKIE].split(".")
    for forged in (
        f"{prefix}.{int(expires) + 1}.{mac}",
        f"tsk_000000000000.{expires}.{mac}",
        f"{prefix}.{expires}.{'0' * 64}",
        f"{prefix}.{expires}",
        "x" * 5000,
    ):
        guarded.cookies.clear()
        guarded.cookies.set(COOKIE, forged)
        assert guarded.get("/runs").status_code == 401, forged


def test_a_session_for_one_cluster_sees_that_one_alone(guarded, key, sign_in, end_run):
    guarded.headers.update(key(guarded, "admin"))
    end_run(guarded, "mine", cluster="mine")
    end_run(guarded, "their-lab", cluster="their-lab")
    del guarded.headers["Authorization"]
    sign_in("read", cluster="mine")
    assert "their-lab" not in guarded.get("/clusters").text
    assert "their-lab" not in guarded.get("/runs").text
    assert "their-lab" not in guarded.get("/compare").text
    for path in ("/clusters/their-lab", "/runs/their-lab", "/runs?cluster=their-lab", "/compare?a=their-lab&b=mine"):
        assert guarded.get(path, headers=HTML).status_code == 403, path
    assert guarded.get("/runs/mine").status_code == 200


def test_without_keys_there_is_nothing_to_sign_in_to(api):
    assert api.get("/sign-in").url.path == "/clusters"
    assert "Sign out" not in api.get("/runs").text
