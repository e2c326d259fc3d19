"""FastMCP's client, third and fourth generation. It fetches the authorization URL once before the browser does.

The third lets the server choose how it authenticates, gets a secret, and sends it in a Basic header with its client id in
the body as well.
"""

import asyncio
import os
import sys
from importlib.metadata import version
from pathlib import Path

# webbrowser reads this at its first use; it starts the program in the background.
os.environ["BROWSER"] = f"{Path(__file__).with_name('lib') / 'browser'} %s &"
os.environ.setdefault("FASTMCP_CHECK_FOR_UPDATES", "off")

from fastmcp import Client
from fastmcp.client.auth import OAuth

from python_steps import GREETING, MCP_URL, TOKEN_SECONDS, TOOLS, Progress, check, check_echo, check_tools, restart, run, step

GENERATION = int(version("fastmcp").split(".")[0])


async def main() -> None:
    document = os.environ.get("CLIENT_DOCUMENT")
    auth = OAuth(MCP_URL, client_name="FastMCP", **({"client_metadata_url": document} if document else {}))
    client = Client(MCP_URL, auth=auth)

    before_restart = None

    async def connect() -> None:
        await client.__aenter__()
        check(auth.context.current_tokens, "no access token")
        secret = auth.context.client_info.client_secret
        check(bool(secret) == (GENERATION == 3), f"generation {GENERATION} was given {'a' if secret else 'no'} secret")

    async def tools() -> None:
        check_tools(await client.list_tools())

    async def echo(message: str = GREETING) -> None:
        check_echo(await client.call_tool(TOOLS[0], {"message": message}), message)

    async def progress() -> None:
        seen = Progress()
        seen.check(await client.call_tool(TOOLS[1], seen.arguments, progress_handler=seen.report))

    async def refreshed() -> None:
        nonlocal before_restart
        before = auth.context.current_tokens
        check(before.refresh_token, "the client has no refresh token")
        await asyncio.sleep(TOKEN_SECONDS + 1)
        await echo("after the token expired")
        check(auth.context.current_tokens.access_token != before.access_token, "the access token is the old one")
        before_restart = auth.context.current_tokens

    async def restarted() -> None:
        await echo("after the restart")
        # Its event stream, which ended with its token, may have asked for another one before.
        check(auth.context.current_tokens.access_token != before_restart.access_token, "the access token is the old one")

    await step("the first request leads to sign-in and consent, and the client connects", 30, connect)
    try:
        print(f"CLIENT {auth.context.client_info.client_id}", flush=True)
        await step("tools/list names the tools of the server", 10, tools)
        await step("tools/call answers", 10, echo)
        await step("progress arrives while the call runs", 15, progress)
        await step("an expired token is refreshed without the person", 20 + TOKEN_SECONDS, refreshed)
        await restart(restarted)
    finally:
        await client.__aexit__(None, None, None)


sys.exit(run(main))
