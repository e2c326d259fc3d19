// What is said about one run of a program: its own lines and what was seen from outside, printed together once it is over,
// as several run at once.

import { existsSync } from 'node:fs';
import { start } from './processes.mjs';
import { check, describe } from './report.mjs';

const total = { passed: 0, failed: 0 };

export class Account {
  #lines = [];
  #begun = Date.now();

  constructor(who) {
    this.who = who;
  }

  pass(what) {
    total.passed += 1;
    this.#lines.push(`  PASS ${this.who}: ${what}`);
  }

  fail(what, why) {
    total.failed += 1;
    this.#lines.push(`  FAIL ${this.who}: ${what}${why ? `: ${why}` : ''}`);
  }

  note(text) {
    this.#lines.push(text.replace(/^/gm, '       '));
  }

  async judge(what, work) {
    try {
      await work();
      this.pass(what);
    } catch (error) {
      this.fail(what, describe(error));
    }
  }

  print() {
    this.note(`${((Date.now() - this.#begun) / 1000).toFixed(1)} s`);
    console.log(this.#lines.join('\n'));
  }

  /** Spec: F22 */
  judgeLog(gateway) {
    return this.judge('no token, code, secret or password in the log of the gateway', () => {
      check(gateway.log().length > 0, 'the log is empty');
      const leaks = gateway.leaks();
      check(leaks.length === 0, `${leaks.length} of them, such as ${leaks[0]?.slice(0, 12)}…`);
    });
  }

  /** What the gateway last said, for a run that went wrong. */
  noteLog(gateway) {
    const lines = gateway.log().split('\n').filter((line) => !/ (DEBUG|TRACE) /.test(line));
    this.note(`the gateway's last lines:\n${lines.slice(-15).map((line) => `  ${line}`).join('\n')}`);
  }
}

/**
 * Runs a script to its end and counts its lines: `PASS what`, `FAIL what: why`, and `CLIENT id`, the client id that it was
 * registered under. `ok` says whether all went well.
 */
export async function runScript(account, [command, ...rest], environment, seconds) {
  if (!existsSync(command)) {
    account.fail('is not installed', `there is no ${command}: run tests/setup.sh`);
    return { ok: false };
  }
  let clientId;
  let steps = 0;
  let failures = 0;
  /** What programs print of their own accord is of interest only when something went wrong. */
  const other = [];
  const read = (line) => {
    const [, word, text] = line.match(/^(PASS|FAIL|CLIENT) (.*)$/) ?? [undefined, undefined, line];
    if (word === 'PASS') { steps += 1; account.pass(text); }
    else if (word === 'FAIL') { failures += 1; account.fail(text); }
    else if (word === 'CLIENT') clientId = text;
    else if (text.trim()) other.push(text);
  };
  const program = start(command, rest, { env: { ...process.env, NODE: process.execPath, ...environment } });
  const late = setTimeout(() => program.child.kill('SIGKILL'), seconds * 1000);
  const how = await program.exited;
  clearTimeout(late);
  program.output.split('\n').forEach(read);
  const ok = failures === 0 && how.code === 0 && steps > 0;
  if (!ok && failures === 0) account.fail('runs to its end', how.error?.message ?? how.signal ?? `exit code ${how.code}`);
  if (!ok) other.slice(-40).forEach((line) => account.note(line));
  return { ok, clientId };
}

/** Does the work for each item, at most so many at once. */
export async function inParallel(atOnce, items, work) {
  const queue = [...items];
  const worker = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) await work(next);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

/** Prints the sum of all accounts and ends this program by it. */
export function conclude(what, since) {
  console.log(`  ${what} took ${((Date.now() - since) / 1000).toFixed(1)} s`);
  console.log(`${total.passed} passed, ${total.failed} failed`);
  process.exit(total.failed === 0 && total.passed > 0 ? 0 : 1);
}
