// Runs unmodified MCP clients through the built gateway to unmodified MCP servers, and checks from outside what each of
// them did and what the server saw. Each run has a gateway of its own, which is stopped and started again in the middle.
//
//   node tests/clients/run.mjs [CLIENT …]
//
// MCPGATE names the program (default: target/debug/mcpgate). tests/setup.sh installs everything else.

import http from 'node:http';
import { Account, conclude, inParallel, runScript } from './lib/account.mjs';
import { TOKEN_SECONDS, startGateway } from './lib/gateway.mjs';
import { client, example, python } from './lib/places.mjs';
import { check, describe } from './lib/report.mjs';
import { startServer } from './lib/servers.mjs';
import { SITE_CERTIFICATE, startSite } from './lib/site.mjs';

const node = (file, ...rest) => [process.execPath, client(file), ...rest];
/** The newest revision that the clients before 2026-07-28 speak. */
const [LEGACY, MODERN] = ['2025-11-25', '2026-07-28'];
/**
 * How to run each client, and in which revision it must have ended up talking to which server. One at a time are those that
 * listen for the browser on a port which they do not choose freely.
 */
const CLIENTS = {
  'typescript-1': { command: node('typescript-1.mjs'), everything: LEGACY, modern: LEGACY },
  'typescript-2-legacy': { command: node('typescript-2.mjs', 'legacy'), everything: LEGACY, modern: LEGACY },
  'typescript-2-auto': { command: node('typescript-2.mjs', 'auto'), everything: LEGACY, modern: MODERN },
  'python-1': { command: [python('python-1'), client('python_sdk.py')], everything: LEGACY, modern: LEGACY },
  'python-2': { command: [python('python-2'), client('python_sdk.py')], everything: LEGACY, modern: LEGACY },
  'fastmcp-3': { command: [python('python-1'), client('fastmcp_client.py')], everything: LEGACY, modern: LEGACY },
  'fastmcp-4': { command: [python('python-2'), client('fastmcp_client.py')], everything: LEGACY, modern: MODERN },
  'mcp-remote': { command: node('mcp-remote.mjs'), everything: LEGACY, modern: LEGACY },
  mcpc: { command: node('mcpc.mjs'), everything: LEGACY, modern: LEGACY, oneAtATime: true },
  'rmcp-legacy': { command: [example('client-rmcp'), 'legacy'], everything: LEGACY, modern: LEGACY },
  'rmcp-auto': { command: [example('client-rmcp'), 'auto'], everything: LEGACY, modern: MODERN },
  'inspector-cli-legacy': { command: node('inspector-cli.mjs', 'legacy'), everything: LEGACY, modern: LEGACY },
  'inspector-cli-auto': { command: node('inspector-cli.mjs', 'auto'), everything: LEGACY, modern: MODERN },
  'inspector-web': { command: node('../browser/inspector-web.mjs', 'auto'), everything: LEGACY, modern: MODERN },
  'a page in a browser': { command: node('../browser/single-page.mjs') },
  'a browser and a strict server': { command: node('strict-server.mjs') },
  'the transport of 2024-11-05': { command: node('old-transport.mjs') },
  demo: { command: node('demo.mjs') },
};
/** These also connect as clients whose id is the address of a document, and register nowhere. */
const WITH_DOCUMENT = ['typescript-1', 'typescript-2-auto', 'python-1', 'python-2', 'fastmcp-4', 'mcpc', 'rmcp-auto', 'inspector-cli-auto'];
const DOCUMENT = {
  client_name: 'A client with a document',
  redirect_uris: ['127.0.0.1', 'localhost'].flatMap((host) => [`http://${host}/callback`, `http://${host}/oauth/callback`]),
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  token_endpoint_auth_method: 'none',
};
/** One restart in order, and one as by a crash. */
const RESTARTS = { everything: 'SIGTERM', modern: 'SIGKILL' };
const CLIENT_SECONDS = 300;
/** Clients mostly wait: for tokens to expire and for the gateway to restart. */
const AT_ONCE = 6;
/** How long the gateway may take to stop when nobody is connected any more. */
const STOP_SECONDS = 5;

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in CLIENTS));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}; there are: ${Object.keys(CLIENTS).join(', ')}`);
  process.exit(2);
}

const since = Date.now();

/** What the gateway counted, all in all. */
function counted(metrics, name, label) {
  return metrics.get(`mcpgate_${name}{${label}}`) ?? 0;
}

/** What reached the MCP server is what the contract promises it, and nothing that it must not see. */
function checkHeaders(requests, { clientId, scope, host }) {
  check(requests.length > 0, 'no request reached the server');
  const ids = new Set();
  const users = new Set();
  for (const { method, headers, raw } of requests) {
    const where = `${method} ${headers['mcp-method'] ?? ''}`.trim();
    for (const name of ['authorization', 'cookie', 'origin', 'proxy-authorization']) {
      check(!(name in headers), `${where} carried ${name} to the server`);
    }
    const expected = {
      host,
      'x-forwarded-preferred-username': 'ada',
      'x-forwarded-email': 'ada@example.com',
      'x-forwarded-groups': 'engineering',
      'x-forwarded-client-id': clientId,
    };
    for (const [name, value] of Object.entries(expected)) {
      check(headers[name] === value, `${where}: ${name} is ${headers[name]}, not ${value}`);
    }
    const scopes = (headers['x-forwarded-scope'] ?? '').split(' ');
    check(scopes.includes(scope), `${where}: x-forwarded-scope is ${headers['x-forwarded-scope']}`);
    for (const name of ['x-forwarded-user', 'x-forwarded-client-id', 'x-forwarded-scope', 'x-request-id', 'x-forwarded-for']) {
      const times = raw.filter((field, at) => at % 2 === 0 && field.toLowerCase() === name).length;
      check(times === 1, `${where}: ${times} times ${name}`);
    }
    check(headers['x-forwarded-user'], `${where}: no x-forwarded-user`);
    users.add(headers['x-forwarded-user']);
    check(!ids.has(headers['x-request-id']), `${where}: its x-request-id was another request's`);
    ids.add(headers['x-request-id']);
  }
  check(users.size === 1, `one person was forwarded as ${[...users].join(' and ')}`);
}

