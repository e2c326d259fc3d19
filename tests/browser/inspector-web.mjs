// The MCP Inspector's web page in Chromium: a person connects it, signs in and agrees on the gateway's own pages, is sent
// back, and uses a tool. tests/clients/run.mjs runs it beside the other clients.
//
//   node inspector-web.mjs legacy|auto

import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { MCP_URL, PERSON, RESTART, TOKEN_SECONDS, restartGateway } from '../clients/lib/conversation.mjs';
import { Inspector } from '../clients/lib/inspector.mjs';
import { freePort, printed, temporaryDirectory } from '../clients/lib/processes.mjs';
import { check, main, sleep, step } from '../clients/lib/report.mjs';

const GREETING = 'grüße, 世界';
const [era] = process.argv.slice(2);
// It asks for fonts elsewhere; nothing but this machine is there.
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'];
const inspector = new Inspector();
const gateway = new URL(MCP_URL).origin;
let authorizations = 0;

async function execute(page, message) {
  // The form makes room for a result; choosing another tool in between brings it back.
  for (const name of ['trigger-long-running-operation', 'echo']) await page.getByText(name, { exact: true }).first().click();
  await page.getByLabel('message').first().fill(message);
  await page.getByRole('button', { name: 'Execute Tool' }).click();
  await page.getByText(`Echo: ${message}`).first().waitFor();
}

async function startInspector() {
  const program = inspector.start('web', ['--server-url', MCP_URL, '--transport', 'http', '--protocol-era', era], {
    CLIENT_PORT: String(await freePort()), MCP_SANDBOX_PORT: String(await freePort()), MCP_APP_ORIGIN_PORT: String(await freePort()),
    HOST: '127.0.0.1', MCP_AUTO_OPEN_ENABLED: 'false',
  });
  const [url] = await printed(program, /http:\S+MCP_INSPECTOR_API_TOKEN=\w+/, 30);
  return url;
}

/** The client id, from what the Inspector keeps. */
function clientId() {
  const files = readdirSync(inspector.home).filter((name) => name.endsWith('.json'));
  return files.map((name) => readFileSync(path.join(inspector.home, name), 'utf8')).join('\n').match(/mgc_[\w-]+/)?.[0];
}

await main(async () => {
  check(era === 'auto' || era === 'legacy', 'say auto or legacy');
  const url = await step('it starts', 40, startInspector);
  const context = await chromium.launchPersistentContext(temporaryDirectory(), {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGUMENTS, viewport: { width: 1400, height: 900 },
  });
  context.setDefaultTimeout(15_000);
  const page = context.pages()[0] ?? await context.newPage();
  page.on('request', (request) => { if (request.url().startsWith(`${gateway}/authorize?`)) authorizations += 1; });
  try {
    await step('a click on the switch leads to the sign-in', 40, async () => {
      await page.goto(url);
      await page.getByRole('switch', { name: /^Connect or disconnect/ }).click({ force: true });
      await page.waitForURL(`${gateway}/**`);
      await page.getByLabel('Username').fill(PERSON.username);
      await page.getByLabel('Password').fill(PERSON.password);
      await page.getByRole('button', { name: 'Sign in' }).click();
    });
    await step('the consent page names the Inspector, and allowing it leads back, connected', 40, async () => {
      await page.waitForURL(`${gateway}/consent**`);
      const text = await page.locator('main').innerText();
      check(text.includes('MCP Inspector') && text.includes(new URL(url).host), text);
      await page.locator('button[name=decision][value=approve]').click();
      await page.waitForURL(`${new URL(url).origin}/**`);
      await page.getByText('Connected', { exact: true }).first().waitFor();
    });
    console.log(`CLIENT ${clientId()}`);
    await step('the tools of the server are listed', 20, async () => {
      await page.getByText('Tools', { exact: true }).first().click();
      for (const name of ['echo', 'trigger-long-running-operation']) await page.getByText(name, { exact: true }).first().waitFor();
    });
    await step('a tool answers', 30, () => execute(page, GREETING));
    await step('an expired token is refreshed without the person', 40, async () => {
      await sleep(TOKEN_SECONDS + 1);
      await execute(page, 'after the token expired');
      check(authorizations === 1, `${authorizations} authorization requests`);
    });
    await step(`the gateway restarts after ${RESTART}, and the page goes on without the person`, 70, async () => {
      await restartGateway();
      await sleep(TOKEN_SECONDS + 1);
      await execute(page, 'after the restart');
      check(authorizations === 1, `${authorizations} authorization requests`);
    });
  } catch (error) {
    console.log(`at ${page.url().split('?')[0]}: ${await page.locator('body').innerText().catch(() => 'no page')}`);
    throw error;
  } finally {
    await context.close();
  }
});
