"""The Python SDK's client, first generation, over the transport of 2024-11-05."""

import asyncio
import os

from mcp import ClientSession
from mcp.client.sse import sse_client


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['ACCESS_TOKEN']}"}
    async with sse_client(os.environ["MCP_URL"], headers=headers, timeout=10) as streams:
        async with ClientSession(*streams) as session:
            await session.initialize()
            tools = [tool.name for tool in (await session.list_tools()).tools]
            assert "echo" in tools, tools
            result = await session.call_tool("echo", {"message": "grüße"})
            assert "grüße" in result.content[0].text, result


asyncio.run(asyncio.wait_for(main(), 30))
