// A person at a browser, without the browser: follows redirects, keeps cookies, fills in the sign-in form and presses a
// button of the consent form. Made with node:http because fetch sends `Sec-Fetch-Mode: cors`, which no navigation does.
//
//   node browser.mjs [--follow] AUTHORIZATION_URL
//
// prints the redirect URI with the answer in it; with --follow it also opens it, as a browser would.
// SIGN_IN_USERNAME and SIGN_IN_PASSWORD say who signs in.

import http from 'node:http';
import { appendFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const MAX_PAGES = 15;
const MAX_BODY = 1024 * 1024;
const PAGE_SECONDS = 15;

/**
 * Walks from the authorization URL to the client's redirect URI and returns that with its parameters. `redirectUri` says
 * which that is if the URL does not, as for a pushed request.
 */
export async function authorize(authorizationUrl, { redirectUri, ...how }) {
  const start = new URL(authorizationUrl);
  const back = redirectUri ?? start.searchParams.get('redirect_uri');
  if (!back) throw new Error('the authorization URL has no redirect_uri');
  return walk(start, back, how);
}

/** Walks from the address that a device shows to the page that says how it ended, and returns that page's words. */
export async function connectDevice(verificationUrl, how) {
  return walk(new URL(verificationUrl), undefined, how);
}

async function walk(start, redirectUri, { username, password, decision = 'approve', follow = false }) {
  const cookies = new Cookies();
  const trail = [];
  let request = { url: start, method: 'GET', site: 'none' };
  for (let pages = 0; pages < MAX_PAGES; pages += 1) {
    const response = await send(request, cookies);
    trail.push(`${request.method} ${request.url.pathname} ${response.status}`);
    if (response.status >= 300 && response.status < 400) {
      const next = new URL(response.headers.location ?? '', request.url);
      if (redirectUri && isCallback(next, redirectUri)) {
        if (follow) await open(next);
        return { callback: next, trail };
      }
      if (next.origin !== start.origin) throw new Error(`sent to a foreign place, ${next.origin} (${trail.join(', ')})`);
      const keeps = response.status === 307 || response.status === 308;
      request = { ...request, url: next, ...(keeps ? {} : { method: 'GET', body: undefined }) };
      continue;
    }
    if (response.status !== 200) throw new Error(`no way on: ${trail.join(', ')}: ${plain(response.body)}`);
    if (!redirectUri && request.url.searchParams.has('outcome')) return { page: plain(response.body), trail };
    request = fill(response, request.url, { username, password, decision, trail });
  }
  throw new Error(`still not back at the client after ${MAX_PAGES} pages: ${trail.join(', ')}`);
}

/** Opens the redirect URI; the program behind it may still be starting to listen, since no person is this fast. */
async function open(callback) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await send({ url: callback, method: 'GET', site: 'cross-site' }, new Cookies());
    } catch (error) {
      if (error.code !== 'ECONNREFUSED' || tries === 50) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

function isCallback(url, redirectUri) {
  const wanted = new URL(redirectUri);
  return url.origin === wanted.origin && url.pathname === wanted.pathname;
}

/** The request that the page's form makes once it is filled in. */
function fill(response, page, { username, password, decision, trail }) {
  const forms = parseForms(response.body);
  const signIn = forms.find((form) => form.inputs.some((input) => input.name === 'password'));
  const consent = forms.find((form) => form.buttons.some((button) => button.name === 'decision'));
  const device = forms.find((form) => form.inputs.some((input) => input.name === 'user_code'));
  const form = signIn ?? consent ?? device;
  if (!form) throw new Error(`a page without a form that is known: ${trail.join(', ')}: ${plain(response.body)}`);
  const fields = new URLSearchParams();
  for (const input of form.inputs.filter((input) => input.type === 'hidden')) fields.append(input.name, input.value ?? '');
  if (signIn) {
    if (trail.filter((line) => line.startsWith('POST /login')).length > 0) throw new Error(`asked to sign in again: ${trail.join(', ')}`);
    if (!form.inputs.some((input) => input.name === 'username')) throw new Error('the sign-in form has no input named username');
    fields.append('username', username);
    fields.append('password', password);
  } else if (form === device) {
    // The code is in the address, and so in the form already; the person compares it.
    fields.append('user_code', form.inputs.find((input) => input.name === 'user_code').value);
  } else {
    const button = form.buttons.find((button) => button.name === 'decision' && button.value === decision);
    if (!button) throw new Error(`the consent form has no button decision=${decision}`);
    fields.append('decision', decision);
  }
  if (form.method !== 'post') throw new Error(`a form that is sent by ${form.method}`);
  // Under this policy browsers say `null` for a form of the very same origin (Fetch standard, "append a request Origin").
  const silent = (response.headers['referrer-policy'] ?? '').split(',').pop().trim() === 'no-referrer';
  const headers = silent ? { origin: 'null' } : { origin: page.origin, referer: page.href };
  return { url: new URL(form.action ?? '', page), method: 'POST', body: fields.toString(), headers, site: 'same-origin' };
}

/** The forms of a page, for the plain HTML that a server renders: quoted attributes, no script. */
export function parseForms(html) {
  return [...html.matchAll(/<form\b([^>]*)>([\s\S]*?)<\/form>/gi)].map(([, attributes, content]) => {
    const form = parseAttributes(attributes);
    return {
      action: form.action,
      method: (form.method ?? 'get').toLowerCase(),
      inputs: [...content.matchAll(/<input\b([^>]*)>/gi)].map((match) => parseAttributes(match[1])),
      buttons: [...content.matchAll(/<button\b([^>]*)>/gi)].map((match) => parseAttributes(match[1])),
    };
  });
}

function parseAttributes(text) {
  const entries = [...text.matchAll(/([\w-]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+)))?/g)];
  return Object.fromEntries(entries.map(([, name, a, b, c]) => [name.toLowerCase(), unescape(a ?? b ?? c ?? '')]));
}

