// Servers of revision 2024-11-05 (HTTP+SSE) through the gateway: the first event of the stream says where messages go, and
// has to lead back through the gateway, for both SDKs that still have such servers, and both that have such clients.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { echo } from './lib/conversation.mjs';
import { startGateway } from './lib/gateway.mjs';
import { client, python } from './lib/places.mjs';
import { start } from './lib/processes.mjs';
import { Provider } from './lib/provider.mjs';
import { check, main, sleep, step } from './lib/report.mjs';
import { startServer } from './lib/servers.mjs';

/** Notes where messages are posted to. */
function listening(posted) {
  return (url, options) => {
    if (options?.method === 'POST' && String(url).includes('/mcp')) posted.push(String(url));
    return fetch(url, options);
  };
}

async function connected(url, provider, posted) {
  const transport = () => new SSEClientTransport(new URL(url), { authProvider: provider, fetch: listening(posted) });
  const fresh = () => new Client({ name: 'old', version: '1.0.0' });
  if (!provider.tokens()) {
    const first = transport();
    const refusal = await fresh().connect(first).then(() => undefined, (error) => error);
    check(refusal instanceof UnauthorizedError, refusal ? `another error: ${refusal.message}` : 'connected without a token');
    await first.finishAuth(provider.callback.get('code'));
  }
  const connection = fresh();
  await connection.connect(transport());
  return connection;
}

/** What the gateway says to a message that is posted there. */
async function post(url, provider) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { authorization: `Bearer ${provider.tokens().access_token}`, 'content-type': 'application/json' },
    body: '{"jsonrpc":"2.0","id":99,"method":"ping"}',
  });
  await response.text();
  return response.status;
}

await main(async () => {
  for (const name of ['old', 'old-python']) {
    const server = await startServer(name);
    const gateway = await startGateway({
      servers: [server],
      configure: ({ oauth, upstreams }) => {
        // The stream is the session here, so it would end with its token.
        oauth.access_token_expires_in = '1h';
        upstreams[0].url = upstreams[0].url.replace(/mcp$/, 'sse');
        upstreams[0].keep_alive = '1s';
      },
    });
    const person = { username: gateway.username, password: gateway.password };
    const [ada, other] = [new Provider('One', person), new Provider('Another', person)];
    const [posted, others] = [[], []];
    // Spec: H1, K1, K7
    const one = await step(`${name}: a client of the TypeScript SDK signs in and connects`, 30, () => connected(gateway.mcpUrl, ada, posted));
    await step(`${name}: it calls a tool, also after silence with comments`, 20, async () => {
      await echo(one, 'grüße, 世界');
      await sleep(2.5);
      await echo(one, 'again');
    });
    // Spec: K7
    await step(`${name}: its messages go through the gateway, to the server's own address`, 10, async () => {
      check(posted.length >= 3 && posted.every((url) => url.startsWith(`${gateway.mcpUrl}/message`)), posted.join(' '));
      const seen = gateway.seen.filter(({ method }) => method === 'POST').map(({ url }) => url);
      check(seen.every((url) => /^\/messages?\/?\?session(Id|_id)=[\w-]+$/.test(url)), seen.join(' '));
    });
    // Spec: K10
    await step(`${name}: they are nobody else's`, 30, async () => {
      const two = await connected(gateway.mcpUrl, other, others);
      const before = gateway.seen.length;
      check(await post(posted[0], other) === 404, 'another client posted to the first one\'s session');
      check(await post(posted[0].replace(/&mcpgate=.*/, ''), ada) === 404, 'without its tag an address was good');
      check(await post(posted[0].replace(/session(Id|_id)=[\w-]{4}/, 'session$1=0000'), ada) === 404, 'with another session the tag was good');
      check(gateway.seen.length === before, 'the server saw it');
      await echo(two, 'and the other goes on');
      await two.close();
    });
    await step(`${name}: a client of the Python SDK converses`, 40, async () => {
      const environment = { ...process.env, MCP_URL: gateway.mcpUrl, ACCESS_TOKEN: ada.tokens().access_token };
      const program = start(python('python-1'), [client('old_client.py')], { env: environment });
      const how = await program.exited;
      check(how.code === 0, program.output.slice(-1500));
    });
    // Spec: K3
    await step(`${name}: it ends when its client does`, 10, async () => {
      await one.close();
      for (let tries = 0; ; tries += 1) {
        const open = (await gateway.metrics()).get(`mcpgate_open_streams{upstream="${name}"}`);
        if (open === 0) return;
        check(tries < 50, `${open} streams are still open`);
        await sleep(0.1);
      }
    });
    check((await gateway.stop()).code === 0, 'the gateway did not end in order');
    check(gateway.leaks().length === 0, 'a secret is in the log');
    await server.stop();
  }
});
