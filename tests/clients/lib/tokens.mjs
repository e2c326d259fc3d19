// A client without an SDK: what it takes to get tokens, and one request with them.

import { createHash, randomBytes } from 'node:crypto';
import { authorize } from './browser.mjs';
import { check } from './report.mjs';

const REDIRECT_URI = 'http://127.0.0.1:46277/callback';

/** A person has signed in with a client of their own: its id, and its tokens. */
export async function signIn(gateway) {
  const post = async (path, body) => {
    const response = await fetch(`${gateway.url}${path}`, { method: 'POST', ...body });
    const answer = await response.json();
    check(response.ok, `${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer;
  };
  const { client_id: id } = await post('/register', {
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      client_name: 'Plain client', redirect_uris: [REDIRECT_URI], token_endpoint_auth_method: 'none',
      grant_types: ['authorization_code', 'refresh_token'],
    }),
  });
  const verifier = randomBytes(32).toString('base64url');
  const url = `${gateway.url}/authorize?${new URLSearchParams({
    response_type: 'code', client_id: id, redirect_uri: REDIRECT_URI, resource: gateway.mcpUrl, state: 'x',
    code_challenge: createHash('sha256').update(verifier).digest('base64url'), code_challenge_method: 'S256',
  })}`;
  const { callback } = await authorize(url, gateway);
  const tokens = await post('/token', {
    body: new URLSearchParams({
      grant_type: 'authorization_code', client_id: id, code: callback.searchParams.get('code'), redirect_uri: REDIRECT_URI,
      code_verifier: verifier,
    }),
  });
  return { id, ...tokens };
}

/** The first request of an MCP client, with this token and, if wanted, more headers. */
export async function initialize(gateway, token, more = {}) {
  const response = await fetch(gateway.mcpUrl, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...more },
    body: JSON.stringify({
      jsonrpc: '2.0', id: 1, method: 'initialize',
      params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'plain', version: '1' } },
    }),
  });
  await response.body?.cancel();
  return response;
}
