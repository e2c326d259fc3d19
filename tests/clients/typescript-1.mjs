// The TypeScript SDK's client, first generation.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { MCP_URL, converse, refresh, restart } from './lib/conversation.mjs';
import { Provider } from './lib/provider.mjs';
import { check, main, step } from './lib/report.mjs';

await main(async () => {
  const provider = new Provider('TypeScript SDK 1');
  const transport = () => new StreamableHTTPClientTransport(new URL(MCP_URL), { authProvider: provider });
  const client = new Client({ name: 'typescript-1', version: '1.0.0' });
  const first = transport();
  await step('a first connection leads to sign-in and consent', 20, async () => {
    const refusal = await client.connect(first).then(() => undefined, (error) => error);
    check(refusal instanceof UnauthorizedError, refusal ? `another error: ${refusal.message}` : 'connected without a token');
    check(provider.callback, 'the browser did not come back');
  });
  await step('the code is redeemed', 10, async () => {
    await first.finishAuth(provider.callback.get('code'));
    check(provider.tokens()?.access_token, 'no access token');
  });
  const second = transport();
  await step('the client connects', 10, () => client.connect(second));
  console.log(`CLIENT ${provider.clientInformation().client_id}`);
  await converse(client);
  await refresh(client, provider);
  await restart(client, provider);
  await step('the session is ended', 10, async () => {
    await second.terminateSession();
    await client.close();
  });
});
