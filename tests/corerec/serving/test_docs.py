import base64
import hashlib
import re


def test_openapi_describes_the_problems_and_the_bounds(client):
    schema = client.get("/openapi.json").json()

    recommend = schema["paths"]["/v1/recommend"]["post"]
    assert {"200", "400", "404", "413", "415", "422", "503"} <= recommend["responses"].keys()
    assert list(recommend["responses"]["422"]["content"]) == ["application/problem+json"]
    fields = schema["components"]["schemas"]["RecommendRequest"]["properties"]
    assert fields["top_k"]["maximum"] == 1000
    assert fields["history"]["anyOf"][0]["maxItems"] == 2000
    assert "security" not in recommend


def test_the_api_s_page_needs_no_network(client):
    page = client.get("/docs").text
    sources = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page)
    assert {"/openapi.json", "/docs/assets/swagger-ui.css", "/docs/assets/swagger-ui-bundle.js"} <= set(sources)
    assert [client.get(source).status_code for source in sources] == [200] * len(sources)


def test_the_policy_of_the_docs_names_their_one_script(client):
    page = client.get("/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    assert f"script-src 'self' 'sha256-{digest}'" in page.headers["content-security-policy"]
