// The examples of a sign-in page of the operator's own, in Chromium: a person who is sent there, mistypes, signs in, cancels.

import { createHash, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { startGateway } from '../clients/lib/gateway.mjs';
import { TESTS } from '../clients/lib/places.mjs';
import { freePort, printed, start, stop, temporaryDirectory } from '../clients/lib/processes.mjs';
import { check, main, step } from '../clients/lib/report.mjs';

const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'];
const EXAMPLES = path.join(TESTS, '../examples/login-page');
const PAGES = {
  node: ['node', [path.join(EXAMPLES, 'node/server.mjs')]],
  python: ['python3', [path.join(EXAMPLES, 'python/server.py')]],
};

/** Where codes arrive. */
async function startApp() {
  const server = createServer((request, response) => response.end('<!doctype html><title>The app</title><link rel="icon" href="data:,">'));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { redirect: `http://127.0.0.1:${server.address().port}/callback`, stop: () => server.closeAllConnections() ?? server.close() };
}

async function post(url, body, headers = {}) {
  const response = await fetch(url, { method: 'POST', body, headers });
  check(response.ok, `${url}: ${response.status} ${await response.clone().text()}`);
  return response.json();
}

await main(async () => {
  const app = await startApp();
  const context = await chromium.launchPersistentContext(temporaryDirectory(), {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGUMENTS,
  });
  context.setDefaultTimeout(15_000);
  try {
    for (const [name, [command, args]] of Object.entries(PAGES)) {
      const [port, secret] = [await freePort(), randomBytes(24).toString('base64url')];
      const gateway = await startGateway({
        configure: (configuration) => {
          configuration.oauth.login_page = { url: `http://127.0.0.1:${port}/sign-in`, secret };
        },
      });
      const page = start(command, args, { env: { ...process.env, PORT: `${port}`, MCPGATE_URL: gateway.url, LOGIN_SECRET: secret } });
      await printed(page, /listening on/, 20);
      const json = { 'content-type': 'application/json' };
      const client = await post(`${gateway.url}/register`, JSON.stringify({
        client_name: 'A test of pages', redirect_uris: [app.redirect], token_endpoint_auth_method: 'none',
      }), json);
      const verifier = randomBytes(32).toString('base64url');
      const query = new URLSearchParams({
        response_type: 'code', client_id: client.client_id, redirect_uri: app.redirect, resource: gateway.mcpUrl, state: 's',
        code_challenge: createHash('sha256').update(verifier).digest('base64url'), code_challenge_method: 'S256',
      });
      const window = await context.newPage();
      // Spec: E9
      await step(`${name}: who cancels is sent back to the app with an error`, 30, async () => {
        await window.goto(`${gateway.url}/authorize?${query}`);
        check(window.url().startsWith(`http://127.0.0.1:${port}/sign-in?login_challenge=`), window.url());
        await window.getByRole('button', { name: 'Cancel' }).click();
        await window.waitForURL(`${app.redirect}?**`);
        check(new URL(window.url()).searchParams.get('error') === 'access_denied', window.url());
      });
      // Spec: E1, E9
      await step(`${name}: who signs in is asked for consent, and known to the server behind`, 30, async () => {
        await window.goto(`${gateway.url}/authorize?${query}`);
        check((await window.textContent('main')).includes('A test of pages'), 'the page does not say who asks');
        await window.getByLabel('Name').fill('ada');
        await window.getByLabel('Password').fill('wrong');
        await window.getByRole('button', { name: 'Sign in' }).click();
        check((await window.textContent('[role=alert]')).includes('wrong'), 'a wrong password was taken');
        await window.getByLabel('Name').fill('ada');
        await window.getByLabel('Password').fill('engine');
        await window.getByRole('button', { name: 'Sign in' }).click();
        check((await window.textContent('main')).includes('Ada Lovelace'), 'the consent page does not say as whom');
        await window.locator('button[name=decision][value=approve]').click();
        await window.waitForURL(`${app.redirect}?**`);
        const tokens = await post(`${gateway.url}/token`, new URLSearchParams({
          grant_type: 'authorization_code', client_id: client.client_id, redirect_uri: app.redirect,
          code: new URL(window.url()).searchParams.get('code'), code_verifier: verifier, resource: gateway.mcpUrl,
        }));
        await fetch(gateway.mcpUrl, {
          method: 'POST',
          headers: { ...json, authorization: `Bearer ${tokens.access_token}`, accept: 'application/json, text/event-stream' },
          body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'ping' }),
        });
        const seen = gateway.seen.at(-1)?.headers ?? {};
        check(seen['x-forwarded-user'] === 'user-1' && seen['x-forwarded-groups'] === 'engineering', JSON.stringify(seen));
      });
      await window.close();
      await stop(page, 10);
      const end = await gateway.stop();
      check(end.code === 0 && gateway.leaks().length === 0, `${name}: the gateway ended with ${end.code}, or wrote a secret to its log`);
      check(!gateway.log().includes(secret), 'the page\'s secret is in the log');
    }
  } finally {
    await context.close();
    app.stop();
  }
});