/** The client and the server found the revision that both speak. */
function checkRevision(requests, revision) {
  const spoken = requests.map(({ headers }) => headers['mcp-protocol-version']).filter(Boolean);
  check(spoken.at(-1) === revision, `the last request was in ${spoken.at(-1)}`);
  const sessions = requests.filter(({ headers }) => 'mcp-session-id' in headers).length;
  const discovered = requests.some(({ headers }) => headers['mcp-method'] === 'server/discover');
  if (revision === MODERN) {
    check(discovered, 'the server was not asked by server/discover');
    check(sessions === 0, `${sessions} requests of a session, which this revision does not have`);
  } else {
    check(sessions > 0, 'no request of a session');
  }
}

/** One request from outside can restart the gateway. */
async function startControl(gateway) {
  const server = http.createServer(async (request, answer) => {
    const [, signal] = request.url.match(/^\/restart\/(SIGTERM|SIGKILL)$/) ?? [];
    try {
      check(request.method === 'POST' && signal, `${request.method} ${request.url}`);
      await gateway.restart(signal);
      answer.writeHead(204).end();
    } catch (error) {
      answer.writeHead(500).end(describe(error));
    }
  });
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, stop: () => server.closeAllConnections() ?? server.close() };
}

async function converse(name, server, account, document) {
  const configure = (configuration) => { configuration.outbound = { ca: SITE_CERTIFICATE }; };
  const gateway = await startGateway({ servers: [server], configure });
  const control = await startControl(gateway);
  const { ok, clientId } = await runScript(account, CLIENTS[name].command, {
    MCP_URL: gateway.mcpUrl,
    SIGN_IN_USERNAME: gateway.username,
    SIGN_IN_PASSWORD: gateway.password,
    TOKEN_SECONDS: String(TOKEN_SECONDS),
    CONTROL_URL: control.url,
    RESTART: RESTARTS[server.name],
    ...(document ? { CLIENT_DOCUMENT: document } : {}),
  }, CLIENT_SECONDS);
  if (ok) {
    // Spec: I6, K18, K19
    await account.judge('the server saw who called, and no credentials', () =>
      checkHeaders(gateway.seen, { clientId, scope: `${server.name}:use`, host: gateway.upstreamHost }));
    const revision = CLIENTS[name][server.name];
    // Spec: K2, K5, K6
    await account.judge(`they speak ${revision}`, () => checkRevision(gateway.seen, revision));
    // Over the restart: a client that had to begin anew would have counted twice.
    // Spec: C10, F13, L11
    const registrations = document ? 'no registration' : 'one registration';
    await account.judge(`${registrations}, one sign-in, one code, and refreshes`, async () => {
      const metrics = await gateway.metrics();
      check(counted(metrics, 'registrations_total', 'kind="dynamic"') === (document ? 0 : 1), 'registrations_total{kind="dynamic"}');
      check(!document || clientId === document, `the client is ${clientId}`);
      const exactly = [['logins_total', 'outcome="success",provider="builtin"'],
        ['tokens_issued_total', 'grant="authorization_code"']];
      for (const [metric, label] of exactly) {
        const times = counted(metrics, metric, label);
        check(times === 1, `${metric}{${label}} went up by ${times}`);
      }
      const refreshes = counted(metrics, 'tokens_issued_total', 'grant="refresh_token"');
      check(refreshes >= 2, `tokens_issued_total{grant="refresh_token"} went up by ${refreshes}`);
    });
  } else {
    account.noteLog(gateway);
  }
  control.stop();
  await account.judge(`SIGTERM ends the gateway with 0 within ${STOP_SECONDS} s`, async () => {
    const how = await gateway.stop();
    check(how.code === 0, `it ended with ${how.signal ?? how.code}`);
    check(how.seconds < STOP_SECONDS, `it took ${how.seconds.toFixed(1)} s`);
  });
  await account.judgeLog(gateway);
}

