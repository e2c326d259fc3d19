// The official conformance suite in its mode for servers: every requirement set, against real servers directly and through
// the gateway, scenario by scenario and check by check. Most servers fail some checks; what counts is that the gateway
// changes no result.
//
//   node tests/judges/server-conformance.mjs [SERVER …]
//
// The gateway comes twice: as it is configured by default, and with every feature of the data plane switched on and
// allowing everything (FEATURES). MCPGATE names the program; tests/setup.sh installs everything else.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Account, conclude, inParallel } from '../clients/lib/account.mjs';
import { PROGRAM, TESTS, example, node22, python } from '../clients/lib/places.mjs';
import { freePort, printed, start, stop, temporaryDirectory } from '../clients/lib/processes.mjs';
import { check, describe } from '../clients/lib/report.mjs';
import { startServer } from '../clients/lib/servers.mjs';
import { CERTIFICATE, FEATURES } from './features.mjs';
import { startShim } from './shim.mjs';

const SUITE = path.join(TESTS, 'judges/node_modules/@modelcontextprotocol/conformance/dist/index.js');
const fixture = (file) => path.join(TESTS, 'judges/servers', file);

/** Servers of the suite's fixture tools, each made with an official SDK; they print where they listen. */
const fixtures = {
  'python-1': (port) => [python('python-1'), [fixture('python.py'), String(port)]],
  'python-2': (port) => [python('python-2'), [fixture('python.py'), String(port)]],
  'typescript-2': (port) => [node22(), [fixture('typescript.mjs'), String(port)]],
  rmcp: (port) => [example('judge-rmcp'), [String(port)]],
};
const SERVERS = Object.fromEntries([
  ['everything', () => startServer('everything')],
  ...Object.entries(fixtures).map(([name, command]) => [name, async () => {
    const port = await freePort();
    const server = start(...command(port));
    await printed(server, /listening on|Uvicorn running on/i, 30);
    return { name, port, stop: () => stop(server, 5) };
  }]),
]);

/**
 * The requirement sets, and everything there is; at least so many scenarios each, and so many checks that a server passes
 * directly: two servers that both answer nothing would agree, too.
 */
const SETS = [
  { name: '2025-11-25', args: ['--requirements', '2025-11-25'], atLeast: 33, passed: { everything: 45, 'python-1': 58, 'python-2': 65, 'typescript-2': 78, rmcp: 60 } },
  { name: '2026-07-28', args: ['--requirements', '2026-07-28'], atLeast: 50, passed: { everything: 10, 'python-1': 50, 'python-2': 125, 'typescript-2': 150, rmcp: 95 } },
  { name: 'all', args: ['--suite', 'all'], atLeast: 65, passed: { everything: 55, 'python-1': 90, 'python-2': 150, 'typescript-2': 185, rmcp: 135 } },
];
/** Each scenario has an end of its own; this is for a suite that hangs. */
const SUITE_SECONDS = 300;
/** What the gateway does itself, so that a server which fails it directly passes through the gateway. Never the reverse. */
const STRICTER = {
  'localhost-host-rebinding-rejected': 'a foreign Host or Origin is refused by the gateway, whatever is behind it',
};

