// mcpc, a client for the command line: `login` opens the browser, and a process of its own keeps the session.

import { existsSync, readFileSync, readdirSync } from 'node:fs';
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

async function mcpc(...args) {
  const running = start(process.execPath, [program, '--json', ...args], { env: { ...desktop.environment, MCPC_HOME_DIR: home } });
  const { code } = await running.exited;
  check(code === 0, `mcpc ${args.join(' ')} ended with ${code}: ${running.output}`);
  return running.output;
}

/** Gives its own process more than the five seconds that it waits for it, for machines that are busy. */
async function connect(tries = 5) {
  try {
    await mcpc('connect', MCP_URL, SESSION);
  } catch (error) {
    if (tries === 1 || !/not created within timeout/.test(error.message)) throw error;
    await connect(tries - 1);
  }
}

/** What it keeps, all of it: a change in it is a change of tokens. */
function kept() {
  const file = readdirSync(home).find((name) => name.startsWith('credentials'));
  check(file, `no credentials among ${readdirSync(home).join(', ')}`);
  return readFileSync(path.join(home, file), 'utf8');
}

async function echo(message) {
  const said = await mcpc(SESSION, 'tools-call', 'echo', `message:=${JSON.stringify(message)}`);
  check(said.includes(message), `unexpected result: ${said}`);
}

async function renewed(message) {
  const before = kept();
  await sleep(TOKEN_SECONDS + 1);
  await echo(message);
  check(kept() !== before, 'the tokens are the old ones');
  desktop.checkOnce();
}

await main(async () => {
  try {
    await step('login opens the browser, which leads to tokens', 40, async () => {
      await mcpc('login', MCP_URL, ...(CLIENT_DOCUMENT ? ['--client-metadata-url', CLIENT_DOCUMENT] : []));
      desktop.checkOnce();
    });
    console.log(`CLIENT ${CLIENT_DOCUMENT ?? kept().match(/mgc_[\w-]+/)?.[0]}`);
    await step('connect starts a session', 150, () => connect());
    await step('tools/list names the tools of the server', 20, async () => {
      const tools = await mcpc(SESSION, 'tools-list');
      for (const name of ['echo', 'trigger-long-running-operation']) check(tools.includes(`"${name}"`), `no ${name} in ${tools}`);
    });
    await step('tools/call answers', 20, () => echo(GREETING));
    await step('an expired token is refreshed without the person', 40, () => renewed('after the token expired'));
    // While the gateway is away it takes a failed refresh for a refusal and asks for its own restart.
    await step(`the gateway restarts after ${RESTART}, then the session does, and the person is not needed`, 90, async () => {
      await restartGateway();
      await mcpc(SESSION, 'restart');
      await sleep(TOKEN_SECONDS + 1);
      await echo('after the restart');
      desktop.checkOnce();
    });
    await step('the session is ended', 20, () => mcpc(SESSION, 'close'));
  } finally {
    if (existsSync(path.join(home, 'sessions.json'))) await mcpc('clean', 'all').catch(() => {});
  }
});
