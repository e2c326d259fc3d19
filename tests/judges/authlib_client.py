"""Authlib: what it thinks of the metadata, and its client for the code flow."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
CLIENTS = Path(__file__).parents[1] / "clients"
sys.path.insert(0, str(CLIENTS))

import httpx2
from authlib.integrations.httpx_client import OAuth2Client, OAuthError
from authlib.oauth2 import rfc8414, rfc9207
from authlib.oauth2.rfc6749.parameters import parse_authorization_code_response
from authlib.oauth2.rfc8414 import get_well_known_url
from authlib.oidc.discovery import OpenIDProviderMetadata
from authlib.oidc.discovery import get_well_known_url as get_openid_url
from joserfc import jwt
from joserfc.jwk import KeySet

from python_steps import check, run, step

ISSUER = os.environ["ISSUER"]
RESOURCE = os.environ["MCP_URL"]
REDIRECT_URI = "http://127.0.0.1:46274/callback"
VERIFIER = "authlib-" + "~._-" * 12
INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "authlib", "version": "1"}},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


def visit(url: str) -> str:
    """The redirect URI as the person's browser is sent to it."""
    browser = [os.environ.get("NODE", "node"), str(CLIENTS / "lib" / "browser.mjs"), url]
    visited = subprocess.run(browser, capture_output=True, text=True, timeout=30, check=False)
    check(visited.returncode == 0, f"the browser: {visited.stderr.strip()}")
    return visited.stdout.strip()


def metadata() -> dict:
    answer = httpx2.get(get_well_known_url(ISSUER, external=True))
    found = rfc8414.AuthorizationServerMetadata(answer.json())
    found.validate(metadata_classes=[rfc9207.AuthorizationServerMetadata])
    check(found.issuer == ISSUER, f"issuer {found.issuer}")
    check(found["authorization_response_iss_parameter_supported"] is True, "iss is not announced")
    for name, value in found.items():
        check(value not in (None, ""), f"{name} is {value!r}")
    return found


def register(server: dict, method: str) -> dict:
    body = {
        "client_name": f"Authlib {method}", "redirect_uris": [REDIRECT_URI], "token_endpoint_auth_method": method,
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
    }
    answer = httpx2.post(server["registration_endpoint"], json=body)
    check(answer.status_code == 201, f"{answer.status_code} {answer.text}")
    return answer.json()


def flow(server: dict, method: str) -> None:
    registered = register(server, method)
    client = OAuth2Client(
        registered["client_id"], registered.get("client_secret"), redirect_uri=REDIRECT_URI, code_challenge_method="S256",
        token_endpoint_auth_method=method, revocation_endpoint_auth_method=method, leeway=0,
    )
    url, state = client.create_authorization_url(server["authorization_endpoint"], code_verifier=VERIFIER, resource=RESOURCE)
    answer = visit(url)
    parse_authorization_code_response(answer, state=state)
    check(f"iss={ISSUER.replace(':', '%3A').replace('/', '%2F')}" in answer, f"no iss in {answer}")
    token = client.fetch_token(server["token_endpoint"], authorization_response=answer, state=state, code_verifier=VERIFIER, resource=RESOURCE)
    check(token["token_type"] == "Bearer", str(token["token_type"]))
    check(client.post(RESOURCE, json=INITIALIZE, headers=ACCEPT).status_code == 200, "the token does not open the server")
    first = token["refresh_token"]
    token = client.refresh_token(server["token_endpoint"], refresh_token=first)
    check(token["refresh_token"] != first, "the refresh token was not rotated")
    answer = client.revoke_token(server["revocation_endpoint"], token["refresh_token"], token_type_hint="refresh_token")
    check(answer.status_code == 200 and not answer.content, f"revocation: {answer.status_code} {answer.text}")
    check(client.post(RESOURCE, json=INITIALIZE, headers=ACCEPT).status_code == 401, "a revoked token opens the server")
    try:
        client.refresh_token(server["token_endpoint"], refresh_token=token["refresh_token"])
    except OAuthError as error:
        check(error.error == "invalid_grant", str(error))
    else:
        raise AssertionError("a revoked refresh token was taken")


def openid() -> None:
    """Discovery as OpenID Connect has it, and an ID token that its published keys verify."""
    provider = OpenIDProviderMetadata(httpx2.get(get_openid_url(ISSUER, external=True)).json())
    provider.validate(metadata_classes=[rfc9207.AuthorizationServerMetadata])
    keys = KeySet.import_key_set(httpx2.get(provider["jwks_uri"]).json())
    client = OAuth2Client("judge", os.environ["CLIENT_SECRET"], redirect_uri=REDIRECT_URI, code_challenge_method="S256", scope="openid email")
    url, state = client.create_authorization_url(
        provider["authorization_endpoint"], code_verifier=VERIFIER, resource=RESOURCE, nonce="a-nonce"
    )
    token = client.fetch_token(provider["token_endpoint"], authorization_response=visit(url), state=state, code_verifier=VERIFIER)
    decoded = jwt.decode(token["id_token"], keys, algorithms=["ES256"])
    registry = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": ISSUER}, aud={"essential": True, "value": "judge"}, nonce={"essential": True, "value": "a-nonce"},
        sub={"essential": True}, exp={"essential": True}, iat={"essential": True},
    )
    registry.validate(decoded.claims)
    user = client.get(provider["userinfo_endpoint"]).json()
    check(user["sub"] == decoded.claims["sub"] and user["email"] == "ada@example.com", str(user))
    known = client.introspect_token(provider["introspection_endpoint"], token["access_token"]).json()
    check(known["active"] is True and known["sub"] == user["sub"], str(known))


def program(server: dict) -> None:
    client = OAuth2Client("judge", os.environ["CLIENT_SECRET"])
    client.fetch_token(server["token_endpoint"], grant_type="client_credentials", resource=RESOURCE, scope="everything:use")
    check(client.post(RESOURCE, json=INITIALIZE, headers=ACCEPT).status_code == 200, "the token does not open the server")


async def main() -> None:
    # Spec: A1, A3, A4, A5, A6, A9, A12
    server = await step("the metadata is that of RFC 8414 and RFC 9207", 10, lambda: asyncio.to_thread(metadata))
    # Spec: C1, D9, F2, F5, F8, F13, G1, G2
    for method in ("none", "client_secret_basic", "client_secret_post"):
        work = lambda method=method: asyncio.to_thread(flow, server, method)
        await step(f"{method}: registration, code, refresh and revocation", 30, work)
    # Spec: A11, G4, G5, G6
    await step("OpenID Connect: metadata, ID token, userinfo and introspection", 30, lambda: asyncio.to_thread(openid))
    # Spec: J1
    await step("client credentials open the MCP server", 10, lambda: asyncio.to_thread(program, server))


sys.exit(run(main, "nothing is left open"))
