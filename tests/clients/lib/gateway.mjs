// The gateway as it is deployed: the built program with a gateway.yaml of its own, in front of MCP servers that know
// nothing of OAuth.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { PROGRAM } from './places.mjs';
import { freePort, printed, start, stop, temporaryDirectory } from './processes.mjs';
import { startRecorder } from './recorder.mjs';
import { check } from './report.mjs';
import { startServer } from './servers.mjs';

export { PROGRAM };
export const TOKEN_SECONDS = 4;
/** What every token, code and secret begins with; none may ever be logged. */
const SECRETS = [/mg[a-z]{2}_[\w-]{8,}/g, /\$argon2id\$/g];
const STOP_SECONDS = 40;

/**
 * Starts a recorder in front of each server and the gateway in front of those.
 *
 * `servers`: what startServer gave, each an upstream at `/<name>/mcp`; without them an everything server is started.
 * `configure`: changes the configuration before it is written. `host`: the loopback address at which it is reached, or
 * localhost.
 */
export async function startGateway({ servers, configure = () => {}, host = '127.0.0.1' } = {}) {
  check(existsSync(PROGRAM), `there is no ${PROGRAM}: build it first (cargo build)`);
  const directory = temporaryDirectory();
  const password = randomBytes(12).toString('base64url');

  const own = servers ? [] : [await startServer('everything')];
  const upstreams = [];
  const recorders = [];
  for (const { name, port } of servers ?? own) {
    const recorder = await startRecorder(port);
    recorders.push(recorder);
    upstreams.push({ name, path: `/${name}/mcp`, url: `http://127.0.0.1:${recorder.port}/mcp`, scopes: [`${name}:use`] });
  }
  const [port, adminPort] = [await freePort(), await freePort()];
  const url = `http://${host}:${port}`;
  const configuration = {
    public_url: url,
    listen: `${host === 'localhost' ? '127.0.0.1' : host}:${port}`,
    admin: { listen: `127.0.0.1:${adminPort}` },
    store: { sled: { path: path.join(directory, 'data') } },
    oauth: { access_token_expires_in: `${TOKEN_SECONDS}s` },
    scopes: upstreams.map(({ name }) => ({ name: `${name}:use`, description: `Use the tools of the ${name} server` })),
    users: [{ username: 'ada', password_hash: hash(password), email: 'ada@example.com', name: 'Ada Lovelace', groups: ['engineering'] }],
    upstreams,
  };
  configure(configuration);
  const file = path.join(directory, 'gateway.yaml');
  // All JSON is YAML.
  writeFileSync(file, JSON.stringify(configuration, undefined, 2));

  let program;
  let earlier = '';
  let counted = new Map();
  const run = async () => {
    program = start(PROGRAM, ['serve', '-c', file], { env: { ...process.env, RUST_LOG: 'debug' } });
    await printed(program, /listening on/, 20);
  };
  await run();
  const output = () => earlier + program.output;
  const metrics = async () => sum(counted, await readMetrics(adminPort));

  return {
    url,
    mcpUrl: `${url}${upstreams[0].path}`,
    mcpUrls: Object.fromEntries(upstreams.map(({ name, path }) => [name, `${url}${path}`])),
    username: 'ada',
    password,
    directory,
    seen: recorders[0].seen,
    /** What the first server has to be called. */
    upstreamHost: `127.0.0.1:${recorders[0].port}`,
    log: output,
    /** The counters, over restarts. */
    metrics,
    /** Ends the gateway and starts it again, with the same files, at the same address. */
    async restart(signal = 'SIGTERM') {
      counted = await metrics();
      const how = await stop(program, STOP_SECONDS, signal);
      earlier = output();
      program.output = '';
      if (signal !== 'SIGKILL') check(how.code === 0, `after ${signal} it ended with ${how.signal ?? how.code}`);
      await run();
      return how;
    },
    async stop() {
      const how = await stop(program, STOP_SECONDS);
      for (const part of [...recorders, ...own]) await part.stop();
      return how;
    },
    leaks() {
      const found = SECRETS.flatMap((pattern) => output().match(pattern) ?? []);
      if (output().includes(password)) found.push('the password');
      return found;
    },
  };
}

function hash(password) {
  const made = spawnSync(PROGRAM, ['hash-password'], { input: `${password}\n`, encoding: 'utf8', timeout: 20_000 });
  check(made.status === 0, `hash-password failed: ${made.error?.message ?? made.stderr}`);
  return made.stdout.trim();
}

function sum(before, now) {
  const all = new Map(before);
  for (const [name, value] of now) all.set(name, (all.get(name) ?? 0) + value);
  return all;
}

/** The values of the gateway's metrics, by name and labels as they are printed. */
async function readMetrics(port) {
  const body = await get(`http://127.0.0.1:${port}/metrics`);
  const lines = body.split('\n').filter((line) => line && !line.startsWith('#'));
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
}

function get(url) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text) => { body += text; }).on('end', () => {
        if (response.statusCode === 200) resolve(body);
        else reject(new Error(`${url}: ${response.statusCode}`));
      }).on('error', reject);
    });
    request.setTimeout(5_000, () => request.destroy(new Error(`${url}: no answer within 5 s`)));
    request.on('error', reject);
  });
}
