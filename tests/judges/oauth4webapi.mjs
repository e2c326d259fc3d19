// oauth4webapi, a strict client by the author of an authorization server: it refuses metadata, answers and challenges that
// are not as the RFCs have them. Here is what every MCP client needs; oauth4webapi-more.mjs has the rest.

import * as oauth from 'oauth4webapi';
import { check, main, step } from '../clients/lib/report.mjs';
import { ISSUER, OTHER_RESOURCE, REDIRECT_URI, RESOURCE, refusal, visit } from './lib.mjs';
import { METHODS, ask, challenged, discover, mcp, oauthError, redeem, register, renew, revoke } from './oauth4webapi-lib.mjs';

/** Registration, code, refresh and revocation with one way to authenticate. Spec: C1, C2, D8, D9, F2, F5, F8, F13, G1, G2, H3 */
async function flow(as, method) {
  const client = await step(`${method}: registers`, 10, () => register(as, method));
  const auth = METHODS[method](client.client_secret);
  const first = await step(`${method}: a code with iss and state becomes tokens`, 20, async () => {
    const { verifier, state, callback } = await ask(as, client);
    const parameters = oauth.validateAuthResponse(as, client, callback, state);
    const wrong = oauth.generateRandomCodeVerifier();
    await oauthError(redeem(as, client, auth, parameters, wrong), 'invalid_grant');
    const again = await ask(as, client);
    return redeem(as, client, auth, oauth.validateAuthResponse(as, client, again.callback, again.state), again.verifier);
  });
  check(first.refresh_token && first.expires_in > 0 && first.scope, 'the answer of the token endpoint is not complete');
  await step(`${method}: the token opens its resource and no other`, 10, async () => {
    const response = await mcp(first.access_token);
    check(response.status === 200, `status ${response.status}`);
    await response.body.cancel();
    await challenged(first.access_token, OTHER_RESOURCE);
  });
  const second = await step(`${method}: a refresh`, 10, () => renew(as, client, auth, first.refresh_token));
  check(second.refresh_token !== first.refresh_token, 'the refresh token was not rotated');
  await step(`${method}: what is revoked is over`, 10, async () => {
    await revoke(as, client, auth, 'something that never was a token');
    await revoke(as, client, auth, second.refresh_token);
    await oauthError(renew(as, client, auth, second.refresh_token), 'invalid_grant');
    await challenged(second.access_token);
  });
}

await main(async () => {
  const as = await discover();
  for (const method of Object.keys(METHODS)) await flow(as, method);
  // Spec: D9, D17
  await step('a refusal comes back as access_denied, with iss', 20, async () => {
    const client = await register(as, 'none');
    const url = new URL(as.authorization_endpoint);
    const parameters = {
      client_id: client.client_id, redirect_uri: REDIRECT_URI, response_type: 'code', state: 'x', resource: RESOURCE.href,
      code_challenge: await oauth.calculatePKCECodeChallenge(oauth.generateRandomCodeVerifier()), code_challenge_method: 'S256',
    };
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
    const callback = await visit(url.href, { decision: 'deny' });
    const answer = async () => oauth.validateAuthResponse(as, client, callback, 'x');
    const { error } = await refusal(answer(), oauth.AuthorizationResponseError);
    check(error === 'access_denied', error);
  });
  // Spec: D10
  await step('an unknown resource is invalid_target', 20, async () => {
    const client = await register(as, 'none');
    const { callback, state } = await ask(as, client, { resource: `${ISSUER.origin}/nothing/mcp` });
    const answer = async () => oauth.validateAuthResponse(as, client, callback, state);
    const { error } = await refusal(answer(), oauth.AuthorizationResponseError);
    check(error === 'invalid_target', error);
  });
  // Spec: F4
  await step('an unknown client is invalid_client', 10, async () => {
    await oauthError(renew(as, { client_id: 'nobody' }, oauth.None(), 'nothing'), 'invalid_client', 401);
  });
});
