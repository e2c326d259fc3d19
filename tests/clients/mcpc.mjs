// mcpc, a client for the command line: `login` opens the browser, and a process of its own keeps the session.

import { existsSync } from 'node:fs';
import path from 'node:path';
import { MCP_URL, RESTART, TOKEN_SECONDS, restartGateway } from './lib/conversation.mjs';
import { Desktop } from './lib/desktop.mjs';
import { client } from './lib/places.mjs';
import { start, temporaryDirectory } from './lib/processes.mjs';
import { check, main, sleep, step } from './lib/report.mjs';

const { CLIENT_DOCUMENT } = process.env;
const GREETING = 'grüße, 世界';
const SESSION = '@tested';
const home = temporaryDirectory();
const desktop = new Desktop(home);
const program = client('node_modules/@apify/mcpc/bin/mcpc');

/** Its own process has five seconds to start, which it may miss on a busy machine: then it is given them again. */
const IMPATIENT = /socket file not created within timeout/;
const TRIES = 6;

async function mcpc(...args) {
  for (let tries = 1; ; tries += 1) {
    const { code, output } = await once(...args);
    if (code === 0) return output;
    check(tries < TRIES && IMPATIENT.test(output), `mcpc ${args.join(' ')} ended with ${code}: ${output}`);
  }
}

async function once(...args) {
  const running = start(process.execPath, [program, '--json', ...args], { env: { ...desktop.environment, MCPC_HOME_DIR: home } });
  const { code } = await running.exited;
  return { code, output: running.output };
}

async function echo(message) {
  const said = await mcpc(SESSION, 'tools-call', 'echo', `message:=${JSON.stringify(message)}`);
  check(said.includes(message), `unexpected result: ${said}`);
}

/** By then the access token is over, so that an answer takes another one. */
async function renewed(message) {
  await sleep(TOKEN_SECONDS + 1);
  await echo(message);
  desktop.checkOnce();
}

await main(async () => {
  try {
    const said = await step('login opens the browser, which leads to tokens', 40, () =>
      mcpc('login', MCP_URL, ...(CLIENT_DOCUMENT ? ['--client-metadata-url', CLIENT_DOCUMENT] : [])));
    desktop.checkOnce();
    console.log(`CLIENT ${CLIENT_DOCUMENT ?? said.match(/client_id=(mgc_[\w-]+)/)?.[1]}`);
    await step('connect starts a session', 150, () => mcpc('connect', MCP_URL, SESSION));
    await step('tools/list names the tools of the server', 20, async () => {
      const tools = await mcpc(SESSION, 'tools-list');
      for (const name of ['echo', 'trigger-long-running-operation']) check(tools.includes(`"${name}"`), `no ${name} in ${tools}`);
    });
    await step('tools/call answers', 20, () => echo(GREETING));
    await step('an expired token is refreshed without the person', 40, () => renewed('after the token expired'));
    // While the gateway is away it takes a failed refresh for a refusal and asks for its own restart.
    await step(`the gateway restarts after ${RESTART}, then the session does, and the person is not needed`, 200, async () => {
      await restartGateway();
      await mcpc(SESSION, 'restart');
      await renewed('after the restart');
    });
    await step('the session is ended', 20, () => mcpc(SESSION, 'close'));
  } finally {
    if (existsSync(path.join(home, 'sessions.json'))) await mcpc('clean', 'all').catch(() => {});
  }
});
