// The gateway as it is deployed: the built program with a gateway.yaml of its own, in front of an MCP server that knows
// nothing of OAuth, `@modelcontextprotocol/server-everything`.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort, printed, start, stop } from './processes.mjs';
import { startRecorder } from './recorder.mjs';
import { check } from './report.mjs';

const clients = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const repository = path.resolve(clients, '../..');
const targets = path.resolve(process.env.CARGO_TARGET_DIR ?? path.join(repository, 'target'));
export const PROGRAM = path.resolve(process.env.MCPGATE ?? path.join(targets, 'debug/mcpgate'));
export const TOKEN_SECONDS = 4;
/** What every token, code and secret begins with; none may ever be logged. */
const SECRETS = [/mg[a-z]{2}_[\w-]{8,}/g, /\$argon2id\$/g];

/** Starts the server, the recorder in front of it and the gateway in front of that. */
export async function startGateway() {
  check(existsSync(PROGRAM), `there is no ${PROGRAM}: build it first (cargo build)`);
  const directory = mkdtempSync(path.join(tmpdir(), 'mcpgate-clients-'));
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  const password = randomBytes(12).toString('base64url');

  const [serverPort, port, adminPort] = [await freePort(), await freePort(), await freePort()];
  const script = path.join(clients, 'node_modules/@modelcontextprotocol/server-everything/dist/index.js');
  const server = start(process.execPath, [script, 'streamableHttp'], { env: { ...process.env, PORT: String(serverPort) } });
  await printed(server, /listening on port/i, 20);
  const recorder = await startRecorder(serverPort);

  const url = `http://127.0.0.1:${port}`;
  const file = path.join(directory, 'gateway.yaml');
  writeFileSync(file, configuration({ url, port, adminPort, upstreamPort: recorder.port, directory, hash: hash(password) }));
  const gateway = start(PROGRAM, ['serve', '-c', file], { env: { ...process.env, RUST_LOG: 'debug' } });
  await printed(gateway, /listening on/, 20);

  return {
    url,
    mcpUrl: `${url}/everything/mcp`,
    username: 'ada',
    password,
    seen: recorder.seen,
    log: () => gateway.output,
    metrics: () => metrics(adminPort),
    async stop() {
      const how = await stop(gateway, 30);
      await recorder.stop();
      await stop(server, 5);
      return how;
    },
    leaks() {
      const found = SECRETS.flatMap((pattern) => gateway.output.match(pattern) ?? []);
      if (gateway.output.includes(password)) found.push('the password');
      return found;
    },
  };
}

function configuration({ url, port, adminPort, upstreamPort, directory, hash }) {
  return `public_url: ${url}
listen: 127.0.0.1:${port}
admin: { listen: "127.0.0.1:${adminPort}" }
store: { sled: { path: "${directory}/data" } }
oauth:
  access_token_expires_in: ${TOKEN_SECONDS}s
scopes:
  - { name: "everything:use", description: "Use the tools of the everything server" }
users:
  - { username: ada, password_hash: "${hash}", email: ada@example.com, name: Ada Lovelace, groups: [engineering] }
upstreams:
  - name: everything
    path: /everything/mcp
    url: http://127.0.0.1:${upstreamPort}/mcp
    scopes: ["everything:use"]
`;
}

function hash(password) {
  const made = spawnSync(PROGRAM, ['hash-password'], { input: `${password}\n`, encoding: 'utf8', timeout: 20_000 });
  check(made.status === 0, `hash-password failed: ${made.error?.message ?? made.stderr}`);
  return made.stdout.trim();
}

/** The values of the gateway's metrics, by name and labels as they are printed. */
async function metrics(port) {
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
