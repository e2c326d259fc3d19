// What oauth4webapi thinks of all that an MCP client does not need every day: OpenID Connect, introspection, tokens of
// programs, DPoP, pushed requests, devices and token exchange.

import * as oauth from 'oauth4webapi';
import { check, main, sleep, step } from '../clients/lib/report.mjs';
import { CLIENT_SECRET, INITIALIZE, ISSUER, OTHER_RESOURCE, REDIRECT_URI, RESOURCE, allowDevice, mcpHeaders, refusal, visit } from './lib.mjs';
import { INSECURE, METHODS, ask, discover, mcp, oauthError, redeem, register, revoke } from './oauth4webapi-lib.mjs';

const JUDGE = { client_id: 'judge', id_token_signed_response_alg: 'ES256' };
const judge = oauth.ClientSecretBasic(CLIENT_SECRET);
const BYSTANDER = { client_id: 'bystander' };
const TOKEN = 'urn:ietf:params:oauth:token-type:access_token';

async function opens(response) {
  check(response.status === 200, `status ${response.status}`);
  await response.body.cancel();
}

/** An ID token that verifies by the published keys, and what `/userinfo` says of the same person. Spec: A11, G5, G6 */
async function openIdConnect() {
  const as = await step('OpenID Connect discovery', 10, async () => {
    const response = await oauth.discoveryRequest(ISSUER, { algorithm: 'oidc', ...INSECURE });
    return oauth.processDiscoveryResponse(ISSUER, response);
  });
  for (const alg of ['RS256', 'ES256']) {
    await step(`an ID token with ${alg} verifies; nonce, max_age and at_hash are right`, 30, async () => {
      const client = await register(as, 'none', { id_token_signed_response_alg: alg });
      const nonce = oauth.generateRandomNonce();
      const asked = await ask(as, client, { scope: 'openid profile email', nonce, max_age: '600' });
      const parameters = oauth.validateAuthResponse(as, client, asked.callback, asked.state);
      const response = await oauth.authorizationCodeGrantRequest(as, client, oauth.None(), parameters, REDIRECT_URI, asked.verifier, INSECURE);
      const tokens = await oauth.processAuthorizationCodeResponse(as, client, response, {
        expectedNonce: nonce, maxAge: 600, requireIdToken: true,
      });
      await oauth.validateApplicationLevelSignature(as, response, INSECURE);
      const claims = oauth.getValidatedIdTokenClaims(tokens);
      check(claims.iss === ISSUER.origin && claims.aud === client.client_id, JSON.stringify(claims));
      const now = Date.now() / 1000;
      check(claims.nonce === nonce && claims.auth_time <= now + 1 && claims.auth_time > now - 60, JSON.stringify(claims));
      const answer = await oauth.userInfoRequest(as, client, tokens.access_token, INSECURE);
      const info = await oauth.processUserInfoResponse(as, client, claims.sub, answer);
      check(info.email === 'ada@example.com' && info.name === 'Ada Lovelace', JSON.stringify(info));
    });
  }
  // Spec: G5
  await step('without openid there is no ID token, and /userinfo is closed', 30, async () => {
    const client = await register(as, 'none');
    const { callback, state, verifier } = await ask(as, client);
    const tokens = await redeem(as, client, oauth.None(), oauth.validateAuthResponse(as, client, callback, state), verifier);
    check(tokens.id_token === undefined, 'there is one');
    const answer = await oauth.userInfoRequest(as, client, tokens.access_token, INSECURE);
    await refusal(oauth.processUserInfoResponse(as, client, oauth.skipSubjectCheck, answer), oauth.WWWAuthenticateChallengeError);
  });
  // Spec: D15
  await step('prompt=none without a session is login_required', 20, async () => {
    const client = await register(as, 'none');
    const { callback, state } = await ask(as, client, { scope: 'openid', prompt: 'none' });
    const answer = async () => oauth.validateAuthResponse(as, client, callback, state);
    const { error } = await refusal(answer(), oauth.AuthorizationResponseError);
    check(error === 'login_required', error);
  });
}

async function introspect(as, client, auth, token) {
  const response = await oauth.introspectionRequest(as, client, auth, token, INSECURE);
  return oauth.processIntrospectionResponse(as, client, response);
}

