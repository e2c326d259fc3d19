// Starts the gateway in front of a real MCP server and runs a command against it:
//
//   node tests/clients/with-gateway.mjs COMMAND …
//
// The command finds GATEWAY_URL, MCP_URL, USERNAME and PASSWORD in its environment; its exit code is this program's,
// unless the gateway does not stop in order or wrote a secret to its log.

import { spawn } from 'node:child_process';
import { startGateway } from './lib/gateway.mjs';
import { check, describe } from './lib/report.mjs';

const SECONDS = 300;

const [command, ...rest] = process.argv.slice(2);
if (!command) {
  console.error('usage: node with-gateway.mjs COMMAND …');
  process.exit(2);
}
try {
  const gateway = await startGateway();
  const environment = { GATEWAY_URL: gateway.url, MCP_URL: gateway.mcpUrl, USERNAME: gateway.username, PASSWORD: gateway.password };
  const child = spawn(command, rest, { stdio: 'inherit', env: { ...process.env, ...environment } });
  process.on('exit', () => child.kill('SIGKILL'));
  const late = setTimeout(() => child.kill('SIGTERM'), SECONDS * 1000);
  const how = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal }));
  });
  clearTimeout(late);
  const end = await gateway.stop();
  if (how.code !== 0) {
    console.log(gateway.log().split('\n').filter((line) => !/ (DEBUG|TRACE) /.test(line)).slice(-30).join('\n'));
    throw new Error(`${command} ended with ${how.signal ?? how.code}`);
  }
  check(end.code === 0, `the gateway ended with ${end.signal ?? end.code}`);
  const leaks = gateway.leaks();
  check(leaks.length === 0, `${leaks.length} secrets in the gateway's log, such as ${leaks[0]?.slice(0, 12)}…`);
  process.exit(0);
} catch (error) {
  console.error(`FAIL ${describe(error)}`);
  process.exit(1);
}
