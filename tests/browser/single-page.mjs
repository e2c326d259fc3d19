// A client that is a web page: all its requests come from Chromium with an Origin, and it sees of the answers what CORS lets
// it see. What it is made with is oauth4webapi, which refuses what is not as the RFCs have it.

import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { startGateway } from '../clients/lib/gateway.mjs';
import { TESTS } from '../clients/lib/places.mjs';
import { temporaryDirectory } from '../clients/lib/processes.mjs';
import { check, main, step } from '../clients/lib/report.mjs';
import { startServer } from '../clients/lib/servers.mjs';

const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'];
const LIBRARY = path.join(TESTS, 'judges/node_modules/oauth4webapi/build/index.js');

/** Another origin than the gateway's: a page that does nothing by itself, and the library. */
async function startPage() {
  const server = createServer((request, response) => {
    const script = request.url === '/oauth4webapi.js';
    response.writeHead(200, { 'content-type': script ? 'text/javascript' : 'text/html' });
    response.end(script ? readFileSync(LIBRARY) : '<!doctype html><title>A page</title><link rel="icon" href="data:,">');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { origin: `http://127.0.0.1:${server.address().port}`, stop: () => server.closeAllConnections() ?? server.close() };
}

// The functions below are run in the page; `at` says where everything is.

/** From the challenge to a registration; returns the address of the authorization request. */
async function begin(at) {
  const oauth = await import('/oauth4webapi.js');
  const options = { [oauth.allowInsecureRequests]: true };
  const refused = await fetch(at.resource, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' });
  const challenge = refused.headers.get('www-authenticate');
  if (refused.status !== 401 || !challenge?.includes('resource_metadata="')) throw new Error(`the page sees ${refused.status} ${challenge}`);
  const resource = new URL(at.resource);
  // With the header that MCP clients send along, which takes a preflight.
  const headers = new Headers({ 'mcp-protocol-version': '2025-11-25' });
  const metadata = await oauth.processResourceDiscoveryResponse(resource, await oauth.resourceDiscoveryRequest(resource, { headers, ...options }));
  const issuer = new URL(metadata.authorization_servers[0]);
  const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', headers, ...options }));
  const client = await oauth.processDynamicClientRegistrationResponse(await oauth.dynamicClientRegistrationRequest(as, {
    client_name: 'A page', redirect_uris: [`${location.origin}/callback`], token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'],
  }, options));
  const [verifier, state] = [oauth.generateRandomCodeVerifier(), oauth.generateRandomState()];
  sessionStorage.setItem('begun', JSON.stringify({ as, client, verifier, state }));
  const url = new URL(as.authorization_endpoint);
  const parameters = {
    client_id: client.client_id, redirect_uri: `${location.origin}/callback`, response_type: 'code', state, resource: at.resource,
    scope: 'openid profile email everything:use', code_challenge: await oauth.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256',
  };
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  return url.href;
}

/** From the callback to an MCP session, a refresh, the person's data and the end of it all. */
async function goOn(at) {
  const oauth = await import('/oauth4webapi.js');
  const options = { [oauth.allowInsecureRequests]: true };
  const { as, client, verifier, state } = JSON.parse(sessionStorage.getItem('begun'));
  const parameters = oauth.validateAuthResponse(as, client, new URL(location.href), state);
  const first = await oauth.processAuthorizationCodeResponse(as, client,
    await oauth.authorizationCodeGrantRequest(as, client, oauth.None(), parameters, `${location.origin}/callback`, verifier, options));
  const tokens = await oauth.processRefreshTokenResponse(as, client,
    await oauth.refreshTokenGrantRequest(as, client, oauth.None(), first.refresh_token, options));
  const keys = await (await fetch(at.keys)).json();
  if (!(keys.keys?.length > 0)) throw new Error(`no keys: ${JSON.stringify(keys)}`);
  const { email } = await oauth.processUserInfoResponse(as, client, oauth.skipSubjectCheck,
    await oauth.userInfoRequest(as, client, tokens.access_token, options));
  const headers = {
    authorization: `Bearer ${tokens.access_token}`, 'content-type': 'application/json', accept: 'application/json, text/event-stream',
    'mcp-protocol-version': '2025-11-25',
  };
  const send = (message, more = {}) => fetch(at.resource, { method: 'POST', headers: { ...headers, ...more }, body: JSON.stringify({ jsonrpc: '2.0', ...message }) });
  const clientInfo = { name: 'page', version: '1.0.0' };
  const initialized = await send({ id: 1, method: 'initialize', params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo } });
  const session = initialized.headers.get('mcp-session-id');
  await initialized.text();
  await send({ method: 'notifications/initialized' }, { 'mcp-session-id': session });
  const said = await (await send({ id: 2, method: 'tools/call', params: { name: 'echo', arguments: { message: 'grüße' } } }, { 'mcp-session-id': session })).text();
  const ended = await fetch(at.resource, { method: 'DELETE', headers: { ...headers, 'mcp-session-id': session } });
  await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, oauth.None(), tokens.refresh_token, options));
  const after = await send({ id: 3, method: 'ping' });
  return { email, session, said, ended: ended.status, after: after.status, challenge: after.headers.get('www-authenticate') };
}

