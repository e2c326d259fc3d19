// Lets strict OAuth clients and scanners that others wrote judge the built gateway, all at once and each by an account of
// its own.
//
//   node tests/judges/run.mjs [JUDGE …]
//
// MCPGATE names the program (default: target/debug/mcpgate). tests/setup.sh installs everything else.

import { generateKeyPairSync } from 'node:crypto';
import path from 'node:path';
import { Account, conclude, inParallel, runScript } from '../clients/lib/account.mjs';
import { startGateway } from '../clients/lib/gateway.mjs';
import { TESTS, python } from '../clients/lib/places.mjs';
import { check, describe } from '../clients/lib/report.mjs';
import { startServer } from '../clients/lib/servers.mjs';
import { SITE_CERTIFICATE, startSite } from '../clients/lib/site.mjs';

const judge = (file) => path.join(TESTS, 'judges', file);
const JUDGES = {
  oauth4webapi: [process.execPath, judge('oauth4webapi.mjs')],
  'oauth4webapi, more': [process.execPath, judge('oauth4webapi-more.mjs')],
  'openid-client': [process.execPath, judge('openid-client.mjs')],
  authlib: [python('judges'), judge('authlib_client.py')],
  'mcp-authlab': [process.execPath, judge('mcp-authlab.mjs')],
  conformance: [process.execPath, judge('conformance.mjs')],
};
const SECONDS = 120;
/** Known in advance: clients with a secret, for what only such clients may do, and the one of the conformance suite. */
const SECRET = 'a-secret-of-the-judges-that-is-long-enough';
const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const PUBLIC_KEY = { ...publicKey.export({ format: 'jwk' }), kid: 'one', use: 'sig', alg: 'ES256' };
const CLIENTS = [
  {
    client_id: 'judge', client_secret: SECRET, client_name: 'Judge', redirect_uris: ['http://127.0.0.1/callback'],
    grant_types: ['authorization_code', 'refresh_token', 'client_credentials', 'device_code', 'token_exchange'],
    introspects: ['everything'], id_token_signed_response_alg: 'ES256',
  },
  { client_id: 'bystander', client_secret: SECRET, client_name: 'Bystander', redirect_uris: ['http://127.0.0.1/callback'] },
  { client_id: 'signer', client_name: 'Signer', redirect_uris: ['http://127.0.0.1/callback'], jwks: { keys: [PUBLIC_KEY] } },
  { client_id: 'conformance', client_name: 'Conformance suite', redirect_uris: ['http://127.0.0.1/callback'] },
];

const since = Date.now();
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in JUDGES));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}; there are: ${Object.keys(JUDGES).join(', ')}`);
  process.exit(2);
}

const servers = await Promise.all(['everything', 'modern'].map(startServer));
/** A client whose document says that it signs to authenticate, and where its keys are. */
const signing = {
  client_name: 'A client that signs', redirect_uris: ['http://127.0.0.1/callback'], token_endpoint_auth_method: 'private_key_jwt',
  grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'],
};
const site = await startSite(signing, [PUBLIC_KEY]);
async function run(name) {
  const account = new Account(name);
  try {
    const gateway = await startGateway({
      servers,
      configure: (configuration) => {
        configuration.outbound = { ca: SITE_CERTIFICATE };
        configuration.oauth = { root_resource: 'everything', clients: CLIENTS, grants: { device_code: true, token_exchange: true } };
      },
    });
    const { ok } = await runScript(account, JUDGES[name], {
      ISSUER: gateway.url,
      MCP_URL: gateway.mcpUrls.everything,
      OTHER_MCP_URL: gateway.mcpUrls.modern,
      SIGN_IN_USERNAME: gateway.username,
      SIGN_IN_PASSWORD: gateway.password,
      CLIENT_SECRET: SECRET,
      SIGNING_KEY: JSON.stringify(privateKey.export({ format: 'jwk' })),
      SIGNING_DOCUMENT: site.document,
      TOKEN_SECONDS: '3600',
    }, SECONDS);
    if (!ok) account.noteLog(gateway);
    await account.judgeLog(gateway);
    const how = await gateway.stop();
    check(how.code === 0, `the gateway ended with ${how.signal ?? how.code}`);
  } catch (error) {
    account.fail('rig', describe(error));
  }
  account.print();
}
await inParallel(3, wanted.length > 0 ? wanted : Object.keys(JUDGES), run);
await Promise.all(servers.map((server) => server.stop()));
site.stop();
conclude('judges', since);
