// Runs unmodified MCP clients through the built gateway to an unmodified MCP server, one after the other, and checks
// from outside what each of them did and what the server saw.
//
//   node tests/clients/run.mjs [CLIENT …]
//
// MCPGATE names the program (default: target/debug/mcpgate). tests/setup.sh installs everything else.

import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { PROGRAM, TOKEN_SECONDS, startGateway } from './lib/gateway.mjs';
import { start } from './lib/processes.mjs';
import { check, describe } from './lib/report.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const targets = path.resolve(process.env.CARGO_TARGET_DIR ?? path.join(here, '../../target'));
const python = (name) => path.join(targets, 'test-env', name, 'bin/python');
const node = (file) => [process.execPath, path.join(here, file)];
const CLIENTS = {
  'typescript-1': node('typescript-1.mjs'),
  'typescript-2': node('typescript-2.mjs'),
  'python-1': [python('python-1'), path.join(here, 'python_sdk.py')],
  'python-2': [python('python-2'), path.join(here, 'python_sdk.py')],
  fastmcp: [python('python-1'), path.join(here, 'fastmcp_client.py')],
  'mcp-remote': node('mcp-remote.mjs'),
  demo: node('demo.mjs'),
};
const CLIENT_SECONDS = 100;
/** How long the gateway may take to stop when nobody is connected any more. */
const STOP_SECONDS = 5;

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in CLIENTS));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}; there are: ${Object.keys(CLIENTS).join(', ')}`);
  process.exit(2);
}

let passed = 0;
let failed = 0;
const since = Date.now();
const pass = (who, what) => { passed += 1; console.log(`  PASS ${who}: ${what}`); };
const fail = (who, what, why) => { failed += 1; console.log(`  FAIL ${who}: ${what}${why ? `: ${why}` : ''}`); };

async function judge(who, what, work) {
  try {
    await work();
    pass(who, what);
  } catch (error) {
    fail(who, what, describe(error));
  }
}

/** Runs a client's script to its end and counts its lines; returns the client id that it was registered under. */
async function runScript(name, environment) {
  const [command, ...rest] = CLIENTS[name];
  if (!existsSync(command)) {
    fail(name, 'is not installed', 'run tests/setup.sh');
    return undefined;
  }
  let clientId;
  let failures = 0;
  /** What the SDKs print of their own accord is of interest only when something went wrong. */
  const other = [];
  const read = (line) => {
    const [, word, text] = line.match(/^(PASS|FAIL|CLIENT) (.*)$/) ?? [undefined, undefined, line];
    if (word === 'PASS') pass(name, text);
    else if (word === 'FAIL') { failures += 1; fail(name, text); }
    else if (word === 'CLIENT') clientId = text;
    else if (text.trim()) other.push(text);
  };
  const program = start(command, rest, { env: { ...process.env, NODE: process.execPath, ...environment } });
  const late = setTimeout(() => program.child.kill('SIGKILL'), CLIENT_SECONDS * 1000);
  const how = await program.exited;
  clearTimeout(late);
  program.output.split('\n').forEach(read);
  if (how.code !== 0 && failures === 0) fail(name, 'runs to its end', how.error?.message ?? how.signal ?? `exit code ${how.code}`);
  if (failures === 0 && how.code === 0) return clientId;
  other.slice(-40).forEach((line) => console.log(`       ${line}`));
  return undefined;
}

/** What the gateway counted between two readings of its metrics. */
function counted(before, after, name, label) {
  const key = `mcpgate_${name}{${label}}`;
  return (after.get(key) ?? 0) - (before.get(key) ?? 0);
}

/** What reached the MCP server is what the contract promises it, and nothing that it must not see. */
function checkHeaders(requests, clientId) {
  check(requests.length > 0, 'no request reached the server');
  const ids = new Set();
  const users = new Set();
  for (const { method, headers, raw } of requests) {
    const where = `${method} ${headers['mcp-method'] ?? ''}`.trim();
    for (const name of ['authorization', 'cookie', 'origin', 'proxy-authorization']) {
      check(!(name in headers), `${where} carried ${name} to the server`);
    }
    const expected = {
      'x-forwarded-preferred-username': 'ada',
      'x-forwarded-email': 'ada@example.com',
      'x-forwarded-groups': 'engineering',
      'x-forwarded-client-id': clientId,
    };
    for (const [name, value] of Object.entries(expected)) {
      check(headers[name] === value, `${where}: ${name} is ${headers[name]}, not ${value}`);
    }
    const scopes = (headers['x-forwarded-scope'] ?? '').split(' ');
    check(scopes.includes('everything:use'), `${where}: x-forwarded-scope is ${headers['x-forwarded-scope']}`);
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

async function runClient(gateway, name) {
  const begun = Date.now();
  const before = await gateway.metrics();
  const seen = gateway.seen.length;
  const clientId = await runScript(name, {
    MCP_URL: gateway.mcpUrl,
    SIGN_IN_USERNAME: gateway.username,
    SIGN_IN_PASSWORD: gateway.password,
    TOKEN_SECONDS: String(TOKEN_SECONDS),
  });
  if (clientId !== undefined) {
    await judge(name, 'the server saw who called, and no credentials', () => checkHeaders(gateway.seen.slice(seen), clientId));
    await judge(name, 'one registration, one sign-in, one code, and a refresh', async () => {
      const after = await gateway.metrics();
      const exactly = [['registrations_total', 'kind="dynamic"'], ['logins_total', 'outcome="success",provider="builtin"'],
        ['tokens_issued_total', 'grant="authorization_code"']];
      for (const [metric, label] of exactly) {
        const times = counted(before, after, metric, label);
        check(times === 1, `${metric}{${label}} went up by ${times}`);
      }
      const refreshes = counted(before, after, 'tokens_issued_total', 'grant="refresh_token"');
      check(refreshes >= 1, 'tokens_issued_total{grant="refresh_token"} did not go up');
    });
  } else {
    const lines = gateway.log().split('\n').filter((line) => !/ (DEBUG|TRACE) /.test(line));
    console.log(`       the gateway's last lines:\n${lines.slice(-15).map((line) => `         ${line}`).join('\n')}`);
  }
  console.log(`       ${name}: ${((Date.now() - begun) / 1000).toFixed(1)} s`);
}

const selected = wanted.length > 0 ? wanted : Object.keys(CLIENTS);
try {
  const gateway = await startGateway();
  for (const name of selected.filter((name) => name !== 'demo')) await runClient(gateway, name);
  if (selected.includes('demo')) await runScript('demo', {});
  await judge('gateway', `SIGTERM ends it with 0 within ${STOP_SECONDS} s`, async () => {
    const how = await gateway.stop();
    check(how.code === 0, `it ended with ${how.signal ?? how.code}`);
    check(how.seconds < STOP_SECONDS, `it took ${how.seconds.toFixed(1)} s`);
  });
  await judge('gateway', 'no token, code, secret or password in its log', () => {
    check(gateway.log().length > 0, 'the log is empty');
    const leaks = gateway.leaks();
    check(leaks.length === 0, `${leaks.length} of them, such as ${leaks[0]?.slice(0, 12)}…`);
  });
} catch (error) {
  fail('rig', describe(error));
}
console.log(`  real clients took ${((Date.now() - since) / 1000).toFixed(1)} s`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
