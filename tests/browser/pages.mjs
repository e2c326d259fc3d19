// Walks through the gateway's pages in Chromium, as people do, and looks at them while it is there.
//
//   GATEWAY_URL   the running gateway                    USERNAME, PASSWORD   an account of it
//   RESOURCE      the MCP server to ask for; by default the one that the root document names
//   SCREENSHOTS   a folder for pictures, if wanted       CHROMIUM             the browser, by default Debian's
//
// Exit code 0 if everything holds.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { chromium } from "playwright-core";

const { GATEWAY_URL, USERNAME, PASSWORD, SCREENSHOTS } = process.env;
for (const name of ["GATEWAY_URL", "USERNAME", "PASSWORD"]) {
  if (!process.env[name]) {
    console.error(`${name} is not set`);
    process.exit(2);
  }
}
const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const HOSTILE = `<b onmouseover="alert(1)">${"Averylongnamewithoutaspace".repeat(20)}\u202e`;

// --- an app

/** Where codes arrive: answers every request and remembers the last query. */
async function app() {
  const arrived = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://127.0.0.1");
    if (url.pathname === "/callback") arrived.push(url.searchParams);
    response.writeHead(url.pathname === "/favicon.ico" ? 204 : 200, { "content-type": "text/html" });
    response.end(url.pathname === "/favicon.ico" ? undefined : "<!doctype html><title>The app</title><p>Connected.");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { redirect: `http://127.0.0.1:${server.address().port}/callback`, arrived, close: () => server.close() };
}

async function json(url, options) {
  const response = await fetch(url, options);
  const body = await response.json();
  assert.ok(response.ok, `${url}: ${response.status} ${JSON.stringify(body)}`);
  return body;
}

async function register(name, method, redirect) {
  const client = await json(`${GATEWAY_URL}/register`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      client_name: name, redirect_uris: [redirect], token_endpoint_auth_method: method,
      grant_types: ["authorization_code", "refresh_token"], response_types: ["code"],
    }),
  });
  return { ...client, redirect };
}

function authorization(client, resource, more = {}) {
  const verifier = randomBytes(32).toString("base64url");
  const state = randomBytes(8).toString("hex");
  const query = new URLSearchParams({
    response_type: "code", client_id: client.client_id, redirect_uri: client.redirect, state, resource,
    code_challenge: createHash("sha256").update(verifier).digest("base64url"), code_challenge_method: "S256", ...more,
  });
  return { url: `${GATEWAY_URL}/authorize?${query}`, verifier, state };
}

/** Redeems a code: proof that the walk led to a token. */
async function redeem(client, asked, answer) {
  assert.equal(answer.get("state"), asked.state);
  assert.equal(answer.getAll("iss").length, 1);
  const form = {
    grant_type: "authorization_code", client_id: client.client_id, code: answer.get("code"),
    redirect_uri: client.redirect, code_verifier: asked.verifier,
  };
  if (client.client_secret) form.client_secret = client.client_secret;
  const tokens = await json(`${GATEWAY_URL}/token`, { method: "POST", body: new URLSearchParams(form) });
  assert.ok(tokens.access_token);
}

// --- a person

/** Whatever the browser complains about, except for the status of a page that is meant to have it. */
const complaints = [];
const EXPECTED = /^Failed to load resource: the server responded with a status of 40[013] /;

