// What an application gives to the TypeScript SDKs: where to keep tokens and how to open a browser. Nothing else about
// OAuth is done here: discovery, registration, PKCE, tokens and refresh are the SDK's.

import { randomUUID } from 'node:crypto';
import { authorize } from './browser.mjs';
import { check } from './report.mjs';
import { PERSON } from './conversation.mjs';

export class Provider {
  signIns = 0;
  callback = undefined;
  #client = undefined;
  #tokens = undefined;
  #verifier = undefined;
  #state = undefined;

  constructor(name, person = PERSON) {
    this.name = name;
    this.person = person;
  }

  get redirectUrl() {
    return 'http://127.0.0.1:46271/callback';
  }

  /** The address that is the client's id where the authorization server takes such; none, and the client registers. */
  get clientMetadataUrl() {
    return process.env.CLIENT_DOCUMENT;
  }

  get clientMetadata() {
    return {
      client_name: this.name,
      redirect_uris: [this.redirectUrl],
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      token_endpoint_auth_method: 'none',
    };
  }

  state() {
    this.#state = randomUUID();
    return this.#state;
  }

  clientInformation() {
    return this.#client;
  }

  saveClientInformation(information) {
    this.#client = information;
  }

  tokens() {
    return this.#tokens;
  }

  saveTokens(tokens) {
    this.#tokens = tokens;
  }

  saveCodeVerifier(verifier) {
    this.#verifier = verifier;
  }

  codeVerifier() {
    return this.#verifier;
  }

  async redirectToAuthorization(url) {
    this.signIns += 1;
    const { callback } = await authorize(url, this.person);
    const { searchParams } = callback;
    check(!searchParams.has('error'), `${searchParams.get('error')}: ${searchParams.get('error_description')}`);
    check(searchParams.get('state') === this.#state, 'the state came back changed');
    check(searchParams.has('code'), 'no code came back');
    this.callback = searchParams;
  }
}
