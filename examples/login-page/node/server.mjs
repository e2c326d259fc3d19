// A sign-in page for mcpgate, in Node and without dependencies: PORT, MCPGATE_URL and LOGIN_SECRET come from the environment.
//
// gateway.yaml:
//   oauth:
//     login_page: { url: http://127.0.0.1:4000/sign-in, secret: { env: LOGIN_SECRET } }
import { createServer } from 'node:http';
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';

const port = Number(process.env.PORT ?? 4000);
const gateway = process.env.MCPGATE_URL ?? 'http://127.0.0.1:8080';
const secret = process.env.LOGIN_SECRET;
if (!secret) throw new Error('set LOGIN_SECRET to the secret of oauth.login_page');

// Your application knows its people; this one knows two, by name.
const people = new Map([
  ['ada', { password: 'engine', subject: 'user-1', email: 'ada@example.com', name: 'Ada Lovelace', groups: ['engineering'] }],
  ['bob', { password: 'builder', subject: 'user-2', email: 'bob@example.com', name: 'Bob', groups: [] }],
]);

const key = randomBytes(32);
const sign = (text) => createHmac('sha256', key).update(text).digest('base64url');
const same = (a, b) => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b));
const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

/** The form. Its token ties it to the browser's cookie, so that no other site can send it. */
function page(response, status, challenge, client, problem = '') {
  const nonce = randomBytes(16).toString('base64url');
  response.writeHead(status, {
    'content-type': 'text/html; charset=utf-8',
    'set-cookie': `form=${nonce}; HttpOnly; SameSite=Strict; Path=/`,
    'cache-control': 'no-store',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'referrer-policy': 'no-referrer',
  });
  response.end(`<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title>
    <main><h1>Sign in to Example</h1><p>${escape(client)} wants to act for you.</p>
    <p role="alert">${escape(problem)}</p>
    <form method="post">
      <input type="hidden" name="login_challenge" value="${escape(challenge)}">
      <input type="hidden" name="client_name" value="${escape(client)}">
      <input type="hidden" name="token" value="${sign(nonce)}">
      <label>Name <input name="username" autocomplete="username"></label>
      <label>Password <input name="password" type="password" autocomplete="current-password"></label>
      <button name="action" value="sign-in">Sign in</button>
      <button name="action" value="cancel">Cancel</button>
    </form></main></html>`);
}

/** Tells the gateway who has signed in, or that nobody has; where it wants the browser. */
async function tell(what, body) {
  const answer = await fetch(`${gateway}/login/${what}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status} ${said.error}: ${said.error_description}`);
  return said.redirect_to;
}

async function read(request) {
  let text = '';
  for await (const chunk of request) {
    text += chunk;
    if (text.length > 10_000) throw new Error('the form is too long');
  }
  return new URLSearchParams(text);
}

createServer(async (request, response) => {
  try {
    const url = new URL(request.url, 'http://page');
    if (url.pathname !== '/sign-in') return response.writeHead(404).end();
    if (request.method === 'GET') {
      const challenge = url.searchParams.get('login_challenge');
      if (!challenge) return response.writeHead(400).end('login_challenge is missing');
      return page(response, 200, challenge, url.searchParams.get('client_name') ?? 'An app');
    }
    const form = await read(request);
    const nonce = /(?:^|; )form=([\w-]+)/.exec(request.headers.cookie ?? '')?.[1] ?? '';
    if (!same(form.get('token') ?? '', sign(nonce))) return response.writeHead(403).end('this form is not from here');
    const challenge = form.get('login_challenge') ?? '';
    let next;
    if (form.get('action') === 'cancel') {
      next = await tell('reject', { login_challenge: challenge, error: 'access_denied', error_description: 'cancelled' });
    } else {
      const person = people.get(form.get('username') ?? '');
      if (!person || !same(form.get('password') ?? '', person.password)) {
        return page(response, 401, challenge, form.get('client_name') ?? 'An app', 'Name or password is wrong.');
      }
      const { password, ...about } = person;
      next = await tell('accept', { login_challenge: challenge, username: form.get('username'), ...about });
    }
    response.writeHead(303, { location: next, 'cache-control': 'no-store' }).end();
  } catch (error) {
    console.error(error.message);
    if (!response.headersSent) response.writeHead(502);
    response.end('The sign-in could not be finished. Go back to the app and try again.');
  }
}).listen(port, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${port}/sign-in`));
