// Everything of the data plane that can be switched on, each in a way that allows everything: a server behind all of it
// must be the same as behind none of it. A new feature is a new entry here.

import net from 'node:net';
import path from 'node:path';
import { readFileSync } from 'node:fs';
import tls from 'node:tls';
import { TESTS } from '../clients/lib/places.mjs';

const file = (name) => path.join(TESTS, 'fixtures/tls', name);
/** For `localhost`, which is what the gateway and the servers are called here where they speak TLS. */
export const [CERTIFICATE, KEY] = [file('site-cert.pem'), file('site-key.pem')];

/** `switchOn` changes the configuration, and may return what to do when all is over. */
export const FEATURES = [
  {
    name: 'scopes of the upstream',
    switchOn: ({ upstreams, oauth }) => {
      for (const upstream of upstreams) upstream.scopes = [`${upstream.name}:use`];
      for (const client of oauth.clients) client.scope = upstreams.map(({ name }) => `${name}:use`);
    },
  },
  {
    name: 'limits',
    switchOn: ({ upstreams }) => {
      for (const upstream of upstreams) Object.assign(upstream.limits ??= {}, { body: '8MiB', response_timeout: '120s', idle_stream: '120s', requests_per_minute: 1_000_000, client_requests_per_minute: 1_000_000, tool_calls_per_minute: 1_000_000, concurrent_requests: 100_000, concurrent_streams: 100_000, total_concurrent_requests: 100_000, total_concurrent_streams: 100_000 });
    },
  },
  { name: 'who is calling, signed', switchOn: ({ upstreams }) => { for (const upstream of upstreams) upstream.identity_jwt = true; } },
  {
    // Rules that need something are judged by the story tests: there the gateway is stricter than servers are, and says so in
    // words of its own.
    name: 'rules that let everything through',
    switchOn: ({ upstreams }) => {
      for (const upstream of upstreams) {
        const rules = [{ match: '*', scopes: [] }];
        Object.assign(upstream, { tools: rules, resources: rules, prompts: rules, methods: rules, filter_lists: true });
      }
    },
  },
  // So often that every silence of the suite has one.
  { name: 'comments on silent streams', switchOn: ({ upstreams }) => { for (const upstream of upstreams) upstream.keep_alive = '1s'; } },
  { name: 'sessions that belong to somebody', switchOn: ({ upstreams }) => { for (const upstream of upstreams) upstream.bind_sessions = true; } },
  { name: 'proxies that are trusted', switchOn: (configuration) => { configuration.trusted_proxies = ['127.0.0.0/8']; } },
  { name: 'files that are watched', switchOn: (configuration) => { configuration.watch_files = true; } },
  {
    name: 'TLS and HTTP/2 from clients',
    switchOn: (configuration) => {
      configuration.listen = [{ address: configuration.listen, tls: { cert: CERTIFICATE, key: KEY }, http2: true }];
    },
  },
  {
    name: 'TLS to upstreams, with a certificate of the gateway',
    switchOn: async ({ upstreams }) => {
      const fronts = await Promise.all(upstreams.map(async (upstream) => {
        const front = await encrypted(Number(new URL(upstream.url).port));
        upstream.url = `https://127.0.0.1:${front.address().port}/mcp`;
        upstream.tls = { ca: CERTIFICATE, cert: file('cert.pem'), key: file('key.pem'), server_name: 'localhost' };
        return front;
      }));
      return () => fronts.forEach((front) => front.close());
    },
  },
];

/** Whoever shows a certificate is let through to a port that knows nothing of TLS. */
function encrypted(port) {
  const options = { cert: readFileSync(CERTIFICATE), key: readFileSync(KEY), requestCert: true, rejectUnauthorized: false };
  const server = tls.createServer(options, (outside) => {
    if (outside.getPeerCertificate().subject?.CN !== 'localhost') {
      outside.destroy();
      return;
    }
    const inside = net.connect(port, '127.0.0.1');
    outside.pipe(inside).pipe(outside);
    for (const [one, other] of [[outside, inside], [inside, outside]]) one.on('error', () => other.destroy()).on('close', () => other.destroy());
  });
  return new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', () => resolve(server)));
}