/** What the page gets of a request that it has no leave for. */
async function peek(url) {
  return fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' }).then(
    (response) => `read an answer: ${response.status}`, (error) => error.name,
  );
}

await main(async () => {
  const server = await startServer('everything');
  const [page, stranger] = [await startPage(), await startPage()];
  const gateway = await startGateway({
    servers: [server],
    configure: (configuration) => {
      delete configuration.oauth.access_token_expires_in;
      configuration.upstreams[0].allowed_origins = [page.origin];
    },
  });
  const at = { resource: gateway.mcpUrl, keys: `${gateway.url}/jwks.json` };
  const context = await chromium.launchPersistentContext(temporaryDirectory(), {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGUMENTS,
  });
  context.setDefaultTimeout(15_000);
  const window = context.pages()[0] ?? await context.newPage();
  try {
    // Spec: A15, H7, K15, K16, K17
    await step('the page reads the challenge, discovers and registers', 30, async () => {
      await window.goto(page.origin);
      const url = await window.evaluate(begin, at);
      await window.goto(url);
    });
    await step('the person signs in and agrees, and is back at the page', 30, async () => {
      await window.getByLabel('Username').fill(gateway.username);
      await window.getByLabel('Password').fill(gateway.password);
      await window.getByRole('button', { name: 'Sign in' }).click();
      await window.locator('button[name=decision][value=approve]').click();
      await window.waitForURL(`${page.origin}/callback?**`);
    });
    // Spec: G3, K14, K15, K16, K17
    await step('the page redeems, refreshes, calls a tool in a session, ends it and revokes', 30, async () => {
      const { email, session, said, ended, after, challenge } = await window.evaluate(goOn, at);
      check(email === 'ada@example.com', `e-mail ${email}`);
      check(session && said.includes('Echo: grüße') && ended === 200, JSON.stringify({ session, said, ended }));
      check(after === 401 && challenge.includes('error="invalid_token"'), `${after} ${challenge}`);
    });
    // Spec: D1, K13, K17
    await step('another page reads nothing of the MCP server, and none reads the pages for people', 30, async () => {
      check(await window.evaluate(peek, `${gateway.url}/login`) === 'TypeError', 'the sign-in page was read');
      check(await window.evaluate(peek, `${gateway.url}/authorize`) === 'TypeError', 'the authorization endpoint was read');
      await window.goto(stranger.origin);
      check(await window.evaluate(peek, at.resource) === 'TypeError', 'a page that is not allowed read an answer');
    });
  } finally {
    await context.close();
    await gateway.stop();
    await server.stop();
    page.stop();
    stranger.stop();
  }
});