function unescape(text) {
  const named = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (whole, hex, decimal, name) => {
    if (hex) return String.fromCodePoint(parseInt(hex, 16));
    if (decimal) return String.fromCodePoint(Number(decimal));
    return named[name] ?? whole;
  });
}

const plain = (html) => html.replace(/<style[\s\S]*?<\/style>/gi, '').replace(/<[^>]*>/g, ' ').replace(/\s+/g, ' ').trim().slice(0, 300);

class Cookies {
  #jar = new Map();

  store(lines, url) {
    for (const line of lines ?? []) {
      const [pair, ...attributes] = line.split(';').map((part) => part.trim());
      const at = pair.indexOf('=');
      const name = pair.slice(0, at);
      const options = Object.fromEntries(attributes.map((attribute) => {
        const [key, ...value] = attribute.split('=');
        return [key.toLowerCase(), value.join('=')];
      }));
      // What browsers refuse must not work here either.
      if (name.startsWith('__Host-') && (!('secure' in options) || options.path !== '/' || 'domain' in options)) continue;
      const gone = Number(options['max-age'] ?? '1') <= 0 || ('expires' in options && Date.parse(options.expires) <= Date.now());
      const path = options.path?.startsWith('/') ? options.path : url.pathname.replace(/\/[^/]*$/, '') || '/';
      const key = `${name} ${path}`;
      if (gone) this.#jar.delete(key);
      else this.#jar.set(key, { name, value: pair.slice(at + 1), path });
    }
  }

  header(url) {
    const below = ({ path }) => url.pathname === path || url.pathname.startsWith(path.endsWith('/') ? path : `${path}/`);
    return [...this.#jar.values()].filter(below).map(({ name, value }) => `${name}=${value}`).join('; ');
  }
}

function send({ url, method, body, headers, site }, cookies) {
  const cookie = cookies.header(url);
  const all = {
    'user-agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36',
    accept: 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8',
    'accept-language': 'en-US,en;q=0.9',
    'upgrade-insecure-requests': '1',
    'sec-fetch-site': site,
    'sec-fetch-mode': 'navigate',
    'sec-fetch-user': '?1',
    'sec-fetch-dest': 'document',
    ...headers,
    ...(cookie ? { cookie } : {}),
    ...(body === undefined ? {} : { 'content-type': 'application/x-www-form-urlencoded', 'content-length': Buffer.byteLength(body) }),
  };
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers: all, agent: false }, (response) => {
      const chunks = [];
      let length = 0;
      response.on('data', (chunk) => {
        length += chunk.length;
        if (length > MAX_BODY) request.destroy(new Error('a page of more than 1 MiB'));
        chunks.push(chunk);
      });
      response.on('error', reject);
      response.on('end', () => {
        cookies.store(response.headers['set-cookie'], url);
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString('utf8') });
      });
    });
    request.setTimeout(PAGE_SECONDS * 1000, () => request.destroy(new Error(`${method} ${url.pathname}: no answer within ${PAGE_SECONDS} s`)));
    request.on('error', reject);
    request.end(body);
  });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const follow = process.argv[2] === '--follow';
  const url = process.argv[follow ? 3 : 2];
  const { SIGN_IN_USERNAME: username, SIGN_IN_PASSWORD: password, BROWSER_LOG: log } = process.env;
  const note = (line) => log && appendFileSync(log, `${line}\n`);
  try {
    const { callback, trail } = await authorize(url, { username, password, follow });
    note(`back at the client: ${trail.join(', ')}`);
    console.log(callback.href);
  } catch (error) {
    note(`failed: ${error.message}`);
    console.error(error.message);
    process.exitCode = 1;
  }
}
