// Walks through the operator's pages in Chromium, with a gateway of its own.
//
//   MCPGATE       the program                    SCREENSHOTS   a folder for pictures, if wanted
//   CHROMIUM      the browser, by default Debian's
//
// Exit code 0 if everything holds.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const { MCPGATE = "target/debug/mcpgate", SCREENSHOTS } = process.env;
const TOKEN = "the token of whoever administers";
const HOSTILE = `<b onmouseover="alert(1)">${"Averylongnamewithoutaspace".repeat(8)}\u202e`;
const VIEWS = [
  { name: "wide-light", viewport: { width: 1280, height: 900 }, colorScheme: "light" },
  { name: "wide-dark", viewport: { width: 1280, height: 900 }, colorScheme: "dark" },
  { name: "phone-light", viewport: { width: 390, height: 844 }, colorScheme: "light" },
  { name: "phone-dark", viewport: { width: 390, height: 844 }, colorScheme: "dark" },
];

const freePort = () => new Promise((resolve) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

const complaints = [];

async function window(browser, view) {
  const context = await browser.newContext(view);
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  page.on("console", (message) => {
    const expected = /status of 40[139] /.test(message.text());
    if (["error", "warning"].includes(message.type()) && !expected) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  return page;
}

/** Nothing wider than the window, every text readable on what it stands on, everything large enough to hit (WCAG 2.2). */
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
    const faint = [...document.querySelectorAll("body *")].flatMap((element) => {
      if (![...element.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim())) return [];
      const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return ratio < 4.5 ? [`${element.tagName} ${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`] : [];
    });
    const targets = [...document.querySelectorAll("button, nav a, input:not([type=hidden])")];
    const small = targets.filter((e) => e.getBoundingClientRect().height < 24).map((e) => e.textContent || e.name);
    const nameless = [...document.querySelectorAll("input:not([type=hidden])")].filter((e) => !e.labels.length).length;
    const headings = document.querySelectorAll("h1").length;
    return { faint, small, nameless, headings, wide: document.documentElement.scrollWidth - window.innerWidth };
  });
  assert.deepEqual(found, { ...found, faint: [], small: [], nameless: 0, headings: 1 }, where);
  assert.ok(found.wide <= 0, `${where}: ${found.wide} px too wide`);
}

/** A grant: a client's own. */
async function grant(gateway) {
  const form = { grant_type: "client_credentials", client_id: "nightly", client_secret: "a secret of the nightly runs" };
  const response = await fetch(`${gateway}/token`, { method: "POST", body: new URLSearchParams(form) });
  assert.equal(response.status, 200, await response.text());
}

