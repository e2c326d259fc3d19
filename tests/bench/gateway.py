"""The gateway under test: its configurations, and the people who sign in to it."""

import base64
import functools
import hashlib
import http.client
import json
import re
import secrets
import subprocess
import sys
import urllib.parse

import stage
from tools import INITIALIZE, MEDIA

PASSWORD = secrets.token_urlsafe(16)
MACHINE_SECRET = secrets.token_urlsafe(32)
MACHINE = "bench-machine"
PROGRAM = stage.BUILT / "mcpgate"


@functools.cache
def password_hash():
    return subprocess.run([PROGRAM, "hash-password"], input=PASSWORD + "\n", text=True, capture_output=True, check=True).stdout.strip()


class Gateway:
    """One gateway with one configuration: what the defaults are, unless told otherwise."""

    def __init__(self, name, upstream, env=None, in_upstream="", top="", tls=None, store=None):
        self.name, self.upstream, self.env, self.in_upstream, self.top, self.tls, self.store = name, upstream, env, in_upstream, top, tls, store
        self.port, self.admin = stage.port(), stage.port()
        self.tls_port = stage.port() if tls else None
        self.resource = f"http://127.0.0.1:{self.port}/mcp"
        self.child = self.token = self.path = None

    def write(self, scratch):
        listen = f"127.0.0.1:{self.port}"
        if self.tls:
            cert, key, _ = self.tls
            listen = f"[ {{ address: \"{listen}\" }}, {{ address: \"127.0.0.1:{self.tls_port}\", tls: {{ cert: \"{cert}\", key: \"{key}\" }} }} ]"
        self.path = scratch / f"{self.name}.yaml"
        self.path.write_text(
            f"public_url: http://127.0.0.1:{self.port}\nlisten: {listen}\nadmin: {{ listen: \"127.0.0.1:{self.admin}\" }}\n"
            f"store: {{ sled: {{ path: \"{self.store or scratch / (self.name + '-data')}\" }} }}\n"
            f"oauth:\n  clients:\n    - {{ client_id: {MACHINE}, client_secret: \"{MACHINE_SECRET}\", grant_types: [client_credentials] }}\n"
            # All of the load comes from one address.
            f"  limits: {{ register: none, authorize: none, login: none }}\n"
            f"users:\n  - {{ username: ada, password_hash: \"{password_hash()}\", email: ada@example.com, groups: [engineering] }}\n"
            f"upstreams:\n  - name: bench\n    path: /mcp\n    url: \"{self.upstream if '://' in self.upstream else 'http://' + self.upstream}/mcp\"\n{self.in_upstream}{self.top}"
        )
        return self.path

    def problem(self, scratch):
        """What `mcpgate check` has against the configuration: a feature that this program does not know."""
        done = subprocess.run([PROGRAM, "check", "-c", self.write(scratch)], capture_output=True, text=True)
        if done.returncode == 0:
            return None
        # Without the file's name, and without the list of what is known.
        lines = [line.replace(f"{self.path}:", "line ").split("; known here")[0] for line in (done.stdout + done.stderr).splitlines()]
        return "; ".join(line.strip() for line in lines if line.strip())

    def start(self, scratch, sign_in=True):
        command = [PROGRAM, "serve", "-c", self.write(scratch)]
        self.child = stage.start(self.name, command, stage.PROXY_CORE, scratch, self.env)
        self.started_in = stage.wait_for(self.port, self.child, scratch / f"{self.name}.log", 300)
        if sign_in:
            self.person = Person(self.port)
            self.token = self.person.tokens()["access_token"]
        return self.child

    @functools.cache
    def session(self):
        """The id of an MCP session, as clients of the gateway see it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/mcp", json.dumps(INITIALIZE), {**MEDIA, "Authorization": f"Bearer {self.token}"})
        answer = connection.getresponse()
        if answer.status != 200 or not answer.headers["mcp-session-id"]:
            sys.exit(f"no session: {answer.status} {answer.read()}")
        return answer.headers["mcp-session-id"]


class Person:
    """A client and the person in front of it, over plain HTTP."""

    def __init__(self, port):
        self.port, self.cookies = port, {}
        body = json.dumps({"redirect_uris": ["https://client.example.com/callback"], "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"], "client_name": "bench"})
        self.client = json.loads(self.ask("POST", "/register", body, {"content-type": "application/json"})[2])["client_id"]

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = dict(headers or {})
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        for value in answer.headers.get_all("set-cookie") or []:
            name, content = value.split(";")[0].split("=", 1)
            self.cookies[name] = content
        return answer.status, answer.headers, text

    def form(self, page, add):
        form = next(part for part in page.split("<form")[1:] if all(f'name="{name}"' in part for name in add))
        action = re.search(r'action="([^"]*)"', form).group(1)
        fields = {}
        for tag in re.findall(r"<input[^>]*>", form):
            if 'type="hidden"' in tag:
                fields[re.search(r'name="([^"]*)"', tag).group(1)] = re.search(r'value="([^"]*)"', tag).group(1)
        fields.update(add)
        return self.ask("POST", action, urllib.parse.urlencode(fields), {"content-type": "application/x-www-form-urlencoded"})

    def plan(self):
        """What `bench-issue` needs to ask for tokens as this person does, who has agreed once."""
        self.tokens()
        return {
            "address": f"127.0.0.1:{self.port}", "authorize": "/authorize", "token": "/token", "register": "/register",
            "resource": f"http://127.0.0.1:{self.port}/mcp", "redirect": "https://client.example.com/callback",
            # The session alone: each of the 64 is a browser of its own, as the gateway lets one browser have 20 unfinished
            # authorizations.
            "cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items() if name != "oidc_login_prompt"),
            "client": self.client, "scope": "offline_access",
            "machine": {"client": MACHINE, "secret": MACHINE_SECRET, "scope": ""},
        }

    def follow(self, answer):
        status, headers, text = answer
        while status in (302, 303) and (headers["location"].startswith("/") or headers["location"].startswith(f"http://127.0.0.1:{self.port}/")):
            path = headers["location"].removeprefix(f"http://127.0.0.1:{self.port}")
            status, headers, text = self.ask("GET", path)
        return status, headers, text

    def tokens(self):
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        redirect = "https://client.example.com/callback"
        query = urllib.parse.urlencode({"response_type": "code", "client_id": self.client, "scope": "offline_access", "redirect_uri": redirect, "code_challenge": challenge, "code_challenge_method": "S256"})
        answer = self.follow(self.ask("GET", f"/authorize?{query}"))
        if 'name="password"' in answer[2]:
            answer = self.follow(self.form(answer[2], {"username": "ada", "password": PASSWORD}))
        if 'name="decision"' in answer[2]:
            answer = self.form(answer[2], {"decision": "approve"})
        code = urllib.parse.parse_qs(urllib.parse.urlparse(answer[1]["location"]).query)["code"][0]
        form = urllib.parse.urlencode({"grant_type": "authorization_code", "client_id": self.client, "code": code, "redirect_uri": redirect, "code_verifier": verifier})
        return json.loads(self.ask("POST", "/token", form, {"content-type": "application/x-www-form-urlencoded"})[2])


def certificate(scratch):
    """For 127.0.0.1: certificate, key, and who signed it."""
    openssl, new_key = stage.find("openssl"), ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, ca_key, cert, key, asked, names = (scratch / name for name in ("ca.pem", "ca.key", "tls.pem", "tls.key", "tls.csr", "tls.ext"))
    names.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    run = lambda *command: subprocess.run([openssl, *command], check=True, capture_output=True)
    run("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=bench authority")
    run("req", *new_key, "-keyout", key, "-out", asked, "-subj", "/CN=127.0.0.1")
    run("x509", "-req", "-in", asked, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert, "-days", "2", "-extfile", names)
    return cert, key, ca
