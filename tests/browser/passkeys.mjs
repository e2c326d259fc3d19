// Passkeys in Chromium, with its virtual authenticator: made, asked for after the password, refused, added to, removed; by
// keyboard, without scripts, and with axe looking on.
//
//   MCPGATE   the program, by default target/debug/mcpgate      CHROMIUM   the browser, by default Debian's
//   PICTURES  a folder for pictures of every page, if there is to be one
//
// Exit code 0 if all of it works, axe finds nothing serious, and no page breaks its own content security policy.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import path from "node:path";
import { app, found, gatewayForPeople, launch, look, looked, signIn } from "./people.mjs";

const broken = [];

/** A browser window with a device that has a passkey store, and somebody in front of it. */
async function windowOf(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 844 }, ...options });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  page.on("console", (message) => {
    if (message.type() === "error" && /Content Security Policy/.test(message.text())) broken.push(message.text());
  });
  const debug = await context.newCDPSession(page);
  await debug.send("WebAuthn.enable");
  const { authenticatorId } = await debug.send("WebAuthn.addVirtualAuthenticator", {
    options: {
      protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true,
      automaticPresenceSimulation: true,
    },
  });
  return {
    page,
    close: () => context.close(),
    passkeys: async () => (await debug.send("WebAuthn.getCredentials", { authenticatorId })).credentials,
    /** Whether the person in front of it is who they should be, as far as the device can tell. */
    verified: (isUserVerified) => debug.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified }),
  };
}

async function press(page, name) {
  const answered = page.waitForEvent("framenavigated");
  await page.getByRole("button", { name, exact: true }).click();
  await answered;
  await page.waitForLoadState();
}

const heading = (page, name) => page.getByRole("heading", { name, exact: true }).waitFor();

/** axe in light and dark, wide and narrow; and a picture of each. */
async function inspect(page, name) {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 844 });
      await look(page, `${name}, ${width} px, ${colorScheme}`);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(overflow, 0, `${name} is wider than ${width} px`);
      const file = `${name.replaceAll(" ", "-")}-${width}-${colorScheme}.png`;
      if (process.env.PICTURES) await page.screenshot({ path: path.join(process.env.PICTURES, file), fullPage: true });
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 844 });
}

