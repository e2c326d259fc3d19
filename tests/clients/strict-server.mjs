// A server that answers 421 to a foreign Host and 403 to a foreign Origin, as the Python SDK's does: it must see its own Host
// and no Origin, whatever name the gateway has and whichever page calls it.

import http from 'node:http';
import { startGateway } from './lib/gateway.mjs';
import { check, main, step } from './lib/report.mjs';
import { startServer } from './lib/servers.mjs';
import { initialize, signIn } from './lib/tokens.mjs';

const PAGE = 'https://inspector.example.com';

/** What the server itself says to a request under another name. */
function status(port, headers) {
  const all = { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers };
  return new Promise((resolve, reject) => {
    const request = http.request({ host: '127.0.0.1', port, path: '/mcp', method: 'POST', headers: all, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    request.on('error', reject);
    request.end('{"jsonrpc":"2.0","id":1,"method":"ping"}');
  });
}

await main(async () => {
  const server = await startServer('modern');
  const gateway = await startGateway({
    servers: [server],
    // Loopback, too, but no name that the server knows.
    host: '127.0.0.2',
    configure: ({ upstreams }) => { upstreams[0].allowed_origins = [PAGE]; },
  });
  const name = new URL(gateway.url).host;
  await step('the server refuses the name of the gateway, and pages', 10, async () => {
    const [host, origin] = [await status(server.port, { host: name }), await status(server.port, { origin: PAGE })];
    check(host === 421 && origin === 403, `${host} and ${origin}`);
  });
  const tokens = await step('a client signs in', 20, () => signIn(gateway));
  // Spec: K13, K14, K16, K19
  await step('through the gateway it answers programs and the pages that are allowed', 10, async () => {
    for (const headers of [{}, { origin: PAGE }, { origin: gateway.url }]) {
      const response = await initialize(gateway, tokens.access_token, headers);
      check(response.status === 200, `${JSON.stringify(headers)}: ${response.status}`);
      const allowed = response.headers.get('access-control-allow-origin');
      check((allowed ?? undefined) === headers.origin || allowed === '*', `${headers.origin}: access-control-allow-origin is ${allowed}`);
    }
    for (const { headers } of gateway.seen) check(headers.host === gateway.upstreamHost && !('origin' in headers), JSON.stringify(headers));
  });
  await step('and refuses others before the server sees them', 10, async () => {
    const before = gateway.seen.length;
    const response = await initialize(gateway, tokens.access_token, { origin: 'https://evil.example.com' });
    check(response.status === 403, `status ${response.status}`);
    check(gateway.seen.length === before, 'the server saw it');
  });
  await gateway.stop();
  await server.stop();
});
