// What the judges made with JavaScript have in common: where the gateway is, who signs in, and one request to the MCP
// server behind it.

import { authorize, connectDevice } from '../clients/lib/browser.mjs';
import { PERSON } from '../clients/lib/conversation.mjs';
import { check } from '../clients/lib/report.mjs';

export const ISSUER = new URL(process.env.ISSUER);
export const RESOURCE = new URL(process.env.MCP_URL);
export const OTHER_RESOURCE = new URL(process.env.OTHER_MCP_URL);
export const { CLIENT_SECRET } = process.env;
/** Nobody has to listen there: the browser hands the address back. */
export const REDIRECT_URI = 'http://127.0.0.1:46273/callback';

/** The redirect URI as the person's browser is sent to it; `follow` opens it, too. */
export async function visit(url, { decision = 'approve', follow = false } = {}) {
  const { callback } = await authorize(url, { ...PERSON, redirectUri: follow ? undefined : REDIRECT_URI, decision, follow });
  return callback;
}

/** What the last page says once the person allowed, or refused, what a device asked for. */
export async function allowDevice(url, decision = 'approve') {
  const { page } = await connectDevice(url, { ...PERSON, decision });
  return page;
}

/** What an MCP client begins with. */
export const INITIALIZE = JSON.stringify({
  jsonrpc: '2.0', id: 1, method: 'initialize',
  params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'judge', version: '1.0.0' } },
});
export const mcpHeaders = () => new Headers({ 'content-type': 'application/json', accept: 'application/json, text/event-stream' });

/** The error that the promise ends with, which has to be one of this kind. */
export async function refusal(promise, kind) {
  const error = await promise.then(() => undefined, (reason) => reason);
  check(error, 'it was not refused');
  check(error instanceof kind, `another error: ${error.message} ${error.cause?.message ?? ''}`);
  return error;
}
