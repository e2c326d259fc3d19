// mcp-remote, as a desktop application uses it: a program that speaks MCP on stdio and does the rest, browser included.

import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { MCP_URL, TOKEN_SECONDS, converse, echo, refresh, restart } from './lib/conversation.mjs';
import { freePort, temporaryDirectory } from './lib/processes.mjs';
import { check, main, sleep, step } from './lib/report.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const home = temporaryDirectory();
const bridge = path.join(here, 'node_modules/mcp-remote/dist/proxy.js');
const browserLog = path.join(home, 'browser.log');

/** What mcp-remote keeps in its own directory. */
function kept(suffix) {
  const files = readdirSync(home, { recursive: true }).filter((name) => name.endsWith(suffix));
  check(files.length === 1, `${files.length} files ${suffix} in mcp-remote's directory`);
  return JSON.parse(readFileSync(path.join(home, files[0]), 'utf8'));
}

const provider = {
  tokens: () => kept('tokens.json'),
  get signIns() {
    return existsSync(browserLog) ? readFileSync(browserLog, 'utf8').trim().split('\n').length : 0;
  },
};

await main(async () => {
  const { DISPLAY, WAYLAND_DISPLAY, XDG_CURRENT_DESKTOP, DESKTOP_SESSION, ...environment } = process.env;
  const port = await freePort();
  const start = () => new StdioClientTransport({
    command: process.execPath,
    args: [bridge, MCP_URL, String(port), '--transport', 'http-only', '--host', '127.0.0.1'],
    // The desktop's browser is what BROWSER names, as long as no desktop says otherwise.
    env: { ...environment, MCP_REMOTE_CONFIG_DIR: home, BROWSER: path.join(here, 'lib/browser'), BROWSER_LOG: browserLog },
    stderr: 'pipe',
  });
  let said = '';
  let client;
  const connect = async () => {
    const transport = start();
    transport.stderr.on('data', (chunk) => { said += chunk; });
    client = new Client({ name: 'desktop', version: '1.0.0' });
    await client.connect(transport, { timeout: 35_000 });
  };
  try {
    await step('the bridge signs in through the browser and connects', 40, async () => {
      await connect();
      check(provider.signIns === 1, `the browser was opened ${provider.signIns} times`);
      check(readFileSync(browserLog, 'utf8').startsWith('back at the client'), readFileSync(browserLog, 'utf8'));
    });
    console.log(`CLIENT ${kept('client_info.json').client_id}`);
    await converse(client);
    await refresh(client, provider);
    await restart(client, provider);
    await step('the bridge ends when its application does', 10, () => client.close());
    await step('another bridge goes on with what is kept, without the person', 40, async () => {
      await sleep(TOKEN_SECONDS + 1);
      await connect();
      await echo(client, 'from another bridge');
      check(provider.signIns === 1, `the browser was opened ${provider.signIns} times`);
      await client.close();
    });
  } catch (error) {
    console.log(said.replace(/^/gm, '  mcp-remote: '));
    if (existsSync(browserLog)) console.log(`  browser: ${readFileSync(browserLog, 'utf8')}`);
    await client?.close().catch(() => {});
    throw error;
  }
});
