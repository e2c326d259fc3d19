// Everything of the data plane that can be switched on, each in a way that allows everything: a server behind all of it
// must be the same as behind none of it. A new feature is a new entry here.

export const FEATURES = [
  {
    name: 'scopes of the upstream',
    switchOn: ({ upstreams, ...rest }) => {
      for (const upstream of upstreams) upstream.scopes = [`${upstream.name}:use`];
      for (const client of rest.oauth.clients) client.scope = upstreams.map(({ name }) => `${name}:use`);
    },
  },
  {
    name: 'limits',
    switchOn: ({ upstreams }) => {
      for (const upstream of upstreams) upstream.limits = { body: '8MiB', response_timeout: '120s', idle_stream: '120s', requests_per_minute: 1_000_000 };
    },
  },
];
