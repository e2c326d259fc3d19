"""What is switched on, one thing at a time, and what that costs.

Each entry says which configuration has it, which load shows it, and what it is held against. A configuration that the program
does not know yet is named as such in the table and left out.
"""

import gateway
import tools

# Cold tokens: more than the gateway keeps decisions for, used in turn, so that none is found in memory.
COLD = 100_000

RULES = """    tools:
      - { match: "danger*", deny: true }
      - { match: "*-write", scopes: [bench:write] }
      - { match: "*", scopes: [] }
"""
LIST_RULES = """    tools:
      - { match: "tool-1*", deny: true }
      - { match: "*", scopes: [] }
"""


class Feature:
    """`base` and `other` are names of gateways; `load` is how they are asked, `base_load` how the base is, if otherwise."""

    def __init__(self, label, other, load="call", base="default", base_load=None):
        self.label, self.other, self.load, self.base, self.base_load = label, other, load, base, base_load or load


FEATURES = [
    Feature("access log off", "quiet"),
    Feature("a token that is not in memory", "cold", "cold", "cold", "warm"),
    Feature("tool rules, 300 bytes", "rules"),
    Feature("tool rules, 1 KiB", "rules", "call-kib"),
    Feature("`filter_lists`, a list of 20 tools", "filter", "list", "unfiltered"),
    Feature("`bind_sessions`, within a session", "default", "session", "unbound"),
    Feature("`identity_jwt`", "identity"),
    Feature("`requests_per_minute`, `concurrent_requests`", "limits"),
    Feature("TLS", "tls", "tls", "default", "call"),
    Feature("TLS to the upstream", "upstream-tls", base="upstream-plain"),
    Feature("HTTP/2 to the upstream", "upstream-http2", base="upstream-plain"),
    Feature("TLS and HTTP/2, against TLS and HTTP/1.1", "tls", "h2", "tls", "h1"),
]


def gateways(upstream, nginx, certificate):
    """Every configuration that the features need; `nginx` has the ports of the upstream that speaks more than HTTP/1.1."""
    make = lambda name, **more: gateway.Gateway(f"gateway-{name}", **{"upstream": upstream, **more})
    near = lambda variant: f"127.0.0.1:{nginx[variant]}"
    return {
        "default": make("default"),
        "unbound": make("unbound", in_upstream="    bind_sessions: false\n"),
        "quiet": make("quiet", env={"RUST_LOG": "info,mcpgate::access=off"}),
        "rules": make("rules", in_upstream=RULES, top="scopes:\n  - { name: \"bench:write\" }\n"),
        "filter": make("filter", in_upstream=LIST_RULES),
        "unfiltered": make("unfiltered", in_upstream=LIST_RULES + "    filter_lists: false\n"),
        "identity": make("identity", in_upstream="    identity_jwt: true\n"),
        # As high as they may be: what they cost does not depend on it.
        "limits": make("limits", in_upstream="    limits: { requests_per_minute: 1000000, concurrent_requests: 1000000 }\n"),
        "tls": make("tls", tls=certificate),
        "upstream-plain": make("upstream-plain", upstream=near("plain")),
        "upstream-tls": make("upstream-tls", upstream=f"https://{near('tls')}", in_upstream=f"    tls: {{ ca: \"{certificate[2]}\" }}\n"),
        "upstream-http2": make("upstream-http2", upstream=near("http2"), in_upstream="    http2: true\n"),
    }


def measure(at, load, seconds, scratch, files):
    """One load at one gateway."""
    plain = f"http://127.0.0.1:{at.port}/mcp"
    secure = f"https://127.0.0.1:{at.tls_port}/mcp"
    match load:
        case "call":
            return tools.wrk(plain, at.token, seconds, scratch)
        case "call-kib":
            return tools.wrk(plain, at.token, seconds, scratch, body=tools.CALL_KIB)
        case "list":
            return tools.wrk(plain, at.token, seconds, scratch, body=tools.LIST)
        case "session":
            return tools.wrk(plain, at.token, seconds, scratch, headers={"Mcp-Session-Id": at.session()})
        case "cold" | "warm":
            return tools.wrk(plain, files[load], seconds, scratch)
        case "tls":
            # It serves the host of its public URL alone.
            return tools.wrk(secure, at.token, seconds, scratch, headers={"Host": f"127.0.0.1:{at.port}"})
        case "h1" | "h2":
            return tools.h2load(plain.replace("http:", "https:"), at.token, seconds, scratch, load, at.tls_port)
    raise ValueError(load)
