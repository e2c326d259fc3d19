// What accessibility.mjs, passkeys.mjs and screenshots.mjs have in common: a gateway with an account page in use, somebody in a
// browser, and axe to look at what they see.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { startGateway } from "../clients/lib/gateway.mjs";

/** Where codes arrive. It keeps no program from ending. */
const callback = createServer((request, response) => {
  response.writeHead(200, { "content-type": "text/html" });
  response.end("<!doctype html><title>The app</title><p>Connected.");
});
await new Promise((resolve) => callback.listen(0, "127.0.0.1", resolve));
callback.unref();
const REDIRECT = `http://127.0.0.1:${callback.address().port}/callback`;

/** A gateway whose people may make tokens, with a scope that they can tick. */
export const gatewayForPeople = (more = {}) =>
  startGateway({
    ...more,
    configure(configuration) {
      configuration.oauth.personal_access_tokens = true;
      configuration.oauth.grants = { device_code: true };
      configuration.scopes.push({ name: "reports:write", description: "Change reports" });
    },
  });

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const GRAVE = new Set(["serious", "critical"]);

/** What is wrong with the pages that axe has looked at, and how many those are. */
export const found = [];
let pages = 0;
export const looked = () => pages;

/** Has axe look at a page. The pages' policy allows no script of ours; what the debugger evaluates is not bound by that. */
export async function look(page, where) {
  await page.evaluate(AXE);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document));
  assert.ok(passes.length > 5, `${where}: axe has looked at nothing`);
  pages += 1;
  for (const { id, impact, help, nodes } of violations) {
    const line = `${where}: ${id} (${impact}): ${help}: ${nodes.map((node) => node.html.slice(0, 120)).join(" | ")}`;
    if (GRAVE.has(impact)) found.push(line);
    else console.log(`note    ${line}`);
  }
}

export const launch = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
  });

async function json(url, body) {
  const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(url, options);
  const answer = await response.json();
  assert.ok(response.ok, `${url}: ${response.status} ${JSON.stringify(answer)}`);
  return answer;
}

/** An app that is registered here; its address to ask at, and a way to get its first tokens. */
export async function app(gateway, name) {
  const client = await json(`${gateway.url}/register`, {
    client_name: name, redirect_uris: [REDIRECT], token_endpoint_auth_method: "none",
    grant_types: ["authorization_code", "refresh_token"], response_types: ["code"],
  });
  const verifier = randomBytes(32).toString("base64url");
  const query = new URLSearchParams({
    response_type: "code", client_id: client.client_id, redirect_uri: REDIRECT, resource: gateway.mcpUrl, state: "1",
    code_challenge: createHash("sha256").update(verifier).digest("base64url"), code_challenge_method: "S256",
  });
  return {
    url: `${gateway.url}/authorize?${query}`,
    /** Allows on the consent page that is open, and fetches tokens with what the app is told. */
    async allow(page) {
      await page.getByRole("button", { name: "Allow" }).click();
      await page.waitForURL((url) => url.href.startsWith(`${REDIRECT}?`));
      const code = new URL(page.url()).searchParams.get("code");
      const form = { grant_type: "authorization_code", client_id: client.client_id, code, redirect_uri: REDIRECT, code_verifier: verifier };
      const answer = await fetch(`${gateway.url}/token`, { method: "POST", body: new URLSearchParams(form) });
      assert.equal(answer.status, 200, await answer.text());
    },
  };
}

export async function signIn(page, gateway) {
  await page.getByLabel("Username").fill(gateway.username);
  await page.getByLabel("Password").fill(gateway.password);
  const answered = page.waitForEvent("framenavigated");
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await answered;
  await page.waitForLoadState();
}
