// What the two judges made with oauth4webapi have in common: each step as that library has it.

import * as oauth from 'oauth4webapi';
import { check, step } from '../clients/lib/report.mjs';
import { INITIALIZE, ISSUER, REDIRECT_URI, RESOURCE, mcpHeaders, refusal, visit } from './lib.mjs';

// The gateway is on the loopback interface; what is not there has to have TLS.
export const INSECURE = { [oauth.allowInsecureRequests]: true };
export const METHODS = {
  none: () => oauth.None(),
  client_secret_post: oauth.ClientSecretPost,
  client_secret_basic: oauth.ClientSecretBasic,
};

export const mcp = (token, resource = RESOURCE) =>
  oauth.protectedResourceRequest(token, 'POST', resource, mcpHeaders(), INITIALIZE, INSECURE);

export async function challenged(token, resource = RESOURCE) {
  const { response, cause } = await refusal(mcp(token, resource), oauth.WWWAuthenticateChallengeError);
  const [{ scheme, parameters }] = cause;
  check(cause.length === 1 && scheme === 'bearer', `challenges: ${JSON.stringify(cause)}`);
  check(response.status === 401, `status ${response.status}`);
  check(parameters.error === 'invalid_token', `error is ${parameters.error}`);
  const named = `${ISSUER.origin}/.well-known/oauth-protected-resource${resource.pathname}`;
  check(parameters.resource_metadata === named, `resource_metadata is ${parameters.resource_metadata}`);
}

/** Discovery as a client does it that knows nothing but the URL of the MCP server. Spec: A1, A2, A3, B1, B2, B3 */
export async function discover() {
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

export async function register(as, method, more = {}) {
  const response = await oauth.dynamicClientRegistrationRequest(as, {
    client_name: `oauth4webapi ${method}`,
    redirect_uris: [REDIRECT_URI],
    token_endpoint_auth_method: method,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    ...more,
  }, INSECURE);
  const client = await oauth.processDynamicClientRegistrationResponse(response);
  check(client.token_endpoint_auth_method === method, `registered with ${client.token_endpoint_auth_method}`);
  check(('client_secret' in client) === (method !== 'none'), 'a secret where none belongs, or the other way round');
  return client;
}

/** From the authorization request to what comes back; the judge checks `iss` and `state`. */
export async function ask(as, client, more = {}) {
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

export const redeem = async (as, client, auth, parameters, verifier) => oauth.processAuthorizationCodeResponse(as, client,
  await oauth.authorizationCodeGrantRequest(as, client, auth, parameters, REDIRECT_URI, verifier, {
    additionalParameters: { resource: RESOURCE.href }, ...INSECURE,
  }));
export const renew = async (as, client, auth, token) =>
  oauth.processRefreshTokenResponse(as, client, await oauth.refreshTokenGrantRequest(as, client, auth, token, INSECURE));
export const revoke = async (as, client, auth, token) =>
  oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token, INSECURE));

export async function oauthError(promise, code, status = 400) {
  const error = await refusal(promise, oauth.ResponseBodyError);
  check(error.error === code && error.status === status, `${error.status} ${error.error}`);
}

