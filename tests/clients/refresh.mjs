// One refresh token, several processes: what clients do that share a file of tokens, lose answers or meet a restart. None of
// that may log anybody out; a token that comes back after its grace is a thief's, and ends the grant.
//
//   node tests/clients/refresh.mjs

import net from 'node:net';
import { Account, conclude } from './lib/account.mjs';
import { startGateway } from './lib/gateway.mjs';
import { client } from './lib/places.mjs';
import { printed, start } from './lib/processes.mjs';
import { refresh } from './lib/refresh-once.mjs';
import { check, describe, sleep, within } from './lib/report.mjs';
import { initialize, signIn } from './lib/tokens.mjs';

const SHORT_GRACE = 1;
const since = Date.now();

/** So many processes at once with one refresh token; what each of them was answered. */
async function atOnce(gateway, times, { id, refresh_token: token }, meanwhile = async () => {}, seconds = 10) {
  const command = [client('lib/refresh-once.mjs'), `${gateway.url}/token`, id, token, String(seconds)];
  const processes = Array.from({ length: times }, () => start(process.execPath, command, { stdio: ['pipe', 'pipe', 'pipe'] }));
  await Promise.all(processes.map((one) => printed(one, /ready/, 60)));
  processes.forEach((one) => one.child.stdin.end('go\n'));
  await meanwhile();
  const ends = await within(90, 'the processes', Promise.all(processes.map((one) => one.exited)));
  check(ends.every(({ code }) => code === 0), `processes ended with ${ends.map(({ code, signal }) => signal ?? code).join(', ')}`);
  return processes.map((one) => JSON.parse(one.output.trim().split('\n').pop()));
}

const again = (gateway, { id }, token) => refresh(`${gateway.url}/token`, id, token);

/** All were answered, with the same successor, and both it and their access tokens are good. */
async function allGoOn(gateway, tokens, answers) {
  const refused = answers.filter(({ status }) => status !== 200);
  check(refused.length === 0, `${refused.length} of ${answers.length} were refused: ${JSON.stringify(refused[0])}`);
  const successors = new Set(answers.map(({ refresh_token: token }) => token));
  check(successors.size === 1, `${successors.size} successors of one token`);
  for (const access of new Set(answers.map(({ access_token: token }) => token))) {
    const status = (await initialize(gateway, access)).status;
    check(status === 200, `an access token opens nothing: ${status}`);
  }
  const next = await again(gateway, tokens, [...successors][0]);
  check(next.status === 200, `the successor is refused: ${next.status} ${next.error}`);
  return next;
}

