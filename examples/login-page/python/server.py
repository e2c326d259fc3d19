"""A sign-in page for mcpgate, in Python's standard library: PORT, MCPGATE_URL and LOGIN_SECRET come from the environment.

gateway.yaml:
    oauth:
      login_page: { url: http://127.0.0.1:4000/sign-in, secret: { env: LOGIN_SECRET } }
"""

import hashlib
import hmac
import html
import json
import os
import secrets
import urllib.error
import urllib.request
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PORT = int(os.environ.get("PORT", "4000"))
GATEWAY = os.environ.get("MCPGATE_URL", "http://127.0.0.1:8080")
SECRET = os.environ["LOGIN_SECRET"]
KEY = secrets.token_bytes(32)
# Your application knows its people; this one knows two, by name.
PEOPLE = {
    "ada": ("engine", {"subject": "user-1", "email": "ada@example.com", "name": "Ada Lovelace", "groups": ["engineering"]}),
    "bob": ("builder", {"subject": "user-2", "email": "bob@example.com", "name": "Bob", "groups": []}),
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title>
<main><h1>Sign in to Example</h1><p>{client} wants to act for you.</p><p role="alert">{problem}</p>
<form method="post">
  <input type="hidden" name="login_challenge" value="{challenge}">
  <input type="hidden" name="client_name" value="{client}">
  <input type="hidden" name="token" value="{token}">
  <label>Name <input name="username" autocomplete="username"></label>
  <label>Password <input name="password" type="password" autocomplete="current-password"></label>
  <button name="action" value="sign-in">Sign in</button>
  <button name="action" value="cancel">Cancel</button>
</form></main></html>"""


def sign(text):
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()


def tell(what, body):
    """Tells the gateway who has signed in, or that nobody has; where it wants the browser."""
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{GATEWAY}/login/{what}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["redirect_to"]


class Page(BaseHTTPRequestHandler):
    def form(self, status, challenge, client, problem=""):
        """The form. Its token ties it to the browser's cookie, so that no other site can send it."""
        nonce = secrets.token_urlsafe(16)
        values = {"challenge": challenge, "client": client, "problem": problem, "token": sign(nonce)}
        text = PAGE.format(**{name: html.escape(value) for name, value in values.items()}).encode()
        self.answer(status, text, ("Set-Cookie", f"form={nonce}; HttpOnly; SameSite=Strict; Path=/"))

    def answer(self, status, text=b"", *headers):
        self.send_response(status)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(text))), ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"), ("Referrer-Policy", "no-referrer"), *headers,
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path != "/sign-in":
            return self.answer(404)
        if "login_challenge" not in query:
            return self.answer(400, b"login_challenge is missing")
        return self.form(200, query["login_challenge"], query.get("client_name", "An app"))

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= 10_000:
            return self.answer(413)
        posted = {name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("form")
        if cookie is None or not hmac.compare_digest(posted.get("token", ""), sign(cookie.value)):
            return self.answer(403, b"this form is not from here")
        challenge = posted.get("login_challenge", "")
        password, about = PEOPLE.get(posted.get("username", ""), (secrets.token_hex(), None))
        fits = hmac.compare_digest(posted.get("password", "").encode(), password.encode())
        try:
            if posted.get("action") == "cancel":
                next_page = tell("reject", {"login_challenge": challenge, "error": "access_denied", "error_description": "cancelled"})
            elif about is None or not fits:
                return self.form(401, challenge, posted.get("client_name", "An app"), "Name or password is wrong.")
            else:
                next_page = tell("accept", {"login_challenge": challenge, "username": posted["username"], **about})
        except urllib.error.HTTPError as error:
            print(error.code, error.read().decode(), flush=True)
            return self.answer(502, b"The sign-in could not be finished. Go back to the app and try again.")
        return self.answer(303, b"", ("Location", next_page))

    def log_message(self, *_):
        """The addresses have challenges in them: not for a log."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Page)
    print(f"listening on http://127.0.0.1:{PORT}/sign-in", flush=True)
    server.serve_forever()
