// Adds the access token that the conformance suite cannot send, and changes nothing else: it stands where clients look for
// the gateway (its address is the gateway's `public_url`), as a load balancer would, so Host and Origin pass as they are
// sent, forged ones included, and it is the gateway that judges them. Heads go out at once, bytes as they come, and whoever
// goes away is gone on the other side, too.

import http from 'node:http';

/** `tokenOf(path)` is the token for whatever is behind that path, if it takes one. Listens on `port`, passes on to `gatewayPort`. */
export async function startShim(port, gatewayPort, tokenOf) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
  const server = http.createServer((incoming, answer) => {
    const token = tokenOf(incoming.url);
    const headers = token ? [...incoming.rawHeaders, 'Authorization', `Bearer ${token}`] : incoming.rawHeaders;
    const onward = http.request({
      host: '127.0.0.1', port: gatewayPort, method: incoming.method, path: incoming.url, headers, agent, setHost: false,
    }, (response) => {
      answer.writeHead(response.statusCode, response.statusMessage, response.rawHeaders);
      answer.flushHeaders();
      response.pipe(answer);
      response.on('error', () => answer.destroy());
    });
    // What the gateway breaks off is broken off here: an answer of the shim's own would be another result.
    onward.on('error', () => answer.destroy());
    answer.on('close', () => onward.destroy());
    incoming.pipe(onward);
  });
  // Nobody here waits so long; a connection that the shim closes of its own accord would be a result of the shim's.
  server.keepAliveTimeout = 120_000;
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  return {
    stop: () => new Promise((resolve) => {
      agent.destroy();
      server.close(resolve);
      server.closeAllConnections();
    }),
  };
}