const turns = new Map();

async function run(item) {
  if (!CLIENTS[item.name].oneAtATime) return runOne(item);
  const before = turns.get(item.name);
  const turn = Promise.resolve(before).then(() => runOne(item));
  turns.set(item.name, turn);
  return turn;
}

async function runOne({ name, server, document }) {
  const who = document ? `${name} with a document` : name;
  const account = new Account(server ? `${who} → ${server.name}` : who);
  try {
    if (server) await converse(name, server, account, document);
    else await runScript(account, CLIENTS[name].command, {}, CLIENT_SECONDS);
  } catch (error) {
    account.fail('rig', describe(error));
  }
  account.print();
}

const selected = wanted.length > 0 ? wanted : Object.keys(CLIENTS);
const servers = await Promise.all(Object.keys(RESTARTS).map(startServer));
const runs = selected.flatMap((name) => {
  const its = servers.filter((server) => CLIENTS[name][server.name]);
  return its.length > 0 ? its.map((server) => ({ name, server })) : [{ name }];
});
const site = await startSite(DOCUMENT);
const modern = servers.find(({ name }) => name === 'modern');
runs.push(...WITH_DOCUMENT.filter((name) => selected.includes(name)).map((name) => ({ name, server: modern, document: site.document })));
// The restart in order takes longest, as streams are given time to end: so those runs come first.
runs.sort((a, b) => (RESTARTS[b.server?.name] ?? '').localeCompare(RESTARTS[a.server?.name] ?? ''));
await inParallel(AT_ONCE, runs, run);
await Promise.all(servers.map((server) => server.stop()));
site.stop();
conclude('real clients', since);
