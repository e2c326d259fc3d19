// A process of a client that shares its tokens with other processes: it waits for a line on stdin, refreshes, and prints
// what it was answered as JSON. A connection that fails is tried again for a while, as clients do.
//
//   node refresh-once.mjs TOKEN_ENDPOINT CLIENT_ID REFRESH_TOKEN SECONDS

import http from 'node:http';
import { once } from 'node:events';

const [endpoint, clientId, token, seconds] = process.argv.slice(2);

export function refresh(url, client, refreshToken) {
  const body = new URLSearchParams({ grant_type: 'refresh_token', client_id: client, refresh_token: refreshToken }).toString();
  const headers = { 'content-type': 'application/x-www-form-urlencoded', 'content-length': Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method: 'POST', headers, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => { text += part; }).on('error', reject);
      response.on('end', () => {
        if (response.complete) resolve({ status: response.statusCode, ...JSON.parse(text || '{}') });
        else reject(new Error('the answer was cut off'));
      });
    });
    request.setTimeout(10_000, () => request.destroy(new Error('no answer within 10 s')));
    request.on('error', reject);
    request.end(body);
  });
}

if (endpoint) {
  console.log('ready');
  await once(process.stdin, 'data');
  const deadline = Date.now() + Number(seconds) * 1000;
  let answer;
  let tries = 0;
  while (!answer) {
    tries += 1;
    try {
      answer = await refresh(endpoint, clientId, token);
    } catch (error) {
      if (Date.now() > deadline) answer = { error: error.message };
      else await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  console.log(JSON.stringify({ ...answer, tries }));
  process.exit(0);
}
