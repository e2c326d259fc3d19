// oauth4webapi, a strict client by the author of an authorization server: it refuses metadata, answers and challenges that
// are not as the RFCs have them.

import * as oauth from 'oauth4webapi';
import { check, main, step } from '../clients/lib/report.mjs';
import { INITIALIZE, ISSUER, OTHER_RESOURCE, REDIRECT_URI, RESOURCE, mcpHeaders, refusal, visit } from './lib.mjs';

// The gateway is on the loopback interface; what is not there has to have TLS.
const INSECURE = { [oauth.allowInsecureRequests]: true };
const METHODS = {
  none: () => oauth.None(),
  client_secret_post: oauth.ClientSecretPost,
  client_secret_basic: oauth.ClientSecretBasic,
};

const mcp = (token, resource = RESOURCE) =>
  oauth.protectedResourceRequest(token, 'POST', resource, mcpHeaders(), INITIALIZE, INSECURE);

async function challenged(token, resource = RESOURCE) {
  const { response, cause } = await refusal(mcp(token, resource), oauth.WWWAuthenticateChallengeError);
  const [{ scheme, parameters }] = cause;
  check(cause.length === 1 && scheme === 'bearer', `challenges: ${JSON.stringify(cause)}`);
  check(response.status === 401, `status ${response.status}`);
  check(parameters.error === 'invalid_token', `error is ${parameters.error}`);
  const named = `${ISSUER.origin}/.well-known/oauth-protected-resource${resource.pathname}`;
  check(parameters.resource_metadata === named, `resource_metadata is ${parameters.resource_metadata}`);
}

/** Discovery as a client does it that knows nothing but the URL of the MCP server. Spec: A1, A2, A3, B1, B2, B3 */
async function discover() {
  const resource = await step('the metadata of the protected resource is that of RFC 9728', 10, async () => {
    const response = await oauth.resourceDiscoveryRequest(RESOURCE, INSECURE);
    return oauth.processResourceDiscoveryResponse(RESOURCE, response);
  });
  check(resource.authorization_servers.length === 1, 'more than one authorization server');
  return step('the metadata of the authorization server is that of RFC 8414', 10, async () => {
    const issuer = new URL(resource.authorization_servers[0]);
    const response = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...INSECURE });
    return oauth.processDiscoveryResponse(issuer, response);
  });
}

async function register(as, method) {
  const response = await oauth.dynamicClientRegistrationRequest(as, {
    client_name: `oauth4webapi ${method}`,
    redirect_uris: [REDIRECT_URI],
    token_endpoint_auth_method: method,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
  }, INSECURE);
  const client = await oauth.processDynamicClientRegistrationResponse(response);
  check(client.token_endpoint_auth_method === method, `registered with ${client.token_endpoint_auth_method}`);
  check(('client_secret' in client) === (method !== 'none'), 'a secret where none belongs, or the other way round');
  return client;
}

/** From the authorization request to what comes back; the judge checks `iss` and `state`. */
async function ask(as, client, more = {}) {
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const url = new URL(as.authorization_endpoint);
  const parameters = {
    client_id: client.client_id, redirect_uri: REDIRECT_URI, response_type: 'code', state, resource: RESOURCE.href,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256', ...more,
  };
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  return { verifier, state, callback: await visit(url.href) };
}

const redeem = async (as, client, auth, parameters, verifier) => oauth.processAuthorizationCodeResponse(as, client,
  await oauth.authorizationCodeGrantRequest(as, client, auth, parameters, REDIRECT_URI, verifier, {
    additionalParameters: { resource: RESOURCE.href }, ...INSECURE,
  }));
const renew = async (as, client, auth, token) =>
  oauth.processRefreshTokenResponse(as, client, await oauth.refreshTokenGrantRequest(as, client, auth, token, INSECURE));
const revoke = async (as, client, auth, token) =>
  oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token, INSECURE));

async function oauthError(promise, code, status = 400) {
  const error = await refusal(promise, oauth.ResponseBodyError);
  check(error.error === code && error.status === status, `${error.status} ${error.error}`);
}

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
