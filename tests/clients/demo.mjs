// What a newcomer does after `mcpgate demo`: reads the address, the name and the password off the terminal and connects
// a client. The server behind it shows the headers that it received.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { PROGRAM } from './lib/gateway.mjs';
import { printed, start, stop } from './lib/processes.mjs';
import { Provider } from './lib/provider.mjs';
import { check, main, step } from './lib/report.mjs';

await main(async () => {
  const demo = start(PROGRAM, ['demo']);
  const read = async (label) => (await printed(demo, new RegExp(`^ +${label} +(\\S+)$`, 'm'), 20))[1];
  const [url, person] = await step('it says where it is and who can sign in', 25, async () => [
    new URL(await read('MCP server')), { username: await read('Sign in as'), password: await read('Password') },
  ]);
  await step('it listens', 20, () => printed(demo, /listening on/, 15));

  const provider = new Provider('A newcomer', person);
  const client = new Client({ name: 'newcomer', version: '1.0.0' });
  const connect = () => {
    const transport = new StreamableHTTPClientTransport(url, { authProvider: provider });
    return { transport, done: client.connect(transport) };
  };
  await step('a client signs in and connects', 30, async () => {
    const first = connect();
    await first.done.catch((error) => check(provider.callback, error.message));
    await first.transport.finishAuth(provider.callback.get('code'));
    await connect().done;
  });
  console.log(`CLIENT ${provider.clientInformation().client_id}`);
  await step('whoami shows what the server learned about the caller', 10, async () => {
    const { content } = await client.callTool({ name: 'whoami', arguments: {} });
    const headers = JSON.parse(content[0].text);
    check(headers['x-forwarded-preferred-username'] === person.username, JSON.stringify(headers));
    check(headers['x-forwarded-client-id'] === provider.clientInformation().client_id, JSON.stringify(headers));
    check(headers['x-forwarded-user'] && headers['x-forwarded-scope'] && headers['x-request-id'], JSON.stringify(headers));
    check(!('authorization' in headers), 'the server was shown the access token');
  });
  await step('echo gives the text back', 10, async () => {
    const { content } = await client.callTool({ name: 'echo', arguments: { text: 'hello' } });
    check(content[0].text === 'hello', content[0].text);
  });
  await step('count reports its progress', 10, async () => {
    let reports = 0;
    await client.callTool({ name: 'count', arguments: { to: 5, pause_ms: 100 } }, undefined, { onprogress: () => { reports += 1; } });
    check(reports >= 4, `${reports} reports instead of 5`);
  });
  await client.close();
  await step('Ctrl-C ends it with 0', 15, async () => {
    const how = await stop(demo, 10, 'SIGINT');
    check(how.code === 0, `it ended with ${how.signal ?? how.code}`);
  });
});
