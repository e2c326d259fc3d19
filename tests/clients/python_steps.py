"""What the Python clients have in common: steps that are reported one by one, and what is expected of an answer."""

import asyncio
import os
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

MCP_URL = os.environ["MCP_URL"]
TOKEN_SECONDS = float(os.environ["TOKEN_SECONDS"])
# The address of the test runner, which can restart the gateway, and by which signal it should; no name, no restart.
CONTROL_URL = os.environ.get("CONTROL_URL", "")
RESTART = os.environ.get("RESTART", "")
TOOLS = ("echo", "trigger-long-running-operation")
STEPS = 4
DURATION = 2
GREETING = "grüße, 世界"


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


def text(result: Any) -> str:
    return " ".join(getattr(part, "text", "") for part in result.content)


def check_tools(tools: list[Any]) -> None:
    names = [tool.name for tool in tools]
    for name in TOOLS:
        check(name in names, f"no {name} among {names}")


def check_echo(result: Any, message: str = GREETING) -> None:
    check(message in text(result), f"unexpected result: {text(result)}")


async def restart(again: Callable[[], Awaitable[Any]]) -> None:
    """The gateway ends in the middle of the session and comes back; `again` has to work without the person."""
    if not RESTART:
        return

    async def work() -> None:
        request = urllib.request.Request(f"{CONTROL_URL}/restart/{RESTART}", method="POST")
        # The client's event stream has to be served meanwhile.
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=50).close())
        # The access token is over by then: so that the refresh token, too, has to have lived through it.
        await asyncio.sleep(TOKEN_SECONDS + 1)
        await again()

    await step(f"the gateway restarts after {RESTART}, and the client goes on without the person", 60, work)


class Progress:
    """Notes when reports arrive. A gateway that holds events back delivers them all at the end."""

    arguments = {"duration": DURATION, "steps": STEPS}

    def __init__(self) -> None:
        self.times: list[float] = []

    async def report(self, *_: object) -> None:
        self.times.append(time.monotonic())

    def check(self, result: Any) -> None:
        end = time.monotonic()
        check("completed" in text(result), f"unexpected result: {text(result)}")
        # The last report leaves the server together with the result.
        check(len(self.times) >= STEPS - 1, f"{len(self.times)} reports instead of {STEPS}")
        ahead = end - self.times[0]
        check(ahead > DURATION / 4, f"the first report came {ahead:.2f} s before the result")


def run(work: Callable[[], Awaitable[None]], end: str = "the session is ended") -> int:
    """Runs a client from its first step to the exit code; `end` is what went well once all did."""

    async def bounded() -> int:
        try:
            async with asyncio.timeout(150):
                await work()
        except BaseException as error:  # a task group wraps what its tasks raise
            if not contains(error, Failed):
                print(f"FAIL {type(error).__name__} {' '.join(str(error).split())}", flush=True)
            return 1
        print(f"PASS {end}", flush=True)
        return 0

    return asyncio.run(bounded())


def contains(error: BaseException, kind: type) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(contains(inner, kind) for inner in error.exceptions)
    return isinstance(error, kind)
