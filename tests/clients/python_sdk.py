"""The Python SDK's client, first and second generation: the same script runs with either installed."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from python_steps import GREETING, MCP_URL, TOKEN_SECONDS, TOOLS, Progress, check, check_echo, check_tools, restart, run, step

GENERATION = int(version("mcp").split(".")[0])
if GENERATION == 1:
    import httpx as http
else:
    import httpx2 as http
    from mcp.shared.auth import AuthorizationCodeResult

BROWSER = Path(__file__).with_name("lib") / "browser.mjs"


class Storage:
    """Keeps the tokens in memory."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Person:
    """Signs in and agrees, in a browser that is a program of its own."""

    sign_ins = 0
    answer = ""

    async def visit(self, url: str) -> None:
        self.sign_ins += 1
        browser = await asyncio.create_subprocess_exec(
            os.environ.get("NODE", "node"), str(BROWSER), url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        said, complaint = await browser.communicate()
        check(browser.returncode == 0, f"the browser: {complaint.decode().strip()}")
        self.answer = said.decode().strip()

    async def come_back(self) -> Any:
        values = {name: value[0] for name, value in parse_qs(urlsplit(self.answer).query).items()}
        check("code" in values, f"no code came back: {values.get('error')} {values.get('error_description')}")
        if GENERATION == 1:
            return values["code"], values.get("state")
        return AuthorizationCodeResult(code=values["code"], state=values.get("state"), iss=values.get("iss"))


@asynccontextmanager
async def connected(storage: Storage, person: Person) -> AsyncIterator[ClientSession]:
    metadata = OAuthClientMetadata(
        client_name=f"Python SDK {GENERATION}",
        redirect_uris=["http://127.0.0.1:46272/callback"],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        token_endpoint_auth_method="none",
    )
    document = os.environ.get("CLIENT_DOCUMENT")
    auth = OAuthClientProvider(
        MCP_URL, metadata, storage, person.visit, person.come_back, client_metadata_url=document
    )
    async with http.AsyncClient(auth=auth, timeout=30) as client:
        async with streamable_http_client(MCP_URL, http_client=client) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                yield session


async def converse(session: ClientSession, storage: Storage, person: Person) -> None:
    before_restart: OAuthToken | None = None

    async def signed_in() -> None:
        await session.initialize()
        check(person.sign_ins == 1, f"the person was sent to the browser {person.sign_ins} times")
        check(storage.tokens and storage.tokens.access_token, "no access token")

    async def tools() -> None:
        check_tools((await session.list_tools()).tools)

    async def echo(message: str = GREETING) -> None:
        check_echo(await session.call_tool(TOOLS[0], {"message": message}), message)

    async def progress() -> None:
        seen = Progress()
        seen.check(await session.call_tool(TOOLS[1], seen.arguments, progress_callback=seen.report))

    async def refreshed() -> None:
        nonlocal before_restart
        before = storage.tokens
        check(before and before.refresh_token, "the client has no refresh token")
        await asyncio.sleep(TOKEN_SECONDS + 1)
        await echo("after the token expired")
        check(storage.tokens.access_token != before.access_token, "the access token is the old one")
        check(person.sign_ins == 1, f"the person was sent to the browser {person.sign_ins} times")
        before_restart = storage.tokens

    async def restarted() -> None:
        await echo("after the restart")
        # Its event stream, which ended with its token, may have asked for another one before.
        check(storage.tokens.access_token != before_restart.access_token, "the access token is the old one")
        check(person.sign_ins == 1, f"the person was sent to the browser {person.sign_ins} times")

    await step("the first request leads to sign-in and consent, and the client connects", 20, signed_in)
    print(f"CLIENT {storage.client.client_id}", flush=True)
    await step("tools/list names the tools of the server", 10, tools)
    await step("tools/call answers", 10, echo)
    await step("progress arrives while the call runs", 15, progress)
    await step("an expired token is refreshed without the person", 20 + TOKEN_SECONDS, refreshed)
    await restart(restarted)


async def main() -> None:
    storage, person = Storage(), Person()
    async with connected(storage, person) as session:
        await converse(session, storage, person)


sys.exit(run(main))
