// openid-client, the convenient one of the same author: what most programs for Node sign in with.

import * as client from 'openid-client';
import { check, main, step } from '../clients/lib/report.mjs';
import { CLIENT_SECRET, INITIALIZE, ISSUER, REDIRECT_URI, RESOURCE, allowDevice, mcpHeaders, refusal, visit } from './lib.mjs';

/** The gateway is on the loopback interface; what is not there has to have TLS. */
const OPTIONS = { algorithm: 'oauth2', execute: [client.allowInsecureRequests] };
const METADATA = {
  client_name: 'openid-client', redirect_uris: [REDIRECT_URI], grant_types: ['authorization_code', 'refresh_token'],
};

async function ask(config, more = {}) {
  const pkceCodeVerifier = client.randomPKCECodeVerifier();
  const expectedState = client.randomState();
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri: REDIRECT_URI, resource: RESOURCE.href, state: expectedState,
    code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier), code_challenge_method: 'S256', ...more,
  });
  return { callback: await visit(url.href), checks: { pkceCodeVerifier, expectedState } };
}

const mcp = (config, token, options) =>
  client.fetchProtectedResource(config, token, RESOURCE, 'POST', INITIALIZE, mcpHeaders(), options);

async function opens(config, token, options) {
  const response = await mcp(config, token, options);
  check(response.status === 200, `status ${response.status}`);
  await response.body.cancel();
}

/** Spec: A1, C1, C28, D9, F2, F8, F13, F17, G1, H3 */
async function flow(name, config) {
  const first = await step(`${name}: a code becomes tokens`, 20, async () => {
    const { callback, checks } = await ask(config);
    return client.authorizationCodeGrant(config, callback, checks);
  });
  const second = await step(`${name}: a refresh, for the resource and without naming it`, 10, async () => {
    const named = await client.refreshTokenGrant(config, first.refresh_token, { resource: RESOURCE.href });
    return client.refreshTokenGrant(config, named.refresh_token);
  });
  await step(`${name}: the token opens the MCP server`, 10, () => opens(config, second.access_token));
  await step(`${name}: what is revoked is over`, 10, async () => {
    await client.tokenRevocation(config, second.access_token, { token_type_hint: 'refresh_token' });
    const { cause } = await refusal(mcp(config, second.access_token), client.WWWAuthenticateChallengeError);
    check(cause[0].parameters.error === 'invalid_token', cause[0].parameters.error);
    await client.tokenRevocation(config, second.refresh_token);
    const { error } = await refusal(client.refreshTokenGrant(config, second.refresh_token), client.ResponseBodyError);
    check(error === 'invalid_grant', error);
  });
}

/** As by default: OpenID Connect, with every signature verified. Spec: A11, G4, G5, J1, J6, J7, J8 */
async function more() {
  const execute = [client.allowInsecureRequests, client.enableNonRepudiationChecks];
  const metadata = { id_token_signed_response_alg: 'ES256' };
  const config = await step('OpenID Connect: discovers', 10, () =>
    client.discovery(ISSUER, 'judge', metadata, client.ClientSecretPost(CLIENT_SECRET), { execute }));
  const subject = await step('OpenID Connect: an ID token that verifies, userinfo, and a pushed request', 30, async () => {
    const pkceCodeVerifier = client.randomPKCECodeVerifier();
    const [expectedState, expectedNonce] = [client.randomState(), client.randomNonce()];
    const url = await client.buildAuthorizationUrlWithPAR(config, {
      redirect_uri: REDIRECT_URI, resource: RESOURCE.href, scope: 'openid email', state: expectedState, nonce: expectedNonce,
      code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier), code_challenge_method: 'S256',
    });
    const callback = await visit(url.href);
    const checks = { pkceCodeVerifier, expectedState, expectedNonce, idTokenExpected: true };
    const tokens = await client.authorizationCodeGrant(config, callback, checks);
    const { sub } = tokens.claims();
    const { email } = await client.fetchUserInfo(config, tokens.access_token, sub);
    check(email === 'ada@example.com', `e-mail ${email}`);
    const renewed = await client.refreshTokenGrant(config, tokens.refresh_token);
    check(!renewed.id_token || renewed.claims().sub === sub, 'the ID token of the refresh is for somebody else');
    const { active, sub: told } = await client.tokenIntrospection(config, renewed.access_token);
    check(active && told === sub, `introspection: ${active} ${told}`);
    return sub;
  });
  await step('client credentials, for itself', 10, async () => {
    const tokens = await client.clientCredentialsGrant(config, { resource: RESOURCE.href, scope: 'everything:use' });
    const { sub } = await client.tokenIntrospection(config, tokens.access_token);
    check(sub !== subject && sub === 'client:judge', sub);
    await opens(config, tokens.access_token);
  });
  await step('device: it polls by itself until the person has allowed it', 40, async () => {
    const device = await client.initiateDeviceAuthorization(config, { resource: RESOURCE.href, scope: 'everything:use' });
    const polling = client.pollDeviceAuthorizationGrant(config, device);
    await allowDevice(device.verification_uri_complete);
    await opens(config, (await polling).access_token);
  });
  await step('DPoP: the nonce is asked for once and then kept', 20, async () => {
    const DPoP = client.getDPoPHandle(config, await client.randomDPoPKeyPair());
    const { callback, checks } = await ask(config);
    const tokens = await client.authorizationCodeGrant(config, callback, checks, undefined, { DPoP });
    check(tokens.token_type === 'dpop', tokens.token_type);
    await opens(config, tokens.access_token, { DPoP });
    const renewed = await client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP });
    await opens(config, renewed.access_token, { DPoP });
    await refusal(mcp(config, renewed.access_token), client.WWWAuthenticateChallengeError);
  });
}

await main(async () => {
  const registered = (method) => client.dynamicClientRegistration(ISSUER, { ...METADATA, token_endpoint_auth_method: method }, undefined, OPTIONS);
  for (const method of ['none', 'client_secret_post', 'client_secret_basic']) {
    const config = await step(`${method}: discovers and registers`, 10, () => registered(method));
    await flow(method, config);
  }
  const known = await step('a client that is known in advance', 10, () =>
    client.discovery(ISSUER, 'judge', undefined, client.ClientSecretBasic(CLIENT_SECRET), OPTIONS));
  await flow('known in advance', known);
  // Spec: F7, F10
  await step('a code that is used twice takes its tokens with it', 20, async () => {
    const config = await registered('none');
    const { callback, checks } = await ask(config);
    const tokens = await client.authorizationCodeGrant(config, callback, checks);
    const { error } = await refusal(client.authorizationCodeGrant(config, callback, checks), client.ResponseBodyError);
    check(error === 'invalid_grant', error);
    await refusal(mcp(config, tokens.access_token), client.WWWAuthenticateChallengeError);
    await refusal(client.refreshTokenGrant(config, tokens.refresh_token), client.ResponseBodyError);
  });
  // Spec: F5
  await step('a wrong secret is invalid_client, with a Basic challenge', 10, async () => {
    const config = await client.discovery(ISSUER, 'judge', undefined, client.ClientSecretBasic('wrong'), OPTIONS);
    const { cause } = await refusal(client.refreshTokenGrant(config, 'nothing'), client.WWWAuthenticateChallengeError);
    check(cause[0].scheme === 'basic', `the challenge is ${cause[0].scheme}`);
  });
  await more();
});