const since = Date.now();
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in SERVERS));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}; there are: ${Object.keys(SERVERS).join(', ')}`);
  process.exit(2);
}

/** A gateway in front of all servers, reached through a shim that adds the tokens. */
async function startGateway(servers, features) {
  const directory = temporaryDirectory();
  const [port, admin, shimPort] = [await freePort(), await freePort(), await freePort()];
  const secret = 'a-secret-of-the-judges-that-is-long-enough';
  const configuration = {
    // Where clients look for it: the shim changes neither Host nor Origin.
    public_url: `http://127.0.0.1:${shimPort}`,
    listen: `127.0.0.1:${port}`,
    admin: { listen: `127.0.0.1:${admin}` },
    store: { sled: { path: path.join(directory, 'data') } },
    oauth: { clients: [{ client_id: 'suite', client_secret: secret, grant_types: ['client_credentials'], redirect_uris: ['http://127.0.0.1/callback'] }] },
    users: [{ username: 'nobody', password_hash: '$argon2id$v=19$m=19456,t=2,p=1$saSKtCUxgrqI1gLOKTbpOA$9kajQeEbOji1LH6rngH5QHWmslik9+Y4s9wKyAK4wm8' }],
    upstreams: servers.map((server) => ({ name: server.name, path: `/${server.name}/mcp`, url: `http://127.0.0.1:${server.port}/mcp` })),
  };
  const ends = [];
  for (const feature of features) ends.push(await feature.switchOn(configuration));
  const encrypted = Array.isArray(configuration.listen) && configuration.listen.some(({ tls }) => tls);
  const file = path.join(directory, 'gateway.yaml');
  writeFileSync(file, JSON.stringify(configuration, undefined, 2));
  const program = start(PROGRAM, ['serve', '-c', file]);
  await printed(program, /listening on/, 20);
  const tokens = {};
  const shim = await startShim(shimPort, port, (target) => tokens[target.split('?')[0]], { ca: encrypted ? readFileSync(CERTIFICATE) : undefined });
  for (const { path: at } of configuration.upstreams) {
    const answer = await fetch(`${configuration.public_url}/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${btoa(`suite:${secret}`)}` },
      body: new URLSearchParams({ grant_type: 'client_credentials', resource: `${configuration.public_url}${at}` }),
    });
    check(answer.ok, `no token for ${at}: ${answer.status} ${await answer.clone().text()}`);
    tokens[at] = (await answer.json()).access_token;
  }
  return {
    urlOf: (name) => `${configuration.public_url}/${name}/mcp`,
    log: () => program.output,
    async stop() {
      await shim.stop();
      const how = await stop(program, 40);
      for (const end of ends) end?.();
      return how;
    },
  };
}

/** Runs one set against a URL: the checks of each scenario, in an order of their own. */
async function judge(url, { name, args, atLeast }) {
  const directory = path.join(temporaryDirectory(), 'results');
  mkdirSync(directory);
  const program = start(node22(), [SUITE, 'server', '--url', url, ...args, '-o', directory], { cwd: directory });
  const late = setTimeout(() => program.child.kill('SIGKILL'), SUITE_SECONDS * 1000);
  const how = await program.exited;
  clearTimeout(late);
  check(how.code === 0 || how.code === 1, `the suite ended with ${how.error?.message ?? how.signal ?? how.code}: ${program.output.slice(-500)}`);
  const scenarios = new Map();
  for (const entry of readdirSync(directory)) {
    const scenario = entry.replace(/^server-/, '').replace(/-\d{4}-\d\d-\d\dT[\d-]+Z$/, '');
    check(!scenarios.has(scenario), `${scenario} ran twice in ${name}`);
    const file = path.join(directory, entry, 'checks.json');
    // A scenario that gives up before its first check leaves an empty directory; it has to do so both times.
    const checks = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : [{ id: 'gave-up', status: 'FAILURE' }];
    scenarios.set(scenario, checks.map(essence).sort((a, b) => (text(a) < text(b) ? -1 : 1)));
  }
  check(scenarios.size >= atLeast, `only ${scenarios.size} scenarios of ${name}: ${program.output.slice(-500)}`);
  return scenarios;
}

const text = (value) => JSON.stringify(value);

/** What a check says, without what differs between two runs against the very same server. */
function essence({ id, name, status, errorMessage, details }) {
  return { id, name, status, errorMessage: plain(errorMessage), details: plain(details) };
}

/** Of a head, these are the gateway's or the connection's, and no part of what a server says. */
const HEADERS = /^(date|connection|keep-alive|transfer-encoding|server|x-powered-by|x-request-id|vary|access-control-.*)$/;

function plain(value, key = '') {
  if (typeof value === 'string') {
    return value
      .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(Z|[+-]\d\d:\d\d)/g, '<time>')
      .replace(/[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}(_\d+)?(\.[\w-]{43})?/gi, '<id>')
      .replace(/127\.0\.0\.1:\d+(\/[\w-]+)?(?=\/mcp)/g, '<server>')
      .replace(/127\.0\.0\.1:\d+/g, '<server>')
      .replace(/\b\d+(\.\d+)? ?ms\b/g, '<time>')
      // Which of several requests at once came first.
      .replace(/^\d+\/\d+$/, '<event>')
      // What a server signs holds the time.
      .replace(/\bv1\.[\w-]{20,}\.[\w-]{20,}/g, '<signed>');
  }
  // The suite takes the time for a request's id, too.
  if (typeof value === 'number' && value > 1e12) return '<time>';
  // How many messages came before the scenario was over also depends on timers of the server's.
  if (typeof value === 'number' && /time|elapsed|duration|delay|Ms$|^messagesValidated$/.test(key)) return '<number>';
  if (Array.isArray(value)) return value.map((item) => plain(item, key));
  if (value && typeof value === 'object') {
    const kept = Object.entries(value).filter(([own]) => !(key === 'headers' && HEADERS.test(own)));
    return Object.fromEntries(kept.map(([own, item]) => [own, plain(item, own)]));
  }
  return value;
}

