// Stands between the gateway and the MCP server and notes the headers of every request. It passes everything on as it
// comes and sends the head of an answer at once: event streams begin long before their first event.

import http from 'node:http';

export async function startRecorder(upstreamPort) {
  const seen = [];
  const server = http.createServer((incoming, answer) => {
    seen.push({ method: incoming.method, url: incoming.url, headers: incoming.headers, raw: incoming.rawHeaders });
    const onward = http.request({
      host: '127.0.0.1', port: upstreamPort, method: incoming.method, path: incoming.url,
      headers: incoming.headers,
    }, (response) => {
      answer.writeHead(response.statusCode, response.headers);
      answer.flushHeaders();
      response.pipe(answer);
      response.on('error', () => answer.destroy());
    });
    onward.on('error', () => {
      if (!answer.headersSent) answer.writeHead(502);
      answer.end();
    });
    answer.on('close', () => onward.destroy());
    incoming.pipe(onward);
  });
  server.keepAliveTimeout = 5_000;
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  return {
    port: server.address().port,
    seen,
    stop: () => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    }),
  };
}
