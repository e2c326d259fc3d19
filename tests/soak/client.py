"""HTTP as the soak test needs it: connections that are kept, streams that are read event by event, and a person who signs
in. Nothing is tried again: an answer that does not come is what is looked for."""

import asyncio
import base64
import hashlib
import html
import json
import re
import secrets
import urllib.parse

PATIENCE = 20


class Broken(Exception):
    """The connection ended before the answer was whole."""


class Connection:
    """One connection, for one request after the other."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.reader = self.writer = None

    async def request(self, method, target, headers=None, body=b""):
        """The answer's status and headers; the body is read with `rest` or `events`."""
        try:
            async with asyncio.timeout(PATIENCE):
                if self.writer is None:
                    self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 20)
                lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}:{self.port}"]
                lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
                if body or method == "POST":
                    lines.append(f"Content-Length: {len(body)}")
                self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                await self.writer.drain()
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as error:
            self.close()
            raise Broken(f"no head: {error!r}") from error
        first, *lines = head.strip().split("\r\n")
        if not first.startswith("HTTP/1.1 "):
            self.close()
            raise Broken(f"no head, but {first[:100]!r}")
        self.headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            self.headers.setdefault(name.lower(), []).append(value.strip())
        self.status = int(first.split(" ")[1])
        return self.status

    def header(self, name):
        return self.headers.get(name, [None])[0]

    async def pieces(self):
        """The body as it comes."""
        try:
            if self.header("transfer-encoding"):
                while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    yield await self.reader.readexactly(size)
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
            elif length := int(self.header("content-length") or 0):
                yield await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            self.close()
            raise Broken(f"the body is cut off: {error!r}") from error
        if (self.header("connection") or "").lower() == "close":
            self.close()

    async def rest(self):
        try:
            async with asyncio.timeout(PATIENCE):
                return b"".join([piece async for piece in self.pieces()])
        except TimeoutError as error:
            self.close()
            raise Broken("the body does not come") from error

    async def events(self):
        """Name and data of each event."""
        buffer = b""
        async for piece in self.pieces():
            buffer += piece
            while b"\n\n" in buffer:
                text, _, buffer = buffer.partition(b"\n\n")
                fields = dict(line.split(": ", 1) for line in text.decode().split("\n") if ": " in line and not line.startswith(":"))
                if "data" in fields:
                    yield fields.get("event", "message"), fields["data"]

    def close(self):
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Person:
    """Somebody with an account, and their browser."""

    REDIRECT = "http://127.0.0.1:46299/callback"

    def __init__(self, port, username, password):
        self.port, self.username, self.password = port, username, password
        self.issuer = f"http://127.0.0.1:{port}"

    async def post(self, path, fields, as_json=False):
        connection = Connection("127.0.0.1", self.port)
        kind = "application/json" if as_json else "application/x-www-form-urlencoded"
        body = (json.dumps(fields) if as_json else urllib.parse.urlencode(fields)).encode()
        status = await connection.request("POST", path, {"Content-Type": kind}, body)
        text = await connection.rest()
        connection.close()
        return status, (json.loads(text) if text else {})

    async def register(self):
        metadata = {"client_name": f"Client of {self.username}", "redirect_uris": [self.REDIRECT], "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"]}
        status, answer = await self.post("/register", metadata, as_json=True)
        assert status == 201, f"/register: {status} {answer}"
        return answer["client_id"]

    async def sign_in(self, client_id, resource):
        """Through the pages, to tokens for one resource."""
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {"response_type": "code", "client_id": client_id, "redirect_uri": self.REDIRECT, "resource": resource, "state": "s", "code_challenge": challenge, "code_challenge_method": "S256"}
        callback = await self.walk("/authorize?" + urllib.parse.urlencode(query))
        answer = urllib.parse.parse_qs(urllib.parse.urlparse(callback).query)
        assert "code" in answer, f"no code for {self.username}: {callback}"
        fields = {"grant_type": "authorization_code", "client_id": client_id, "code": answer["code"][0], "redirect_uri": self.REDIRECT, "code_verifier": verifier}
        status, tokens = await self.post("/token", fields)
        assert status == 200, f"/token: {status} {tokens}"
        return tokens

    async def walk(self, target):
        cookies, method, body = {}, "GET", b""
        connection = Connection("127.0.0.1", self.port)
        for _ in range(12):
            headers = {"Accept": "text/html", "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
            if method == "POST":
                headers |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.issuer}
            status = await connection.request(method, target, {name: value for name, value in headers.items() if value}, body)
            page = (await connection.rest()).decode()
            for cookie in connection.headers.get("set-cookie", []):
                name, _, value = cookie.split(";")[0].partition("=")
                cookies[name] = value
            if status in (302, 303):
                target = connection.header("location")
                if target.startswith(self.REDIRECT):
                    connection.close()
                    return target
                target, method, body = target.removeprefix(self.issuer), "GET", b""
                continue
            assert status == 200, f"{method} {target.split('?')[0]}: {status} {page[:300]}"
            form = next(text for text in re.findall(r"<form\b.*?</form>", page, re.S) if 'name="password"' in text or 'name="decision"' in text)
            tags = [dict(re.findall(r'([\w-]+)="([^"]*)"', tag)) for tag in re.findall(r"<input\b[^>]*>", form)]
            fields = {tag["name"]: html.unescape(tag.get("value", "")) for tag in tags if tag.get("type") == "hidden"}
            fields |= {"username": self.username, "password": self.password} if 'name="password"' in form else {"decision": "approve"}
            action = html.unescape(re.search(r'action="([^"]*)"', form).group(1))
            target, method, body = action.removeprefix(self.issuer), "POST", urllib.parse.urlencode(fields).encode()
        raise AssertionError(f"{self.username} is still not back at the client")
