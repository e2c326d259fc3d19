"""An MCP server of the transport of 2024-11-05, made with the Python SDK's first generation. It knows nothing of OAuth.

    python old_server.py PORT
"""

import sys

from mcp.server.fastmcp import Context, FastMCP

server = FastMCP("old", host="127.0.0.1", port=int(sys.argv[1]))


@server.tool()
async def echo(message: str, context: Context) -> str:
    """Reports its progress, and gives the message back."""
    await context.report_progress(1, 2)
    return f"Echo: {message}"


server.run("sse")