/** Spec: G4, J1 */
async function programs(as) {
  const tokens = await step('client credentials: a token, and no refresh token', 10, async () => {
    const parameters = { resource: RESOURCE.href, scope: 'everything:use' };
    const response = await oauth.clientCredentialsGrantRequest(as, JUDGE, judge, parameters, INSECURE);
    return oauth.processClientCredentialsResponse(as, JUDGE, response);
  });
  check(tokens.refresh_token === undefined && tokens.scope === 'everything:use', JSON.stringify(Object.keys(tokens)));
  await step('client credentials: the token opens the MCP server', 10, async () => opens(await mcp(tokens.access_token)));
  await step('client credentials: not for a client that registered itself', 10, async () => {
    const client = await register(as, 'client_secret_basic');
    const auth = METHODS.client_secret_basic(client.client_secret);
    const parameters = { resource: RESOURCE.href };
    const response = await oauth.clientCredentialsGrantRequest(as, client, auth, parameters, INSECURE);
    await oauthError(oauth.processClientCredentialsResponse(as, client, response), 'unauthorized_client');
  });
  await step('introspection: what the token is, to who may know', 10, async () => {
    const known = await introspect(as, JUDGE, judge, tokens.access_token);
    check(known.active && known.client_id === 'judge' && known.aud === RESOURCE.href && known.iss === ISSUER.origin, JSON.stringify(known));
    check(known.exp > known.iat, JSON.stringify(known));
  });
  await step('introspection: not active, to others and of what is revoked or never was', 10, async () => {
    const other = await introspect(as, BYSTANDER, judge, tokens.access_token);
    check(JSON.stringify(other) === '{"active":false}', JSON.stringify(other));
    await revoke(as, JUDGE, judge, tokens.access_token);
    for (const token of [tokens.access_token, 'nothing']) {
      const gone = await introspect(as, JUDGE, judge, token);
      check(JSON.stringify(gone) === '{"active":false}', JSON.stringify(gone));
    }
    await oauthError(introspect(as, await register(as, 'none'), oauth.None(), tokens.access_token), 'invalid_client', 401);
  });
}

/** Does it again with the nonce that the first answer brought. */
async function withNonce(work) {
  return work().catch((error) => {
    if (!oauth.isDPoPNonceError(error)) throw error;
    return work();
  });
}

/** Spec: J7 */
async function proofOfPossession(as) {
  for (const alg of ['ES256', 'RS256', 'PS256', 'Ed25519']) {
    await step(`DPoP with ${alg}: bound tokens, refresh, and no use without the key`, 40, async () => {
      const client = await register(as, 'none');
      const proof = async () => oauth.DPoP(client, await oauth.generateKeyPair(alg));
      const handle = await proof();
      const { callback, state, verifier } = await ask(as, client);
      const parameters = oauth.validateAuthResponse(as, client, callback, state);
      const options = { DPoP: handle, ...INSECURE };
      const first = await withNonce(async () => oauth.processAuthorizationCodeResponse(as, client,
        await oauth.authorizationCodeGrantRequest(as, client, oauth.None(), parameters, REDIRECT_URI, verifier, options)));
      check(first.token_type === 'dpop', `token_type ${first.token_type}`);
      const request = (token, options) => oauth.protectedResourceRequest(token, 'POST', RESOURCE, mcpHeaders(), INITIALIZE, options);
      await opens(await withNonce(() => request(first.access_token, options)));
      await refusal(request(first.access_token, INSECURE), oauth.WWWAuthenticateChallengeError);
      const thief = { DPoP: await proof(), ...INSECURE };
      await refusal(withNonce(() => request(first.access_token, thief)), oauth.WWWAuthenticateChallengeError);
      const renew = async (options) => oauth.processRefreshTokenResponse(as, client,
        await oauth.refreshTokenGrantRequest(as, client, oauth.None(), first.refresh_token, options));
      await refusal(withNonce(() => renew(thief)), oauth.ResponseBodyError);
      await refusal(renew(INSECURE), oauth.ResponseBodyError);
      const second = await withNonce(() => renew(options));
      await opens(await withNonce(() => request(second.access_token, options)));
    });
  }
}

/** Spec: J8 */
async function pushed(as) {
  await step('PAR: a pushed request leads to a code, once', 40, async () => {
    const verifier = oauth.generateRandomCodeVerifier();
    const state = oauth.generateRandomState();
    const parameters = {
      client_id: 'judge', redirect_uri: REDIRECT_URI, response_type: 'code', state, resource: RESOURCE.href,
      code_challenge: await oauth.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256',
    };
    const client = { client_id: 'judge' };
    const response = await oauth.pushedAuthorizationRequest(as, client, judge, parameters, INSECURE);
    const { request_uri: uri, expires_in: seconds } = await oauth.processPushedAuthorizationResponse(as, client, response);
    check(seconds <= 90, `expires_in ${seconds}`);
    const url = new URL(as.authorization_endpoint);
    url.searchParams.set('client_id', 'judge');
    url.searchParams.set('request_uri', uri);
    const callback = await visit(url.href);
    const tokens = await redeem(as, client, judge, oauth.validateAuthResponse(as, client, callback, state), verifier);
    await opens(await mcp(tokens.access_token));
    const again = await fetch(url, { redirect: 'manual' });
    check(again.status === 400, `used again: ${again.status}`);
  });
  await step('PAR: an unknown client or a wrong redirect URI is refused at once', 10, async () => {
    const wrong = { redirect_uri: 'https://elsewhere.example/', response_type: 'code', code_challenge: 'x', code_challenge_method: 'S256' };
    const push = async (client, auth) => oauth.processPushedAuthorizationResponse(as, client,
      await oauth.pushedAuthorizationRequest(as, client, auth, wrong, INSECURE));
    await refusal(push({ client_id: 'judge' }, judge), oauth.ResponseBodyError);
    await oauthError(push({ client_id: 'nobody' }, oauth.None()), 'invalid_client', 401);
  });
}

