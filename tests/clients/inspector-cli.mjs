// The MCP Inspector on the command line: each call is a process of its own, which goes on with what the last one kept.
//
//   node inspector-cli.mjs legacy|auto

import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { MCP_URL, RESTART, TOKEN_SECONDS, restartGateway } from './lib/conversation.mjs';
import { Inspector } from './lib/inspector.mjs';
import { freePort } from './lib/processes.mjs';
import { check, main, sleep, step } from './lib/report.mjs';

const [era] = process.argv.slice(2);
const { CLIENT_DOCUMENT } = process.env;
const GREETING = 'grüße, 世界';
const inspector = new Inspector();
const callback = `http://127.0.0.1:${await freePort()}/oauth/callback`;

async function run(...args) {
  const target = [MCP_URL, '--transport', 'http', '--protocol-era', era, '--callback-url', callback];
  if (CLIENT_DOCUMENT) target.push('--client-metadata-url', CLIENT_DOCUMENT);
  const running = inspector.start('cli', [...target, ...args], { MCP_AUTO_OPEN_ENABLED: 'true' });
  const { code } = await running.exited;
  check(code === 0, `it ended with ${code}: ${running.output}`);
  return running.output;
}

async function echo(message) {
  const said = await run('--method', 'tools/call', '--tool-name', 'echo', '--tool-arg', `message=${message}`);
  check(said.includes(message), `unexpected result: ${said}`);
  inspector.desktop.checkOnce();
}

await main(async () => {
  check(era === 'auto' || era === 'legacy', 'say auto or legacy');
  await step('the first call opens the browser, and tools/list names the tools of the server', 40, async () => {
    const said = await run('--method', 'tools/list');
    for (const name of ['echo', 'trigger-long-running-operation']) check(said.includes(`"${name}"`), `no ${name} in ${said}`);
    inspector.desktop.checkOnce();
  });
  const kept = readdirSync(inspector.home).filter((name) => name.endsWith('.json'));
  const text = kept.map((name) => readFileSync(path.join(inspector.home, name), 'utf8')).join('\n');
  console.log(`CLIENT ${CLIENT_DOCUMENT ?? text.match(/mgc_[\w-]+/)?.[0]}`);
  await step('tools/call answers, from another process', 30, () => echo(GREETING));
  await step('an expired token is refreshed without the person', 40, async () => {
    await sleep(TOKEN_SECONDS + 1);
    await echo('after the token expired');
  });
  await step(`the gateway restarts after ${RESTART}, and the client goes on without the person`, 70, async () => {
    await restartGateway();
    await sleep(TOKEN_SECONDS + 1);
    await echo('after the restart');
  });
});
