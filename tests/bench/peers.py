"""The other proxies: how each is started, and what it is asked through."""

import base64
import json
import os
import pathlib
import re
import secrets
import subprocess
import sys
import time

import stage
import tools

HERE = pathlib.Path(__file__).parent / "peers"
BIN = stage.TARGET / "test-env" / "peers" / "bin"
ISSUER, AUDIENCE = "https://issuer.example.com", "https://mcp.example.com/mcp"


class Peer:
    """One program, with a port for each of its variants."""

    def __init__(self, name, command, variants, env=None, templates=(), core=stage.PROXY_CORE):
        self.name, self.command, self.env, self.templates, self.core = name, command, env, templates, core
        # variant → what it is called in the tables
        self.variants = variants
        self.ports = {variant: stage.port() for variant in variants}

    def start(self, scratch, values):
        values = {**values, "SCRATCH": scratch, **{"PORT_" + name.upper().replace("-", "_"): port for name, port in self.ports.items()}}
        paths = {}
        for template in self.templates:
            text = (HERE / template).read_text()
            text = re.sub(r"@([A-Z0-9_]+)@", lambda found: str(values[found.group(1)]), text)
            paths[template] = scratch / template
            paths[template].write_text(text)
        command = [str(part).format(config=paths.get(self.templates[0]) if self.templates else "", scratch=scratch) for part in self.command(values)]
        env = {name: value.format(scratch=scratch) for name, value in (self.env or {}).items()}
        child = stage.start(self.name, command, self.core, scratch, env)
        if self.core != stage.PROXY_CORE:
            for port in self.ports.values():
                stage.wait_for(port, child, scratch / f"{self.name}.log")
            return child
        for variant, port in self.ports.items():
            stage.wait_for(port, child, scratch / f"{self.name}.log")
            # Some listen before they know where to send a request. Who is to check a token has to refuse a wrong one.
            deadline = time.monotonic() + 10
            while tools.status(port, values["tokens"](variant)) != 200:
                if time.monotonic() > deadline:
                    sys.exit(f"{self.variants[variant]} does not answer as it should: {tools.status(port, values['tokens'](variant))}")
                time.sleep(0.1)
            refused = tools.status(port, "wrong")
            if (refused == 200) != (variant == "plain"):
                sys.exit(f"{self.variants[variant]} answers a wrong token with {refused}")
        return child


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def json_web_token(scratch):
    """A key, its public half in both forms that are asked for, and a token that it signed."""
    key, public = scratch / "jwt.key", scratch / "jwt.pem"
    openssl = stage.find("openssl")
    subprocess.run([openssl, "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    subprocess.run([openssl, "rsa", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    modulus = subprocess.run([openssl, "rsa", "-in", key, "-noout", "-modulus"], check=True, capture_output=True, text=True).stdout.strip().split("=")[1]
    jwks = {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "bench", "n": encoded(bytes.fromhex(modulus)), "e": "AQAB"}]}
    (scratch / "jwks.json").write_text(json.dumps(jwks))
    now = int(time.time())
    head = {"alg": "RS256", "typ": "JWT", "kid": "bench"}
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "client_id": secrets.token_hex(16), "scope": "mcp:use", "iat": now, "exp": now + 86400}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
    signature = subprocess.run([openssl, "dgst", "-sha256", "-sign", key], input=signed.encode(), check=True, capture_output=True).stdout
    return f"{signed}.{encoded(signature)}", {"PUBLIC_KEY": public, "JWKS": scratch / "jwks.json", "ISSUER": ISSUER, "AUDIENCE": AUDIENCE}


def envoy_binary():
    """The package's own program is a script that starts this one."""
    found = sorted(BIN.parent.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else stage.find("envoy")


def all_peers():
    single = {"GOMAXPROCS": "1"}
    peers = [
        Peer("nginx", lambda _: [stage.find("nginx", "/usr/sbin"), "-c", "{config}", "-p", "{scratch}"], {"plain": "nginx", "table": "nginx, a table of tokens", "auth-request": "nginx `auth_request`"}, templates=("nginx.conf",)),
        Peer("haproxy", lambda _: [stage.find("haproxy", "/usr/sbin"), "-db", "-f", "{config}"], {"plain": "HAProxy", "jwt": "HAProxy `jwt_verify`"}, templates=("haproxy.cfg",)),
        Peer(
            "envoy",
            lambda _: [envoy_binary(), "-c", "{config}", "--concurrency", "1", "-l", "error", "--disable-hot-restart"],
            {"plain": "Envoy", "jwt": "Envoy `jwt_authn`", "jwt-cached": "Envoy `jwt_authn`, cached", "ext-authz": "Envoy `ext_authz`"},
            templates=("envoy.yaml",),
        ),
        Peer("traefik", lambda _: [stage.find("traefik", BIN), "--configFile={config}"], {"plain": "Traefik", "forward-auth": "Traefik `forwardAuth`"}, single, ("traefik.yaml", "traefik-dynamic.yaml")),
        Peer("caddy", lambda _: [stage.find("caddy", BIN), "run", "--config", "{config}", "--adapter", "caddyfile"], {"plain": "Caddy", "forward-auth": "Caddy `forward_auth`"}, {**single, "XDG_DATA_HOME": "{scratch}", "XDG_CONFIG_HOME": "{scratch}"}, ("Caddyfile",)),
        Peer("pingora", lambda values: [stage.EXAMPLES / "bench-plain-proxy", f"127.0.0.1:{values['PORT_PLAIN']}", values["UPSTREAM"]], {"plain": "plain pingora"}),
    ]
    if os.environ.get("AGENTGATEWAY_BIN"):
        peers.append(Peer("agentgateway", lambda _: [os.environ["AGENTGATEWAY_BIN"], "-f", "{config}"], {"plain": "agentgateway", "jwt": "agentgateway `jwtAuth`"}, {"WORKER_THREADS": "1"}, ("agentgateway.yaml",)))
    return peers


def nginx_upstream():
    """Not measured, but what the gateway talks to where the way to the upstream is what is measured."""
    command = lambda _: [stage.find("nginx", "/usr/sbin"), "-c", "{config}", "-p", "{scratch}"]
    return Peer("nginx-upstream", command, {"plain": "", "http2": "", "tls": ""}, templates=("nginx-upstream.conf",), core=stage.LOAD_CORE)


def versions():
    first = lambda pattern, text: (re.search(pattern, text) or ["", "?"])[1]
    found = {
        "nginx": first(r"nginx/([\d.]+)", stage.output(stage.find("nginx", "/usr/sbin"), "-v")),
        "HAProxy": first(r"version ([\d.]+)", stage.output(stage.find("haproxy", "/usr/sbin"), "-v")),
        "Envoy": first(r"/(\d+\.\d+\.\d+)/", stage.output(envoy_binary(), "--version")),
        "Traefik": first(r"Version:\s+([\d.]+)", stage.output(stage.find("traefik", BIN), "version")),
        "Caddy": first(r"v([\d.]+)", stage.output(stage.find("caddy", BIN), "version")),
        "pingora": first(r'name = "pingora-core"\nversion = "([^"]+)"', (stage.ROOT / "Cargo.lock").read_text()),
    }
    if os.environ.get("AGENTGATEWAY_BIN"):
        found["agentgateway"] = first(r"(\d+\.\d+\.\d+[^\s\",]*)", stage.output(os.environ["AGENTGATEWAY_BIN"], "--version"))
    return found
