"""An MCP server of a few lines that says back what it was asked and who the gateway said was asking.

    python3 upstream.py PORT

POST /mcp      {"id", "params": {"nonce", "kind"}}: `json` answers at once, `sse` in five events, `slow` after a moment;
               `initialize` begins a session, and a request with a session that it does not know is a 404
GET /mcp       events as long as the caller listens; the nonce is the header X-Nonce
DELETE /mcp    ends a session
GET /sse       the transport of 2024-11-05: the event `endpoint`, then answers to what is posted there
"""

import asyncio
import json
import secrets
import sys

EVENT_STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
sessions = {}
legacy = {}


def answer(status, value=None, more=""):
    body = b"" if value is None else json.dumps(value).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def event(value, name="message"):
    data = value if isinstance(value, str) else json.dumps(value)
    text = f"event: {name}\ndata: {data}\n\n".encode()
    return f"{len(text):x}\r\n".encode() + text + b"\r\n"


class Exchange:
    def __init__(self, reader, writer, method, target, headers, body):
        self.reader, self.writer = reader, writer
        self.method, self.target, self.headers, self.body = method, target, headers, body

    def said(self, nonce, **more):
        return {"nonce": nonce, "user": self.headers.get("x-forwarded-user"), "client": self.headers.get("x-forwarded-client-id"), **more}

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def serve(self):
        path, _, query = self.target.partition("?")
        if path == "/sse" and self.method == "GET":
            await self.old_stream()
        elif path == "/messages" and self.method == "POST":
            queue = legacy.get(query.removeprefix("sessionId="))
            if queue:
                message = json.loads(self.body)
                queue.put_nowait({"jsonrpc": "2.0", "id": message["id"], "result": self.said(message["params"]["nonce"])})
            await self.send(answer(202 if queue else 404))
        elif self.method == "GET":
            await self.stream()
        elif self.method == "DELETE":
            await self.send(answer(200 if sessions.pop(self.headers.get("mcp-session-id"), None) else 404))
        else:
            await self.call()

    async def call(self):
        message = json.loads(self.body)
        nonce, kind = message["params"]["nonce"], message["params"].get("kind")
        session = self.headers.get("mcp-session-id")
        reply = {"jsonrpc": "2.0", "id": message["id"], "result": self.said(nonce)}
        if message["method"] == "initialize":
            session = secrets.token_urlsafe(16)
            sessions[session] = True
            await self.send(answer(200, reply, f"Mcp-Session-Id: {session}\r\n"))
        elif session is not None and session not in sessions:
            await self.send(answer(404, {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32001, "message": "no such session"}}))
        elif kind == "sse":
            await self.send(EVENT_STREAM.encode())
            for number in range(4):
                await self.send(event({"jsonrpc": "2.0", "method": "notifications/progress", "params": self.said(nonce, number=number)}))
                await asyncio.sleep(0.01)
            await self.send(event(reply) + b"0\r\n\r\n")
        else:
            if kind == "slow":
                await asyncio.sleep(0.2)
            await self.send(answer(200, reply))

    async def stream(self):
        await self.send(EVENT_STREAM.encode())
        number = 0
        while not self.writer.is_closing():
            await self.send(event(self.said(self.headers.get("x-nonce"), number=number)))
            number += 1
            await asyncio.sleep(0.25)

    async def old_stream(self):
        session = secrets.token_urlsafe(16)
        queue = legacy[session] = asyncio.Queue()
        try:
            await self.send(EVENT_STREAM.encode() + event(f"/messages?sessionId={session}", "endpoint"))
            while not self.writer.is_closing():
                try:
                    await self.send(event(await asyncio.wait_for(queue.get(), 1)))
                except TimeoutError:
                    await self.send(b"4\r\n: .\n\r\n")
        finally:
            del legacy[session]


async def connection(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if "transfer-encoding" in headers:
                # Only callers that break off come in chunks.
                return
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            await Exchange(reader, writer, method, target, headers, body).serve()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", int(sys.argv[1]), limit=1 << 20, backlog=1024)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
