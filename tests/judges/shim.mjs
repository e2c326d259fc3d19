// Adds the access token that the conformance suite cannot send, and changes nothing else: it stands where clients look for
// the gateway (its address is the gateway's `public_url`), as a load balancer would, so Host and Origin pass as they are
// sent, forged ones included, and it is the gateway that judges them. Heads go out at once, bytes as they come, and whoever
// goes away is gone on the other side, too.

import http from 'node:http';
import http2 from 'node:http2';

/** Of a connection, not of a message: HTTP/2 has none of these. */
const HOP = new Set(['connection', 'keep-alive', 'transfer-encoding', 'upgrade', 'host', 'te', 'proxy-connection']);

/**
 * `tokenOf(path)` is the token for whatever is behind that path, if it takes one. Listens on `port`, passes on to
 * `gatewayPort`: in HTTP/1.1, or with the authority `ca` in HTTP/2 over TLS.
 */
export async function startShim(port, gatewayPort, tokenOf, { ca } = {}) {
  const onward = ca ? overHttp2(gatewayPort, ca) : overHttp1(gatewayPort);
  const server = http.createServer((incoming, answer) => onward.pass(incoming, answer, tokenOf(incoming.url)));
  // Nobody here waits so long; a connection that the shim closes of its own accord would be a result of the shim's.
  server.keepAliveTimeout = 120_000;
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  return {
    stop: () => new Promise((resolve) => {
      onward.stop();
      server.close(resolve);
      server.closeAllConnections();
    }),
  };
}

function overHttp1(port) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
  return {
    pass(incoming, answer, token) {
      const headers = token ? [...incoming.rawHeaders, 'Authorization', `Bearer ${token}`] : incoming.rawHeaders;
      const request = http.request({
        host: '127.0.0.1', port, method: incoming.method, path: incoming.url, headers, agent, setHost: false,
      }, (response) => {
        answer.writeHead(response.statusCode, response.statusMessage, response.rawHeaders);
        answer.flushHeaders();
        response.pipe(answer);
        response.on('error', () => answer.destroy());
      });
      // What the gateway breaks off is broken off here: an answer of the shim's own would be another result.
      request.on('error', () => answer.destroy());
      answer.on('close', () => request.destroy());
      incoming.pipe(request);
    },
    stop: () => agent.destroy(),
  };
}

/** All requests share a connection, as browsers and load balancers have it. */
function overHttp2(port, ca) {
  let session;
  const connected = () => {
    if (!session || session.closed || session.destroyed) {
      session = http2.connect(`https://127.0.0.1:${port}`, { ca, servername: 'localhost' });
      session.on('error', () => session.destroy());
    }
    return session;
  };
  return {
    pass(incoming, answer, token) {
      const headers = { ':method': incoming.method, ':path': incoming.url, ':scheme': 'https', ':authority': incoming.headers.host };
      for (const [name, value] of Object.entries(incoming.headersDistinct)) if (!HOP.has(name)) headers[name] = value;
      if (token) headers.authorization = `Bearer ${token}`;
      const bodiless = !('content-length' in incoming.headers) && !('transfer-encoding' in incoming.headers);
      const stream = connected().request(headers, { endStream: bodiless });
      stream.on('response', (all) => {
        const { ':status': status, ...rest } = all;
        answer.writeHead(status, rest);
        answer.flushHeaders();
        stream.pipe(answer);
      });
      stream.on('error', () => answer.destroy());
      // Torn off on that side, torn off on this.
      stream.on('close', () => { if (!answer.writableEnded) answer.destroy(); });
      answer.on('close', () => stream.close(http2.constants.NGHTTP2_CANCEL));
      if (!bodiless) incoming.pipe(stream);
    },
    stop: () => session?.destroy(),
  };
}
