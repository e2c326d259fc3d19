"""An MCP server of the newest protocol revision, made with the Python SDK as its documentation shows: no sessions, and
only requests for its own Host and Origin. It knows nothing of OAuth.

    python modern_server.py PORT
"""

import asyncio
import sys

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("modern")


@server.tool()
def echo(message: str) -> str:
    """Gives the message back."""
    return f"Echo: {message}"


@server.tool(name="trigger-long-running-operation")
async def long_running(duration: float, steps: int, context: Context) -> str:
    """Takes its time and reports its progress."""
    for number in range(1, steps + 1):
        await asyncio.sleep(duration / steps)
        await context.report_progress(number, steps)
    return f"Long running operation completed. Duration: {duration} seconds, Steps: {steps}."


server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
