"""The fixture server of the conformance suite, made with the Python SDK: its first generation (FastMCP) or its second
(MCPServer), whichever is installed. It knows nothing of OAuth.

    python python.py PORT
"""

import asyncio
import base64
import json
import sys
from typing import Annotated, Literal

from pydantic import BaseModel, Field

PORT = int(sys.argv[1])
try:
    from mcp.server.mcpserver import Context, MCPServer
    import mcp_types as types

    server = MCPServer("fixtures")
    MODERN = True
except ImportError:
    from mcp import types
    from mcp.server.fastmcp import Context, FastMCP

    server = FastMCP("fixtures", port=PORT)
    MODERN = False

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
SILENCE = base64.b64encode(b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0D\xac\0\0\x88X\x01\0\x02\0\x10\0data\0\0\0\0").decode()


def text(words: str) -> types.TextContent:
    return types.TextContent(type="text", text=words)


def image() -> types.ImageContent:
    return types.ImageContent.model_validate({"type": "image", "data": PIXEL, "mimeType": "image/png"})


def embedded(uri: str, mime_type: str, words: str) -> types.EmbeddedResource:
    resource = {"uri": uri, "mimeType": mime_type, "text": words}
    return types.EmbeddedResource.model_validate({"type": "resource", "resource": resource})


# --- Tools ---------------------------------------------------------------------------------------------------------------


@server.tool(structured_output=False)
def test_simple_text() -> str:
    """Answers with text."""
    return "This is a simple text response for testing."


@server.tool(structured_output=False)
def test_image_content() -> list[types.ImageContent]:
    """Answers with an image."""
    return [image()]


@server.tool(structured_output=False)
def test_audio_content() -> list[types.AudioContent]:
    """Answers with sound."""
    return [types.AudioContent.model_validate({"type": "audio", "data": SILENCE, "mimeType": "audio/wav"})]


@server.tool(structured_output=False)
def test_embedded_resource() -> list[types.EmbeddedResource]:
    """Answers with a resource."""
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@server.tool(structured_output=False)
def test_multiple_content_types() -> list[types.TextContent | types.ImageContent | types.EmbeddedResource]:
    """Answers with several kinds of content."""
    data = json.dumps({"test": "data", "value": 123})
    return [text("Multiple content types test:"), image(), embedded("test://mixed-content-resource", "application/json", data)]


@server.tool(structured_output=False)
async def test_tool_with_logging(context: Context) -> str:
    """Says what it is doing."""
    for pause, words in ((0, "Tool execution started"), (0.05, "Tool processing data"), (0.05, "Tool execution completed")):
        await asyncio.sleep(pause)
        await context.info(words)
    return "Tool with logging executed successfully"


@server.tool(structured_output=False)
async def test_tool_with_progress(context: Context) -> str:
    """Reports its progress."""
    for done in (0, 50, 100):
        await context.report_progress(done, 100)
        await asyncio.sleep(0.05)
    return "Tool with progress executed successfully"


@server.tool(structured_output=False)
def test_error_handling() -> str:
    """Fails."""
    raise ValueError("This tool intentionally returns an error for testing")


@server.tool(structured_output=False)
async def test_sampling(prompt: str, context: Context) -> str:
    """Asks the client's model."""
    message = types.SamplingMessage(role="user", content=text(prompt))
    # On the stream of this very call: the session's own may not be open yet.
    result = await context.session.create_message(messages=[message], max_tokens=100, related_request_id=context.request_id)
    return f"LLM response: {result.content.text if result.content.type == 'text' else ''}"


class Contact(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


@server.tool(structured_output=False)
async def test_elicitation(message: str, context: Context) -> str:
    """Asks the person."""
    result = await context.elicit(message, Contact)
    return f"User response: {result.action} {getattr(result, 'data', '')}"


class WithDefaults(BaseModel):
    name: str = Field(default="John Doe", description="User name")
    age: int = Field(default=30, description="User age")
    score: float = Field(default=95.5, description="User score")
    status: Literal["active", "inactive", "pending"] = Field(default="active", description="User status")
    verified: bool = Field(default=True, description="Verification status")


@server.tool(structured_output=False)
async def test_elicitation_sep1034_defaults(context: Context) -> str:
    """Asks the person, with answers suggested."""
    result = await context.elicit("Please review and update the form fields with defaults", WithDefaults)
    return f"Elicitation completed: action={result.action}"


class Choice(BaseModel):
    untitledSingle: Literal["option1", "option2", "option3"] = Field(description="One of three")  # noqa: N815
    legacyEnum: Annotated[str, Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["One", "Two"]})]  # noqa: N815


@server.tool(structured_output=False)
async def test_elicitation_sep1330_enums(context: Context) -> str:
    """Asks the person to choose."""
    result = await context.elicit("Please select options", Choice)
    return f"Elicitation completed: action={result.action}"


@server.tool(structured_output=False)
async def test_reconnection(context: Context) -> str:
    """Ends its stream before it answers, so that the client has to come again."""
    await context.close_sse_stream()
    await asyncio.sleep(0.1)
    return "Reconnection test completed"


@server.tool(structured_output=False)
def greet(name: str) -> str:
    """Says hello."""
    return f"Hello, {name}!"


@server.tool(structured_output=False)
async def slow_compute(seconds: float) -> str:
    """Takes its time."""
    await asyncio.sleep(min(seconds, 2))
    return f"Computed for {seconds} s"


# --- Resources -----------------------------------------------------------------------------------------------------------


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """Text that never changes."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """Bytes that never change."""
    return base64.b64decode(PIXEL)


@server.resource("test://watched-resource", mime_type="text/plain")
def watched() -> str:
    """Something to subscribe to."""
    return "Watched resource content"


@server.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:
    """Something for every id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


# --- Prompts -------------------------------------------------------------------------------------------------------------


def says(*contents: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content} for content in contents]


@server.prompt()
def test_simple_prompt() -> list[dict[str, object]]:
    """A prompt of one message."""
    return says(text("This is a simple prompt for testing."))


@server.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> list[dict[str, object]]:
    """A prompt with arguments."""
    return says(text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))


@server.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[dict[str, object]]:  # noqa: N803
    """A prompt with a resource."""
    return says(embedded(resourceUri, "text/plain", "Embedded resource content for testing."), text("Please process it."))


@server.prompt()
def test_prompt_with_image() -> list[dict[str, object]]:
    """A prompt with an image."""
    return says(image(), text("Please analyze the image above."))


@server.completion()
async def complete(ref: object, argument: types.CompletionArgument, context: object) -> types.Completion:
    """Suggests what begins alike."""
    return types.Completion.model_validate({"values": [word for word in ("paris", "park", "party") if word.startswith(argument.value)], "hasMore": False})


if MODERN:
    server.run("streamable-http", host="127.0.0.1", port=PORT)
else:
    server.run("streamable-http")
