// The TypeScript SDK's client, second generation. In its mode `auto` it first asks in the newest protocol revision and
// falls back to the one that the server speaks; in the mode `legacy` it begins with the older one.
//
//   node typescript-2.mjs auto|legacy

import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';
import { MCP_URL, converse, refresh, restart } from './lib/conversation.mjs';
import { Provider } from './lib/provider.mjs';
import { check, main, step } from './lib/report.mjs';

/** This generation remembers which authorization server it began with and refuses another one's code. */
class RememberingProvider extends Provider {
  #discovered = undefined;

  saveDiscoveryState(state) {
    this.#discovered = state;
  }

  discoveryState() {
    return this.#discovered;
  }
}

const [mode] = process.argv.slice(2);

await main(async () => {
  check(mode === 'auto' || mode === 'legacy', 'say auto or legacy');
  const provider = new RememberingProvider(`TypeScript SDK 2 ${mode}`);
  const transport = () => new StreamableHTTPClientTransport(new URL(MCP_URL), { authProvider: provider });
  const client = () => new Client({ name: 'typescript-2', version: '1.0.0' }, { versionNegotiation: { mode } });
  const first = transport();
  await step('a first connection leads to sign-in and consent', 20, async () => {
    const refusal = await client().connect(first).then(() => undefined, (error) => error);
    check(refusal instanceof UnauthorizedError, refusal ? `another error: ${refusal.message}` : 'connected without a token');
    check(provider.callback, 'the browser did not come back');
  });
  await step('the code is redeemed, the issuer matches', 10, async () => {
    await first.finishAuth(provider.callback);
    check(provider.tokens()?.access_token, 'no access token');
  });
  const connected = client();
  const second = transport();
  await step('the client connects', 10, () => connected.connect(second));
  console.log(`CLIENT ${provider.clientInformation().client_id}`);
  // Its callTool has no schema before the options.
  await converse(connected, (tool, options) => connected.callTool(tool, options));
  await refresh(connected, provider);
  await restart(connected, provider);
  await step('the session is ended', 10, async () => {
    await second.terminateSession();
    await connected.close();
  });
});
