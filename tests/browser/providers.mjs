// Signs in at real identity providers, in Chromium and through the built gateway: npm's oidc-provider, which has a sign-in
// page of its own, and oauth2-mock-server.
//
//   MCPGATE    the built program                CHROMIUM      the browser, by default Debian's
//
// Exit code 0 if everything holds.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { OAuth2Server } from "oauth2-mock-server";
import { Provider } from "oidc-provider";
import { chromium } from "playwright-core";
import { startGateway } from "../clients/lib/gateway.mjs";
import { freePort } from "../clients/lib/processes.mjs";
import { main, step } from "../clients/lib/report.mjs";

const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const SECRET = "a secret between the gateway and its providers";
const SECONDS = 60;
const people = {
  grace: { name: "Grace Hopper", preferred_username: "grace", email: "grace@example.com", email_verified: true, groups: ["navy"] },
  eve: { name: "Eve", preferred_username: "eve", email: "eve@example.com", email_verified: false, groups: ["navy"] },
};

// --- the providers

// What a provider for production would want to be told.
console.info = () => {};
console.warn = () => {};

/** A provider with pages of its own. Made while the gateway's configuration is, since each has to know the other. */
function companyProvider(issuer, gatewayUrl) {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "mcpgate", client_secret: SECRET, redirect_uris: [`${gatewayUrl}/login/callback/company`],
      grant_types: ["authorization_code", "refresh_token"], backchannel_logout_session_required: true,
      backchannel_logout_uri: `${gatewayUrl}/logout/backchannel/company`,
    }],
    claims: { openid: ["sub"], profile: ["name", "preferred_username", "groups"], email: ["email", "email_verified"] },
    cookies: { keys: [randomBytes(16).toString("hex")] },
    features: { backchannelLogout: { enabled: true } },
    issueRefreshToken: async () => true,
    // By itself it sends logout tokens to addresses of the public internet only.
    fetch: (url, options) => fetch(url, { ...options, dispatcher: undefined }),
    findAccount: (_, id) => (people[id] ? { accountId: id, claims: () => ({ sub: id, ...people[id] }) } : undefined),
  });
  provider.on("server_error", (_, error) => console.log(`the provider failed: ${error.stack}`));
  return provider;
}

async function listen(handler, port) {
  const server = createServer(handler);
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return server;
}

// --- an app

async function app() {
  const arrived = [];
  const server = await listen((request, response) => {
    const url = new URL(request.url, "http://127.0.0.1");
    if (url.pathname === "/callback") arrived.push(url.searchParams);
    response.writeHead(url.pathname === "/favicon.ico" ? 204 : 200, { "content-type": "text/html" });
    response.end("<!doctype html><title>The app</title><p>Connected.");
  }, 0);
  return { redirect: `http://127.0.0.1:${server.address().port}/callback`, arrived, close: () => server.close() };
}

async function json(url, options) {
  const response = await fetch(url, options);
  return { status: response.status, body: await response.json().catch(() => undefined) };
}

const form = (pairs) => ({
  method: "POST", headers: { "content-type": "application/x-www-form-urlencoded" }, body: new URLSearchParams(pairs),
});