async function window(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  page.on("console", (message) => {
    const about = message.location().url ?? "";
    const expected = EXPECTED.test(message.text()) && about.startsWith(GATEWAY_URL);
    if (["error", "warning"].includes(message.type()) && !expected) complaints.push(`${about}: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("requestfailed", (request) => complaints.push(`${request.url()}: ${request.failure()?.errorText}`));
  page.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    const own = origin === new URL(GATEWAY_URL).origin || origin.startsWith("http://127.0.0.1:") || protocol === "data:";
    if (!own) complaints.push(`asked for ${request.url()}`);
  });
  return page;
}

async function signIn(page, password = PASSWORD) {
  await page.getByLabel("Username").fill(USERNAME);
  await page.getByLabel("Password").fill(password);
  // The answer is another page, and only once that one is there can it be looked at.
  const answered = page.waitForEvent("framenavigated");
  await page.getByRole("button", { name: "Sign in" }).click();
  await answered;
  await page.waitForLoadState();
}

const allow = (page) => page.getByRole("button", { name: "Allow" }).click();
const atApp = (page) => page.waitForURL(/\/callback\?/);

/** Nothing wider than the window, and every text readable on what it stands on (WCAG 2.2, 1.4.3 and 1.4.10). */
async function looksRight(page, where) {
  const found = await page.evaluate(() => {
    const channels = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
    const luminance = ([r, g, b]) => {
      const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (element) => {
      for (let e = element; e; e = e.parentElement) {
        const color = channels(getComputedStyle(e).backgroundColor);
        if (color.length === 3 || color[3] === 1) return color;
      }
      return [255, 255, 255];
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
      const text = [...element.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
      if (!text && element.tagName !== "INPUT") continue;
      const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < 4.5) faint.push(`${element.tagName} ${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
    }
    const small = [...document.querySelectorAll("button, input:not([type=hidden])")]
      .map((e) => [e.textContent || e.name, e.getBoundingClientRect()])
      .filter(([, box]) => box.height < 24 || box.width < 24)
      .map(([name]) => name);
    return { faint, small, wide: document.documentElement.scrollWidth - window.innerWidth, lang: document.documentElement.lang, headings: document.querySelectorAll("h1").length };
  });
  assert.deepEqual(found.faint, [], `${where}: text without contrast`);
  assert.deepEqual(found.small, [], `${where}: too small to hit`);
  assert.ok(found.wide <= 0, `${where}: ${found.wide} px too wide`);
  assert.equal(found.lang, "en");
  assert.equal(found.headings, 1, where);
}

// --- what is checked

const checks = [];
const check = (name, run) => checks.push({ name, run });

// Spec: D9, E2, E5
check("sign in, allow, and the app has a token", async ({ browser, resource, callback }) => {
  const client = await register("Notebook", "none", callback.redirect);
  const asked = authorization(client, resource);
  const page = await window(browser);
  await page.goto(asked.url);
  assert.equal(await page.evaluate(() => document.activeElement.id), "username");
  await signIn(page);
  assert.match(await page.textContent("main"), /An app that calls itself Notebook wants to use/);
  assert.ok((await page.textContent("main")).includes(callback.redirect));
  assert.match(await page.textContent("[role=note]"), /just started connecting an app yourself/);
  await allow(page);
  await atApp(page);
  await redeem(client, asked, callback.arrived.at(-1));
  await page.context().close();
});

// Spec: E8
check("a wrong password is said to be wrong, and the next try works", async ({ browser, resource, callback }) => {
  const client = await register("Notebook", "none", callback.redirect);
  const page = await window(browser);
  await page.goto(authorization(client, resource).url);
  await signIn(page, "not the password");
  assert.match(await page.getByRole("alert").textContent(), /wrong/);
  assert.equal(await page.getByLabel("Username").inputValue(), USERNAME);
  assert.equal(await page.getByLabel("Password").inputValue(), "");
  assert.equal(await page.evaluate(() => document.activeElement.id), "password");
  await signIn(page);
  await page.getByRole("button", { name: "Deny" }).waitFor();
  await page.context().close();
});

// Spec: D17, E2
check("deny tells the app and gives it nothing", async ({ browser, resource, callback }) => {
  const client = await register("Notebook", "none", callback.redirect);
  const asked = authorization(client, resource);
  const page = await window(browser);
  await page.goto(asked.url);
  await signIn(page);
  await page.getByRole("button", { name: "Deny" }).click();
  await atApp(page);
  const answer = callback.arrived.at(-1);
  assert.deepEqual([answer.get("error"), answer.get("code"), answer.get("state")], ["access_denied", null, asked.state]);
  await page.context().close();
});

// Spec: E7
check("consent is remembered for an app with a secret, and asked again of one without", async ({ browser, resource, callback }) => {
  const page = await window(browser);
  for (const [method, remembered] of [["client_secret_post", true], ["none", false]]) {
    const client = await register("Notebook", method, callback.redirect);
    await page.goto(authorization(client, resource).url);
    if (await page.getByLabel("Password").count()) await signIn(page);
    await allow(page);
    await atApp(page);
    const again = authorization(client, resource);
    await page.goto(again.url);
    if (remembered) {
      await atApp(page);
      await redeem(client, again, callback.arrived.at(-1));
      await page.goto(authorization(client, resource, { prompt: "consent" }).url);
    }
    await page.getByRole("button", { name: "Allow" }).waitFor();
  }
  await page.context().close();
});

check("the keyboard is enough", async ({ browser, resource, callback }) => {
  const client = await register("Notebook", "none", callback.redirect);
  const asked = authorization(client, resource);
  const page = await window(browser);
  await page.goto(asked.url);
  // A browser gives the focus with the first frame, which may come after the page has loaded.
  await page.locator("input[name=username]:focus").waitFor();
  await page.keyboard.type(USERNAME);
  await page.keyboard.press("Tab");
  await page.keyboard.type(PASSWORD);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Allow" }).waitFor();
  await page.keyboard.press("Tab");
  const focused = await page.evaluate(() => {
    const style = getComputedStyle(document.activeElement);
    return [document.activeElement.value, style.outlineStyle, parseFloat(style.outlineWidth) >= 2];
  });
  assert.deepEqual(focused, ["approve", "solid", true]);
  await page.keyboard.press("Enter");
  await atApp(page);
  await redeem(client, asked, callback.arrived.at(-1));
  await page.context().close();
});

// Spec: E12
check("everything works without JavaScript", async ({ browser, resource, callback }) => {
  const client = await register("Notebook", "none", callback.redirect);
  const asked = authorization(client, resource);
  const page = await window(browser, { javaScriptEnabled: false });
  await page.goto(asked.url);
  await signIn(page);
  await allow(page);
  await atApp(page);
  await redeem(client, asked, callback.arrived.at(-1));
  await page.context().close();
});

// Spec: E10
check("another account, signing out", async ({ browser, resource, callback }) => {
  const client = await register("Notebook", "none", callback.redirect);
  const page = await window(browser);
  await page.goto(authorization(client, resource).url);
  await signIn(page);
  await page.getByRole("button", { name: "Use another account" }).click();
  await signIn(page);
  await page.getByRole("button", { name: "Allow" }).waitFor();
  await page.goto(`${GATEWAY_URL}/logout`);
  await page.getByRole("button", { name: "Sign out" }).click();
  assert.match(await page.textContent("h1"), /signed out/);
  await page.goto(authorization(client, resource).url);
  await page.getByLabel("Password").waitFor();
  await page.context().close();
});

// Spec: D21, L2
check("a link is worth nothing in another browser", async ({ browser, resource, callback }) => {
  const client = await register("Notebook", "none", callback.redirect);
  const [own, other] = [await window(browser), await window(browser)];
  await own.goto(authorization(client, resource).url);
  await other.goto(own.url());
  assert.match(await other.textContent("h1"), /another browser/);
  await own.context().close();
  await other.context().close();
});

check("every page fits and can be read: wide and narrow, light and dark", async ({ browser, resource, callback }) => {
  const [friendly, hostile] = [
    await register("Notebook", "none", callback.redirect),
    await register(HOSTILE, "none", callback.redirect),
  ];
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390, 320]) {
      const page = await window(browser, { colorScheme, viewport: { width, height: 844 } });
      const look = async (name) => {
        await looksRight(page, `${name}, ${width} px, ${colorScheme}`);
        if (SCREENSHOTS) await page.screenshot({ path: path.join(SCREENSHOTS, `${name}-${width}-${colorScheme}.png`), fullPage: true });
      };
      await page.goto(authorization(friendly, resource).url);
      await look("login");
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const [red] = ground.match(/\d+/g).map(Number);
      assert.ok(colorScheme === "dark" ? red < 64 : red > 192, `${colorScheme}: ${ground}`);
      if (width === 1280) {
        await signIn(page, "not the password");
        await look("wrong");
      }
      await signIn(page);
      await look("consent");
      await page.goto(authorization(hostile, resource).url);
      await look("hostile");
      await page.goto(`${GATEWAY_URL}/logout`);
      await look("logout");
      await page.goto(authorization({ ...friendly, client_id: "nobody" }, resource).url);
      await look("unknown-app");
      await page.goto(`${GATEWAY_URL}/login`);
      await look("no-request");
      await page.context().close();
    }
  }
});

// Spec: E5, L7
check("the browser has nothing to complain about", async () => assert.deepEqual(complaints, []));

// --- go

const callback = await app();
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ARGUMENTS,
});
let failed = 0;
try {
  if (SCREENSHOTS) mkdirSync(SCREENSHOTS, { recursive: true });
  const root = `${GATEWAY_URL}/.well-known/oauth-protected-resource`;
  const resource = process.env.RESOURCE ?? (await json(root)).resource;
  for (const { name, run } of checks) {
    try {
      await run({ browser, resource, callback });
      console.log(`ok      ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`not ok  ${name}\n${error.stack ?? error}`);
    }
  }
} finally {
  await browser.close();
  callback.close();
}
console.log(failed ? `${failed} of ${checks.length} checks failed` : `${checks.length} checks hold`);
process.exitCode = failed ? 1 : 0;