async function walk(browser, admin, view) {
  const page = await window(browser, view);
  const look = async (name) => {
    await looksRight(page, `${name} ${view.name}`);
    if (SCREENSHOTS) await page.screenshot({ path: path.join(SCREENSHOTS, `admin-${name}-${view.name}.png`), fullPage: true });
  };
  // By keyboard alone: the field has the focus, Enter sends the form.
  await page.goto(`${admin}/users`);
  assert.equal(await page.evaluate(() => document.activeElement.id), "token");
  await page.keyboard.type("not the token");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").waitFor();
  await look("sign-in");
  await page.keyboard.type(TOKEN);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await look("overview");
  for (const [name, title] of [["users", "Users"], ["clients", "Clients"], ["grants", "Grants"], ["decisions", "Refused calls"]]) {
    await page.getByRole("link", { name: title, exact: true }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: title }).waitFor();
    await look(name);
  }
  await page.getByRole("link", { name: "Users", exact: true }).click();
  await page.getByRole("button", { name: "Add an account" }).click();
  await page.getByRole("heading", { level: 1, name: "Add an account" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "username");
  await look("add");
  // By keyboard, with a name that is taken first; what was typed is still there.
  for (const text of ["ada", "Grace Hopper", "grace@example.com", "navy, staff"]) {
    await page.keyboard.type(text);
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Enter");
  await page.getByRole("alert").waitFor();
  assert.equal(await page.getByLabel("Full name").inputValue(), "Grace Hopper");
  await look("add-taken");
  const name = `grace-${view.name}`;
  await page.getByLabel("Username").fill(name);
  await page.keyboard.press("Enter");
  const made = page.getByLabel("Password: copy it now");
  const first = await made.inputValue();
  assert.match(first, /^[\w-]{20}$/);
  await look("added");
  await page.getByRole("link", { name: "Back to the users" }).click();
  await page.waitForURL(/search=grace/);
  assert.equal(await page.locator(".entries > li").count(), 1);
  await page.getByText("has to change the password").waitFor();
  await look("users-of-the-store");
  await page.getByRole("button", { name: `Reset password: ${name}` }).click();
  await page.getByRole("heading", { level: 1, name: "Reset a password" }).waitFor();
  await look("reset");
  await page.getByRole("button", { name: "Reset the password" }).click();
  assert.notEqual(await made.inputValue(), first);
  await look("reset-done");
  await page.getByRole("link", { name: "Users", exact: true }).click();
  await page.getByLabel("Name, e-mail address or group").fill("lovelace");
  await page.keyboard.press("Enter");
  await page.waitForURL(/search=lovelace/);
  assert.equal(await page.locator(".entries > li").count(), 1);
  await page.getByRole("button", { name: "Disable: ada" }).focus();
  await page.keyboard.press("Enter");
  await page.getByText("disabled", { exact: true }).waitFor();
  assert.match(page.url(), /search=lovelace/, "the search is still there");
  await page.getByRole("button", { name: "Enable: ada" }).click();
  await page.getByRole("button", { name: "Disable: ada" }).waitFor();
  await page.getByRole("link", { name: "Grants", exact: true }).click();
  await page.getByRole("button", { name: /^Revoke: / }).click();
  await page.getByText("There are none.").waitFor();
  await page.getByRole("button", { name: "Sign out", exact: true }).click();
  await page.getByLabel("Token").waitFor();
  await page.goBack();
  await page.reload();
  await page.getByLabel("Token").waitFor();
  await page.context().close();
}

if (SCREENSHOTS) mkdirSync(SCREENSHOTS, { recursive: true });
const directory = mkdtempSync(path.join(tmpdir(), "mcpgate-administration-"));
const [port, adminPort] = [await freePort(), await freePort()];
const file = path.join(directory, "gateway.yaml");
const hash = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";
writeFileSync(file, `
public_url: http://127.0.0.1:${port}
listen: 127.0.0.1:${port}
admin: { listen: "127.0.0.1:${adminPort}", token: "${TOKEN}" }
store: { sled: { path: "${directory}/data" } }
oauth:
  clients:
    - { client_id: nightly, client_secret: "a secret of the nightly runs", client_name: Nightly runs, grant_types: [client_credentials] }
users:
  - { username: ada, name: Ada Lovelace, email: ada@example.com, groups: [engineering, admins], password_hash: "${hash}" }
  - { username: bob, password_hash: "${hash}" }
upstreams:
  - { name: notes, path: /notes/mcp, url: "http://127.0.0.1:9/mcp", scopes: ["notes:read"] }
`);
const gateway = spawn(MCPGATE, ["serve", "-c", file], { stdio: ["ignore", "ignore", "pipe"] });
let browser;
try {
  await new Promise((resolve, reject) => {
    let said = "";
    gateway.stderr.on("data", (data) => (said += data).includes("listening on") && resolve());
    gateway.on("exit", () => reject(new Error(said)));
  });
  for (const name of ["Notebook", HOSTILE]) {
    const response = await fetch(`http://127.0.0.1:${port}/register`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ client_name: name, redirect_uris: ["http://127.0.0.1:33418/callback"], token_endpoint_auth_method: "none" }),
    });
    assert.equal(response.status, 201);
  }
  await fetch(`http://127.0.0.1:${port}/notes/mcp`, { method: "POST" });
  await fetch(`http://127.0.0.1:${port}/notes/mcp`, { method: "POST", headers: { authorization: `Bearer mgat_${"x".repeat(43)}` } });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
  });
  for (const view of VIEWS) {
    await grant(`http://127.0.0.1:${port}`);
    await walk(browser, `http://127.0.0.1:${adminPort}`, view);
    console.log(`ok      the operator's pages, ${view.name}`);
  }
  assert.deepEqual(complaints, []);
} finally {
  await browser?.close();
  gateway.kill();
  rmSync(directory, { recursive: true, force: true });
}
