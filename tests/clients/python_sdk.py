"""The Python SDK's client, first and second generation: the same script runs with either installed."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

GENERATION = int(version("mcp").split(".")[0])
if GENERATION == 1:
    import httpx as http
else:
    import httpx2 as http
    from mcp.shared.auth import AuthorizationCodeResult

MCP_URL = os.environ["MCP_URL"]
TOKEN_SECONDS = float(os.environ["TOKEN_SECONDS"])
BROWSER = Path(__file__).with_name("lib") / "browser.mjs"
STEPS = 4
DURATION = 2


class Failed(Exception):
    """A step that went wrong and was reported."""


def check(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


async def step(name: str, seconds: float, work: Callable[[], Awaitable[Any]]) -> Any:
    """Runs one step and prints how it went."""
    try:
        async with asyncio.timeout(seconds):
            value = await work()
    except (Exception, asyncio.CancelledError) as error:
        print(f"FAIL {name}: {type(error).__name__} {' '.join(str(error).split())}", flush=True)
        raise Failed(name) from error
    print(f"PASS {name}", flush=True)
    return value


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
    auth = OAuthClientProvider(MCP_URL, metadata, storage, person.visit, person.come_back)
    async with http.AsyncClient(auth=auth, timeout=30) as client:
        async with streamable_http_client(MCP_URL, http_client=client) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                yield session


def text(result: Any) -> str:
    return " ".join(getattr(part, "text", "") for part in result.content)


async def converse(session: ClientSession, storage: Storage, person: Person) -> None:
    async def signed_in() -> None:
        await session.initialize()
        check(person.sign_ins == 1, f"the person was sent to the browser {person.sign_ins} times")
        check(storage.tokens and storage.tokens.access_token, "no access token")

    async def tools() -> None:
        names = [tool.name for tool in (await session.list_tools()).tools]
        for name in ("echo", "trigger-long-running-operation"):
            check(name in names, f"no {name} among {names}")

    async def echo(message: str = "grüße, 世界") -> None:
        said = text(await session.call_tool("echo", {"message": message}))
        check(message in said, f"unexpected result: {said}")

    async def progress() -> None:
        times: list[float] = []

        async def report(*_: object) -> None:
            times.append(time.monotonic())

        arguments = {"duration": DURATION, "steps": STEPS}
        result = await session.call_tool("trigger-long-running-operation", arguments, progress_callback=report)
        end = time.monotonic()
        check("completed" in text(result), f"unexpected result: {text(result)}")
        # The last report leaves the server together with the result.
        check(len(times) >= STEPS - 1, f"{len(times)} reports instead of {STEPS}")
        check(end - times[0] > DURATION / 2, f"the first report came {end - times[0]:.2f} s before the result")

    async def refreshed() -> None:
        before = storage.tokens
        check(before and before.refresh_token, "the client has no refresh token")
        await asyncio.sleep(TOKEN_SECONDS + 1)
        await echo("after the token expired")
        check(storage.tokens.access_token != before.access_token, "the access token is the old one")
        check(person.sign_ins == 1, f"the person was sent to the browser {person.sign_ins} times")

    await step("the first request leads to sign-in and consent, and the client connects", 20, signed_in)
    print(f"CLIENT {storage.client.client_id}", flush=True)
    await step("tools/list names the tools of the server", 10, tools)
    await step("tools/call answers", 10, echo)
    await step("progress arrives while the call runs", 15, progress)
    await step("an expired token is refreshed without the person", 20 + TOKEN_SECONDS, refreshed)


async def main() -> int:
    storage, person = Storage(), Person()
    try:
        async with asyncio.timeout(90):
            async with connected(storage, person) as session:
                await converse(session, storage, person)
            print("PASS the session is ended", flush=True)
    except BaseException as error:  # a task group wraps what its tasks raise
        if not contains(error, Failed):
            print(f"FAIL {type(error).__name__} {error}", flush=True)
        return 1
    return 0


def contains(error: BaseException, kind: type) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(contains(inner, kind) for inner in error.exceptions)
    return isinstance(error, kind)


sys.exit(asyncio.run(main()))