/** The password of an authenticator app (RFC 6238). */
function oneTimePassword(key, ahead = 0) {
  const bits = [...key].map((letter) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(letter).toString(2).padStart(5, "0")).join("");
  const bytes = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + ahead));
  const tag = createHmac("sha1", bytes).update(step).digest();
  return String((tag.readUInt32BE(tag[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

const recoveryCodes = (page) => page.locator("code").allTextContents();

async function made(gateway, window) {
  const { page } = window;
  await page.goto(`${gateway.url}/account/security`);
  await signIn(page, gateway);
  await heading(page, "Set up a second factor");
  await inspect(page, "set up");
  // Somebody whom the device does not know makes none, and the page says so.
  await window.verified(false);
  await page.getByRole("button", { name: "Make a passkey" }).click();
  await page.getByText("No passkey was used").waitFor();
  await window.verified(true);
  await page.getByLabel("Name").fill("Ada's laptop");
  await press(page, "Make a passkey");
  await heading(page, "Your recovery codes");
  const codes = await recoveryCodes(page);
  assert.equal(codes.length, 10);
  assert.equal((await window.passkeys()).length, 1);
  await inspect(page, "recovery codes");
  return codes;
}

async function askedFor(gateway, window) {
  const { page } = window;
  await page.goto(`${gateway.url}/logout`);
  await press(page, "Sign out");
  const notebook = await app(gateway, "Notebook");
  await page.goto(notebook.url);
  await signIn(page, gateway);
  await heading(page, "One more step");
  await inspect(page, "one more step");
  await window.verified(false);
  await page.getByRole("button", { name: "Use a passkey" }).click();
  await page.getByText("No passkey was used").waitFor();
  await window.verified(true);
  // By keyboard alone.
  for (let step = 0; step < 10; step += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate(() => document.activeElement.textContent === "Use a passkey")) break;
  }
  const answered = page.waitForEvent("framenavigated");
  await page.keyboard.press("Enter");
  await answered;
  await heading(page, "Allow access?");
  await notebook.allow(page);
}

async function changed(gateway, window) {
  const { page } = window;
  await page.goto(`${gateway.url}/account/security`);
  await heading(page, "Second factor");
  await page.getByText("Ada's laptop").waitFor();
  assert.equal(await page.getByRole("button", { name: /^Remove/ }).count(), 0);
  await inspect(page, "second factor, locked");
  await press(page, "Use a passkey");
  await page.getByRole("button", { name: "Remove Ada's laptop" }).waitFor();
  await inspect(page, "second factor, open");
  await press(page, "Add an app or a passkey");
  await heading(page, "Add a second factor");
  // This device has one already.
  await page.getByRole("button", { name: "Make a passkey" }).click();
  await page.getByText("There is a passkey for you on this device already.").waitFor();
  const key = await page.getByLabel("Or copy the key").inputValue();
  await page.getByRole("img", { name: /QR code/ }).waitFor();
  await page.getByLabel("Code of the app").fill("000");
  await press(page, "Set it up");
  await page.getByText("That code is not right").waitFor();
  assert.equal(await page.getByLabel("Or copy the key").inputValue(), key, "the app has the key that was shown first");
  await page.getByLabel("Code of the app").fill(oneTimePassword(key));
  await press(page, "Set it up");
  await page.getByText("Authenticator app").waitFor();
  await press(page, "Remove Ada's laptop");
  assert.equal(await page.getByText("Ada's laptop").count(), 0);
  await press(page, "New recovery codes");
  const codes = await recoveryCodes(page);
  assert.equal(codes.length, 10);
  return { key, codes };
}

/** Somebody with a passkey whose browser runs no scripts, or has no such device, types a recovery code. */
async function withoutScripts(browser, gateway, code) {
  const { page, close } = await windowOf(browser, { javaScriptEnabled: false });
  await page.goto(`${gateway.url}/account`);
  await signIn(page, gateway);
  await heading(page, "One more step");
  assert.equal(await page.getByRole("button", { name: "Use a passkey" }).count(), 0);
  await page.getByLabel("Recovery code").fill(code);
  await press(page, "Sign in");
  await heading(page, "Your account");
  await close();
}

async function withTheApp(browser, gateway, key) {
  const { page, close } = await windowOf(browser);
  await page.goto(`${gateway.url}/account`);
  await signIn(page, gateway);
  await heading(page, "One more step");
  assert.equal(await page.getByRole("button", { name: "Use a passkey" }).count(), 0, "it was removed");
  await page.getByLabel("Code").fill(oneTimePassword(key, 1));
  await press(page, "Sign in");
  await heading(page, "Your account");
  await close();
}

const gateway = await gatewayForPeople({ host: "localhost" });
const browser = await launch();
let failed = false;
const done = (what) => console.log(`ok      ${what}`);
try {
  const window = await windowOf(browser);
  const first = await made(gateway, window);
  done("a passkey is made, and recovery codes come with it");
  await askedFor(gateway, window);
  done("it is asked for after the password, and the keyboard is enough");
  await withoutScripts(browser, gateway, first[0]);
  done("without scripts a recovery code will do");
  const { key, codes } = await changed(gateway, window);
  assert.notEqual(codes[1], first[1]);
  done("an app is added, the passkey removed, the recovery codes renewed");
  await withTheApp(browser, gateway, key);
  done("what was removed is asked for no more");
  for (const line of found) console.log(`not ok  ${line}`);
  if (found.length === 0) done(`axe finds nothing serious on ${looked()} pages`);
  assert.deepEqual(broken, [], "a page breaks its own policy");
  failed = found.length > 0;
} catch (error) {
  console.log(`not ok  ${error.stack ?? error}`);
  failed = true;
} finally {
  await browser.close();
  await gateway.stop();
}
const leaks = gateway.leaks();
if (leaks.length > 0) console.log(`not ok  ${leaks.length} secrets in the gateway's log, such as ${leaks[0].slice(0, 12)}…`);
process.exit(failed || leaks.length > 0 ? 1 : 0);