/** Sends a refresh and hangs up: the gateway has done its part, and nobody reads the answer. */
async function loseAnswer(gateway, { id, refresh_token: token }, isDone = undefined) {
  const { hostname, port, host } = new URL(gateway.url);
  const body = new URLSearchParams({ grant_type: 'refresh_token', client_id: id, refresh_token: token }).toString();
  const issued = async () => (await gateway.metrics()).get('mcpgate_tokens_issued_total{grant="refresh_token"}') ?? 0;
  const before = await issued();
  const socket = net.connect(Number(port), hostname);
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  socket.on('error', () => {});
  await new Promise((resolve) => socket.write(
    `POST /token HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    resolve,
  ));
  // Never read from: so the answer stays in the socket, and is lost with it.
  await (isDone ?? (async () => {
    for (let tries = 0; await issued() === before; tries += 1) {
      check(tries < 100, 'the gateway never replaced the token');
      await sleep(0.05);
    }
  }))();
  socket.resetAndDestroy();
}

async function friends(account, gateway) {
  // Spec: F13, F15, L11
  for (const times of [2, 50]) {
    await account.judge(`${times} processes refresh with one token at once: nobody is logged out`, async () => {
      const tokens = await signIn(gateway);
      await allGoOn(gateway, tokens, await atOnce(gateway, times, tokens));
    });
  }
  // Spec: F15
  await account.judge('a process that is some rotations behind catches up', async () => {
    const tokens = await signIn(gateway);
    let newest = tokens.refresh_token;
    for (let round = 0; round < 3; round += 1) newest = (await again(gateway, tokens, newest)).refresh_token;
    let late = tokens.refresh_token;
    for (let round = 0; round < 3; round += 1) {
      const answer = await again(gateway, tokens, late);
      check(answer.status === 200, `${answer.status} ${answer.error}`);
      late = answer.refresh_token;
    }
    check(late === newest, 'it ended at another token');
  });
  // Spec: F15
  await account.judge('an answer that was lost is given again', async () => {
    const tokens = await signIn(gateway);
    await loseAnswer(gateway, tokens);
    // An answer that is given again is not counted as issued: it gets its time instead.
    for (let times = 0; times < 2; times += 1) await loseAnswer(gateway, tokens, () => sleep(0.3));
    await allGoOn(gateway, tokens, [await again(gateway, tokens, tokens.refresh_token)]);
  });
  // Spec: F15, L11
  await account.judge('an answer that was lost is given again after a crash and a restart', async () => {
    const tokens = await signIn(gateway);
    await loseAnswer(gateway, tokens);
    await gateway.restart('SIGKILL');
    await allGoOn(gateway, tokens, [await again(gateway, tokens, tokens.refresh_token)]);
  });
  for (const signal of ['SIGTERM', 'SIGKILL']) {
    // Spec: F15, L11
    await account.judge(`10 processes refresh while the gateway restarts after ${signal}: nobody is logged out`, async () => {
      const tokens = await signIn(gateway);
      const answers = await atOnce(gateway, 10, tokens, () => gateway.restart(signal), 30);
      await allGoOn(gateway, tokens, answers);
    });
  }
}

async function thieves(account, gateway) {
  const rotated = async () => {
    const tokens = await signIn(gateway);
    const owner = await again(gateway, tokens, tokens.refresh_token);
    check(owner.status === 200, `${owner.status} ${owner.error}`);
    return { tokens, owner };
  };
  const isOver = async (tokens, owner) => {
    const after = await again(gateway, tokens, owner.refresh_token);
    check(after.status === 400 && after.error === 'invalid_grant', `the grant goes on: ${after.status} ${after.error}`);
    const status = (await initialize(gateway, owner.access_token)).status;
    check(status === 401, `its access token still opens the server: ${status}`);
  };
  // Spec: F14, L9
  await account.judge('a token that comes back after its grace ends the grant, for the thief and the owner', async () => {
    const { tokens, owner } = await rotated();
    await sleep(SHORT_GRACE + 0.6);
    const thief = await again(gateway, tokens, tokens.refresh_token);
    check(thief.status === 400 && thief.error === 'invalid_grant', `the thief got ${thief.status} ${thief.error}`);
    await isOver(tokens, owner);
  });
  // Spec: F14, L11
  await account.judge('the same over a restart', async () => {
    const { tokens, owner } = await rotated();
    await gateway.restart('SIGKILL');
    await sleep(SHORT_GRACE + 0.6);
    const thief = await again(gateway, tokens, tokens.refresh_token);
    check(thief.status === 400 && thief.error === 'invalid_grant', `the thief got ${thief.status} ${thief.error}`);
    await isOver(tokens, owner);
  });
  // Spec: F14
  await account.judge('20 thieves at once get nothing either, and other grants go on', async () => {
    const { tokens, owner } = await rotated();
    const neighbour = await signIn(gateway);
    await sleep(SHORT_GRACE + 0.6);
    const answers = await atOnce(gateway, 20, tokens);
    check(answers.every(({ status, error }) => status === 400 && error === 'invalid_grant'), JSON.stringify(answers[0]));
    await isOver(tokens, owner);
    const other = await again(gateway, neighbour, neighbour.refresh_token);
    check(other.status === 200, `the neighbour was logged out: ${other.status} ${other.error}`);
  });
}

async function run(name, work, oauth) {
  const account = new Account(name);
  try {
    const gateway = await startGateway({ configure: (configuration) => { configuration.oauth = oauth; } });
    await work(account, gateway);
    await account.judgeLog(gateway);
    const how = await gateway.stop();
    check(how.code === 0, `the gateway ended with ${how.signal ?? how.code}`);
  } catch (error) {
    account.fail('rig', describe(error));
  }
  account.print();
}

await Promise.all([
  run('refresh', friends, {}),
  run('theft', thieves, { refresh_grace: `${SHORT_GRACE}s` }),
]);
conclude('refreshes', since);
