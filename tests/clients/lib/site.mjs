// Somebody's web site, with TLS: there lies the document that says who a client is. Its certificate is one of
// tests/fixtures, which the gateway trusts by `outbound.ca`.

import { readFileSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import { TESTS } from './places.mjs';

const tls = (file) => path.join(TESTS, 'fixtures/tls', file);
export const SITE_CERTIFICATE = tls('site-cert.pem');

/** `metadata` is what the document says besides its own address; `keys` is a key set beside it. */
export async function startSite(metadata, keys = []) {
  const options = { cert: readFileSync(SITE_CERTIFICATE), key: readFileSync(tls('site-key.pem')) };
  let asked = 0;
  const server = https.createServer(options, (request, response) => {
    const known = { '/client.json': () => ({ client_id: document, ...(keys.length > 0 ? { jwks_uri: `${origin}/jwks.json` } : {}), ...metadata }), '/jwks.json': () => ({ keys }) }[request.url];
    asked += request.url === '/client.json' ? 1 : 0;
    response.writeHead(known ? 200 : 404, { 'content-type': 'application/json', 'cache-control': 'max-age=300' });
    response.end(JSON.stringify(known ? known() : {}));
  });
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  const origin = `https://localhost:${server.address().port}`;
  const document = `${origin}/client.json`;
  return {
    document,
    keys: `${origin}/jwks.json`,
    /** How often the document was asked for. */
    asked: () => asked,
    stop: () => server.closeAllConnections() ?? server.close(),
  };
}
