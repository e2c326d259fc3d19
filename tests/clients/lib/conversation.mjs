// What every client does once it is connected, whichever SDK it is made with.

import { check, sleep, step } from './report.mjs';

export const MCP_URL = process.env.MCP_URL;
export const TOKEN_SECONDS = Number(process.env.TOKEN_SECONDS);
/** The address of the test runner: it can restart the gateway. */
const CONTROL_URL = process.env.CONTROL_URL;
/** How the gateway ends in the middle of this session; no name, no restart. */
export const { RESTART } = process.env;
export const PERSON = { username: process.env.SIGN_IN_USERNAME, password: process.env.SIGN_IN_PASSWORD };

const STEPS = 4;
const DURATION = 2;

/** Lists the tools, calls one, and follows one that reports its progress; `call` calls a tool with options. */
export async function converse(client, call = (tool, options) => client.callTool(tool, undefined, options)) {
  await step('tools/list names the tools of the server', 10, async () => {
    const { tools } = await client.listTools();
    for (const name of ['echo', 'trigger-long-running-operation']) {
      check(tools.some((tool) => tool.name === name), `no ${name} among ${tools.map((tool) => tool.name).join(', ')}`);
    }
  });
  await step('tools/call answers', 10, () => echo(client, 'grüße, 世界'));
  // Spec: K1
  await step('progress arrives while the call runs', 15, async () => {
    const times = [];
    const tool = { name: 'trigger-long-running-operation', arguments: { duration: DURATION, steps: STEPS } };
    const result = await call(tool, { onprogress: () => times.push(Date.now()) });
    checkProgress(times, Date.now());
    check(/completed/.test(text(result)), `unexpected result: ${text(result)}`);
  });
}

/** The server reports four times in two seconds; a gateway that holds events back delivers them all at the end. */
function checkProgress(times, end) {
  // The last report and the result leave the server together, and SDKs drop a report that comes after its result.
  check(times.length >= STEPS - 1, `${times.length} reports instead of ${STEPS}`);
  const ahead = (end - times[0]) / 1000;
  check(ahead > DURATION / 4, `the first report came ${ahead} s before the result`);
}

export async function echo(client, message) {
  const result = await client.callTool({ name: 'echo', arguments: { message } });
  check(text(result).includes(message), `unexpected result: ${text(result)}`);
}

const text = (result) => (result.content ?? []).map((part) => part.text ?? '').join(' ');

/** Waits until the access token is over, calls again and expects that the client got a new one by itself. */
export async function refresh(client, provider) {
  // Spec: F13, H3
  await step('an expired token is refreshed without the person', 20 + TOKEN_SECONDS, async () => {
    const before = provider.tokens();
    check(before?.refresh_token, 'the client has no refresh token');
    await sleep(TOKEN_SECONDS + 1);
    await echo(client, 'after the token expired');
    const after = provider.tokens();
    check(after.access_token !== before.access_token, 'the access token is the old one');
    check(provider.signIns === 1, `the person was sent to the browser ${provider.signIns} times`);
  });
}

/** The gateway ends in the middle of the session and comes back; the person notices nothing. Spec: C10 */
export async function restart(client, provider, again = () => echo(client, 'after the restart')) {
  if (!RESTART) return;
  await step(`the gateway restarts after ${RESTART}, and the client goes on without the person`, 60, async () => {
    const { signIns } = provider;
    const before = provider.tokens();
    await restartGateway();
    // Over by now: so that the refresh token, too, has to have lived through it.
    await sleep(TOKEN_SECONDS + 1);
    await again();
    check(provider.tokens().access_token !== before.access_token, 'the access token is the old one');
    check(provider.signIns === signIns, 'the person was sent to the browser again');
  });
}

export async function restartGateway(signal = RESTART) {
  const response = await fetch(`${CONTROL_URL}/restart/${signal}`, { method: 'POST' });
  check(response.ok, `the gateway did not come back: ${await response.text()}`);
}