/** What differs between two runs of a set: nothing, or a line for each scenario and check. */
function differences(direct, gateway) {
  const found = [];
  for (const scenario of new Set([...direct.keys(), ...gateway.keys()])) {
    const [a, b] = [direct.get(scenario), gateway.get(scenario)];
    if (!a || !b) {
      found.push(`${scenario}: ran only ${a ? 'directly' : 'through the gateway'}`);
      continue;
    }
    const left = a.filter((one) => !(one.id in STRICTER)).map(text);
    const right = b.filter((one) => !(one.id in STRICTER)).map(text);
    const only = (some, others) => some.filter((one) => !others.includes(one));
    const [less, more] = [only(left, right), only(right, left)];
    if (less.length > 0 || more.length > 0 || left.length !== right.length) {
      found.push(`${scenario}:\n  directly            ${less.join('\n                      ')}\n  through the gateway ${more.join('\n                      ')}`);
    }
    for (const own of b.filter((one) => one.id in STRICTER && one.status !== 'SUCCESS')) {
      found.push(`${scenario}: ${own.id} has to pass, as ${STRICTER[own.id]}: ${text(own)}`);
    }
  }
  return found;
}

const count = (scenarios, status) => [...scenarios.values()].flat().filter((one) => one.status === status).length;
const rows = [];

async function run(server, gateways) {
  const account = new Account(server.name);
  for (const set of SETS) {
    try {
      // Side by side: servers under test are stateless towards each other's clients.
      const [direct, ...others] = await Promise.all([`http://127.0.0.1:${server.port}/mcp`, ...gateways.map(({ gateway }) => gateway.urlOf(server.name))].map((url) => judge(url, set)));
      const passed = count(direct, 'SUCCESS');
      check(passed >= set.passed[server.name], `the server itself passes only ${passed} checks`);
      for (const [index, scenarios] of others.entries()) {
        const found = differences(direct, scenarios);
        const what = `${set.name}, ${gateways[index].name}: ${scenarios.size} scenarios, ${[...scenarios.values()].flat().length} checks`;
        if (found.length === 0) account.pass(what);
        else account.fail(what, `not the same as directly:\n${found.join('\n')}`);
        rows.push([server.name, set.name, gateways[index].name, scenarios.size, count(scenarios, 'SUCCESS'), count(scenarios, 'FAILURE'), found.length === 0 ? 'yes' : 'NO']);
      }
    } catch (error) {
      account.fail(set.name, describe(error));
    }
  }
  account.print();
}

const names = wanted.length > 0 ? wanted : Object.keys(SERVERS);
const servers = await Promise.all(names.map((name) => SERVERS[name]()));
const gateways = [
  { name: 'as configured by default', gateway: await startGateway(servers, []) },
  { name: `with ${FEATURES.length} features on`, gateway: await startGateway(servers, FEATURES) },
];
// The slowest first.
const queue = [...servers].sort((one, other) => Number(other.name.startsWith('python')) - Number(one.name.startsWith('python')));
// Spec: K1, K2, K5, K6, K13, K26
await inParallel(2, queue, (server) => run(server, gateways));
for (const { name, gateway } of gateways) {
  const account = new Account(`gateway, ${name}`);
  await account.judge('stops in order', async () => {
    const how = await gateway.stop();
    check(how.code === 0, `it ended with ${how.signal ?? how.code}: ${gateway.log().slice(-1000)}`);
  });
  account.print();
}
await Promise.all(servers.map((server) => server.stop()));
const heads = ['server', 'set', 'gateway', 'scenarios', 'passed', 'failed', 'identical'];
const widths = heads.map((head, column) => Math.max(head.length, ...rows.map((row) => String(row[column]).length)));
rows.sort(([one], [other]) => names.indexOf(one) - names.indexOf(other));
for (const row of [heads, ...rows]) console.log(`  ${row.map((cell, column) => String(cell).padEnd(widths[column])).join('  ')}`);
conclude('server conformance', since);