await main(async () => {
  const port = await freePort();
  const issuer = `http://127.0.0.1:${port}`;
  const mock = new OAuth2Server();
  await mock.issuer.keys.generate("RS256");
  await mock.start(await freePort(), "127.0.0.1");
  mock.issuer.url = `http://127.0.0.1:${mock.address().port}`;
  let company;
  const gateway = await startGateway({
    configure: (configuration) => {
      configuration.identity_providers = [
        {
          id: "company", name: "The Company", issuer, client_id: "mcpgate", client_secret: SECRET, recheck: "1s",
          allowed_domains: ["example.com"],
        },
        { id: "mock", issuer: mock.issuer.url, client_id: "mcpgate", client_secret: SECRET, recheck: "1s" },
      ];
      company = companyProvider(issuer, configuration.public_url);
    },
  });
  const server = await listen(company.callback(), port);
  const callback = await app();
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ARGUMENTS });
  const { body: client } = await json(`${gateway.url}/register`, {
    method: "POST", headers: { "content-type": "application/json" },
    body: JSON.stringify({
      client_name: "Notebook", redirect_uris: [callback.redirect], token_endpoint_auth_method: "none",
      grant_types: ["authorization_code", "refresh_token"],
    }),
  });

  const ask = (more = {}) => {
    const verifier = randomBytes(32).toString("base64url");
    const query = new URLSearchParams({
      response_type: "code", client_id: client.client_id, redirect_uri: callback.redirect, resource: gateway.mcpUrl,
      code_challenge: createHash("sha256").update(verifier).digest("base64url"), code_challenge_method: "S256", ...more,
    });
    return { url: `${gateway.url}/authorize?${query}`, verifier };
  };
  const redeem = async (asked) => {
    const answer = callback.arrived.at(-1);
    const { status, body } = await json(`${gateway.url}/token`, form({
      grant_type: "authorization_code", client_id: client.client_id, code: answer.get("code"),
      redirect_uri: callback.redirect, code_verifier: asked.verifier,
    }));
    assert.equal(status, 200, JSON.stringify(body));
    return body;
  };
  const refresh = (token) => json(`${gateway.url}/token`, form({
    grant_type: "refresh_token", client_id: client.client_id, refresh_token: token,
  }));
  /** What the MCP server hears of whoever calls with a token; nothing if the gateway does not let them through. */
  const heard = async (token) => {
    const before = gateway.seen.length;
    const response = await fetch(gateway.mcpUrl, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "application/json, text/event-stream" },
      body: JSON.stringify({
        jsonrpc: "2.0", id: 1, method: "initialize",
        params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "t", version: "1" } },
      }),
    });
    await response.text();
    return gateway.seen.length > before ? gateway.seen.at(-1).headers : undefined;
  };
  const press = (page, name) => page.getByRole("button", { name, exact: true }).click();
  const atApp = (page) => page.waitForURL(/\/callback\?/);
  /** The provider's own pages. */
  const signInThere = async (page, login) => {
    await page.waitForURL(`${issuer}/interaction/**`);
    await page.fill("input[name=login]", login);
    await page.fill("input[name=password]", "anything");
    await press(page, "Sign-in");
  };
  const allowThere = async (page) => {
    await page.getByRole("button", { name: "Continue" }).click();
  };
  const isSignedIn = async (page) => {
    const before = callback.arrived.length;
    await page.goto(ask({ prompt: "none" }).url);
    await atApp(page);
    return callback.arrived[before].get("error") !== "login_required";
  };

  const context = await browser.newContext();
  const page = await context.newPage();
  let tokens;

  // Spec: E1, E9
  await step("both providers and the password stand on one page, which says where the answer goes", SECONDS, async () => {
    await page.goto(ask().url);
    const text = await page.textContent("main");
    assert.match(text, /An app that calls itself Notebook wants to use/);
    assert.ok(text.includes(callback.redirect));
    for (const name of ["Continue with The Company", "Continue with mock", "Sign in"]) {
      assert.equal(await page.getByRole("button", { name, exact: true }).count(), 1, name);
    }
  });

  // Spec: E9
  await step("somebody changes their mind at the provider, and nothing is lost", SECONDS, async () => {
    await press(page, "Continue with The Company");
    await page.waitForURL(`${issuer}/interaction/**`);
    await page.getByRole("link", { name: /cancel/i }).click();
    await page.waitForURL(`${gateway.url}/login/callback/**`);
    assert.match(await page.getByRole("alert").textContent(), /not signed in there/);
  });

  // Spec: E9, I7
  await step("oidc-provider: sign in on its page, allow, and the server hears who it is", SECONDS, async () => {
    const asked = ask();
    await page.goto(asked.url);
    await press(page, "Continue with The Company");
    await signInThere(page, "grace");
    await allowThere(page);
    await page.waitForURL(`${gateway.url}/**`);
    assert.match(await page.textContent("main"), /Grace Hopper/);
    await press(page, "Allow");
    await atApp(page);
    tokens = await redeem(asked);
    const headers = await heard(tokens.access_token);
    assert.equal(headers["x-forwarded-user"], "company:grace");
    assert.equal(headers["x-forwarded-preferred-username"], "grace");
    assert.equal(headers["x-forwarded-email"], "grace@example.com");
    assert.equal(headers["x-forwarded-groups"], "navy");
  });

  // Spec: E9
  await step("prompt=login: the provider asks for the password again", SECONDS, async () => {
    await page.goto(ask({ prompt: "login" }).url);
    await press(page, "Continue with The Company");
    await signInThere(page, "grace");
    await page.waitForURL((url) => url.origin === gateway.url || url.href.startsWith(callback.redirect));
    assert.ok(!(await page.content()).includes('role="alert"'), await page.textContent("main"));
  });

  // Spec: F20
  await step("a refresh asks the provider, which replaces its own token each time", SECONDS, async () => {
    for (const group of ["navy", "fleet", "admirals"]) {
      people.grace.groups = [group];
      await new Promise((resolve) => setTimeout(resolve, 1100));
      const { status, body } = await refresh(tokens.refresh_token);
      assert.equal(status, 200, JSON.stringify(body));
      tokens = body;
      assert.equal((await heard(tokens.access_token))["x-forwarded-groups"], group);
    }
  });

  // Spec: E10
  await step("signing out at the provider signs out here", SECONDS, async () => {
    assert.ok(await isSignedIn(page));
    await page.goto(`${issuer}/session/end`);
    await page.getByRole("button", { name: /sign me out/i }).click();
    await page.waitForURL(/success|end/);
    assert.ok(!(await isSignedIn(page)));
  });

  // Spec: F20
  await step("who has left gets no token, and the one that they have is worth nothing", SECONDS, async () => {
    const asked = ask();
    await page.goto(asked.url);
    await press(page, "Continue with The Company");
    await signInThere(page, "grace");
    await page.waitForLoadState();
    if (page.url().startsWith(issuer)) await allowThere(page);
    await page.waitForURL((url) => url.origin === gateway.url || url.href.startsWith(callback.redirect));
    if (page.url().startsWith(gateway.url)) await press(page, "Allow");
    await atApp(page);
    tokens = await redeem(asked);
    assert.ok(await heard(tokens.access_token));
    delete people.grace;
    await new Promise((resolve) => setTimeout(resolve, 1100));
    const { status, body } = await refresh(tokens.refresh_token);
    assert.deepEqual([status, body.error], [400, "invalid_grant"]);
    assert.equal(await heard(tokens.access_token), undefined);
    assert.ok(!(await isSignedIn(page)));
  });

  // Spec: E9
  await step("an address that the provider has not verified decides nothing", SECONDS, async () => {
    const other = await (await browser.newContext()).newPage();
    await other.goto(ask().url);
    await press(other, "Continue with The Company");
    await signInThere(other, "eve");
    await allowThere(other);
    await other.waitForURL(`${gateway.url}/login/callback/**`);
    assert.match(await other.getByRole("alert").textContent(), /has to be verified/);
    await other.context().close();
  });

  // Spec: E9, F20
  await step("oauth2-mock-server: sign in and refresh", SECONDS, async () => {
    mock.service.on("beforeTokenSigning", (token) => {
      token.payload.aud = "mcpgate";
      token.payload.preferred_username = "john";
    });
    const other = await (await browser.newContext()).newPage();
    const asked = ask();
    await other.goto(asked.url);
    await press(other, "Continue with mock");
    await other.waitForURL(`${gateway.url}/**`);
    await press(other, "Allow");
    await atApp(other);
    const first = await redeem(asked);
    const headers = await heard(first.access_token);
    assert.equal(headers["x-forwarded-user"], "mock:johndoe");
    assert.equal(headers["x-forwarded-preferred-username"], "john");
    await new Promise((resolve) => setTimeout(resolve, 1100));
    const { status, body } = await refresh(first.refresh_token);
    assert.equal(status, 200, JSON.stringify(body));
    await other.context().close();
  });

  // Spec: E9
  await step("oauth2-mock-server lies about the nonce, the audience and who it is", SECONDS, async () => {
    for (const lie of [{ nonce: "another" }, { aud: "somebody else" }, { iss: "https://evil.example" }]) {
      const spoil = (token) => Object.assign(token.payload, lie);
      mock.service.on("beforeTokenSigning", spoil);
      const other = await (await browser.newContext()).newPage();
      await other.goto(ask().url);
      await press(other, "Continue with mock");
      await other.waitForURL(`${gateway.url}/login/callback/**`);
      assert.match(await other.getByRole("alert").textContent(), /did not come to a good end/, JSON.stringify(lie));
      mock.service.off("beforeTokenSigning", spoil);
      await other.context().close();
    }
  });

  await browser.close();
  callback.close();
  server.closeAllConnections();
  server.close();
  await mock.stop();
  // Spec: F22
  await step("no secret and no token in the gateway's log", SECONDS, async () => {
    assert.deepEqual(gateway.leaks(), []);
    assert.ok(!gateway.log().includes(SECRET));
  });
  const end = await gateway.stop();
  assert.equal(end.code, 0);
});
