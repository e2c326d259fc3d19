// Has axe look at every page of people, wide and narrow, light and dark, and goes over the account page by keyboard alone.
//
//   MCPGATE   the program, by default target/debug/mcpgate      CHROMIUM   the browser, by default Debian's
//
// Exit code 0 if axe finds nothing serious or critical and the keyboard is enough.

import assert from "node:assert/strict";
import { app, found, gatewayForPeople, launch, look, looked, signIn } from "./people.mjs";

/** What has the focus, once Tab has brought it there; it has to be seen. */
async function tabTo(page, what) {
  const steps = 60;
  for (let step = 0; step < steps; step += 1) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const element = document.activeElement;
      const { outlineStyle, outlineWidth } = getComputedStyle(element);
      const name = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
      return { name: name.trim(), seen: element === document.body || (outlineStyle !== "none" && parseFloat(outlineWidth) >= 2) };
    });
    assert.ok(focused.seen, `nobody sees that ${focused.name} has the focus`);
    if (focused.name === what) return;
  }
  assert.fail(`${steps} tabs do not lead to ${what}`);
}

/** Presses Enter and waits for the page that it leads to. */
async function enter(page) {
  const answered = page.waitForEvent("framenavigated");
  await page.keyboard.press("Enter");
  await answered;
  await page.waitForLoadState();
}

async function everyPage(browser, gateway, colorScheme, width) {
  const context = await browser.newContext({ colorScheme, viewport: { width, height: 844 } });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  const at = (name) => look(page, `${name}, ${width} px, ${colorScheme}`);
  const notebook = await app(gateway, "Notebook");
  await page.goto(notebook.url);
  await at("login");
  await signIn(page, gateway);
  await at("consent");
  await notebook.allow(page);
  await page.goto(`${gateway.url}/device`);
  await at("device");
  await page.goto(`${gateway.url}/account`);
  await at("account");
  await page.getByLabel("Name of a new token").fill("backup");
  await page.getByRole("button", { name: "Make a token" }).click();
  await page.getByLabel("Your new token").waitFor();
  await at("account with a new token");
  await page.goto(`${gateway.url}/login`);
  await at("error");
  await page.goto(`${gateway.url}/logout`);
  await at("logout");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: /signed out/ }).waitFor();
  await at("signed out");
  await context.close();
}

/** Signs in for the account page, makes a token, and takes everything back, without a pointer. */
async function byKeyboard(browser, gateway) {
  const context = await browser.newContext();
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  await page.goto(`${gateway.url}/account`);
  await page.locator("input[name=username]:focus").waitFor();
  await page.keyboard.type(gateway.username);
  await page.keyboard.press("Tab");
  await page.keyboard.type(gateway.password);
  await enter(page);
  await page.getByRole("heading", { name: "Your account" }).waitFor();
  const revoke = (name) => page.getByRole("button", { name: `Revoke ${name}`, exact: true });
  await tabTo(page, "Name of a new token");
  await page.keyboard.type("by keyboard");
  await enter(page);
  assert.match(await page.getByLabel("Your new token").inputValue(), /^mgpt_/);
  await tabTo(page, "Revoke by keyboard");
  await enter(page);
  assert.equal(await revoke("by keyboard").count(), 0);
  assert.equal(await revoke("Notebook").count() > 0, true);
  const apps = await revoke("Notebook").count();
  await tabTo(page, "Revoke Notebook");
  await enter(page);
  assert.equal(await revoke("Notebook").count(), apps - 1);
  await tabTo(page, "Sign out");
  await enter(page);
  await page.getByRole("heading", { name: /signed out/ }).waitFor();
  await context.close();
}

const gateway = await gatewayForPeople();
const browser = await launch();
let failed = false;
try {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390]) await everyPage(browser, gateway, colorScheme, width);
  }
  for (const line of found) console.log(`not ok  ${line}`);
  if (found.length === 0) console.log(`ok      axe finds nothing serious on ${looked()} pages`);
  await byKeyboard(browser, gateway);
  console.log("ok      the keyboard is enough for the account page");
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