/** Spec: J6 */
async function devices(as) {
  const begin = async () => {
    const parameters = { resource: RESOURCE.href, scope: 'everything:use' };
    const response = await oauth.deviceAuthorizationRequest(as, JUDGE, judge, parameters, INSECURE);
    return oauth.processDeviceAuthorizationResponse(as, JUDGE, response);
  };
  const poll = async (code) =>
    oauth.processDeviceCodeResponse(as, JUDGE, await oauth.deviceCodeGrantRequest(as, JUDGE, judge, code, INSECURE));
  await step('device: pending, too fast, allowed, and no second time', 60, async () => {
    const device = await begin();
    await oauthError(poll(device.device_code), 'authorization_pending');
    await oauthError(poll(device.device_code), 'slow_down');
    const page = await allowDevice(device.verification_uri_complete);
    check(/connected/i.test(page), page);
    // What slow_down asks for: five seconds more from now on.
    await sleep((device.interval ?? 5) + 5.5);
    const tokens = await poll(device.device_code);
    check(tokens.scope === 'everything:use' && tokens.refresh_token, JSON.stringify(Object.keys(tokens)));
    await opens(await mcp(tokens.access_token));
    const error = await refusal(poll(device.device_code), oauth.ResponseBodyError);
    check(['invalid_grant', 'expired_token', 'slow_down'].includes(error.error), error.error);
  });
  await step('device: refused is access_denied', 30, async () => {
    const device = await begin();
    await allowDevice(device.verification_uri_complete, 'deny');
    await oauthError(poll(device.device_code), 'access_denied');
  });
}

/** Spec: J5 */
async function exchange(as) {
  await step('token exchange: for another upstream, never with its scope, and only for who may', 30, async () => {
    const client = { client_id: 'judge' };
    const { callback, state, verifier } = await ask(as, client, { scope: 'everything:use profile' });
    const tokens = await redeem(as, client, judge, oauth.validateAuthResponse(as, client, callback, state), verifier);
    const swap = async (who, auth, more) => oauth.processGenericTokenEndpointResponse(as, who,
      await oauth.genericTokenEndpointRequest(as, who, auth, 'urn:ietf:params:oauth:grant-type:token-exchange', {
        subject_token: tokens.access_token, subject_token_type: TOKEN, ...more,
      }, INSECURE));
    const narrow = await swap(client, judge, { resource: RESOURCE.href, scope: 'everything:use' });
    check(narrow.issued_token_type === TOKEN && narrow.scope === 'everything:use', JSON.stringify(narrow.scope));
    await opens(await mcp(narrow.access_token));
    const other = await swap(client, judge, { resource: OTHER_RESOURCE.href });
    check(!String(other.scope).includes('everything:use'), other.scope);
    await refusal(mcp(other.access_token), oauth.WWWAuthenticateChallengeError);
    await oauthError(swap(BYSTANDER, judge, { resource: RESOURCE.href }), 'unauthorized_client');
  });
}

/** Spec: C22, J2 */
async function signers(as) {
  const key = await crypto.subtle.importKey('jwk', JSON.parse(process.env.SIGNING_KEY), { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']);
  const auth = oauth.PrivateKeyJwt({ key, kid: 'one' });
  for (const [name, id] of [['known in advance', 'signer'], ['with a document', process.env.SIGNING_DOCUMENT]]) {
    await step(`private_key_jwt, ${name}: a code, a refresh, a revocation`, 30, async () => {
      const client = { client_id: id };
      const { callback, state, verifier } = await ask(as, client);
      const first = await redeem(as, client, auth, oauth.validateAuthResponse(as, client, callback, state), verifier);
      const response = await oauth.refreshTokenGrantRequest(as, client, auth, first.refresh_token, INSECURE);
      const second = await oauth.processRefreshTokenResponse(as, client, response);
      await opens(await mcp(second.access_token));
      await revoke(as, client, auth, second.refresh_token);
      await refusal(mcp(second.access_token), oauth.WWWAuthenticateChallengeError);
    });
    await step(`private_key_jwt, ${name}: not without it, nor with another key`, 30, async () => {
      const client = { client_id: id };
      const { callback, state, verifier } = await ask(as, client);
      const parameters = oauth.validateAuthResponse(as, client, callback, state);
      const other = await oauth.generateKeyPair('ES256');
      for (const wrong of [oauth.None(), oauth.PrivateKeyJwt({ key: other.privateKey, kid: 'one' })]) {
        await oauthError(redeem(as, client, wrong, parameters, verifier), 'invalid_client', 401);
      }
    });
  }
}

await main(async () => {
  const as = await discover();
  await openIdConnect();
  await programs(as);
  await proofOfPossession(as);
  await pushed(as);
  await devices(as);
  await exchange(as);
  await signers(as);
});
