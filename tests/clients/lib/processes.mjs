// Programs that a test starts, and what they need: their output is kept, every wait has an end, and nothing outlives the
// test.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

const running = new Set();
const directories = new Set();
process.on('exit', () => {
  running.forEach((child) => child.kill('SIGKILL'));
  directories.forEach((directory) => rmSync(directory, { recursive: true, force: true }));
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

/** Starts a program; `output` grows with all that it prints. */
export function start(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  const program = { child, output: '', exited: undefined };
  running.add(child);
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8');
    stream.on('data', (text) => {
      program.output += text;
      options.onOutput?.(text);
    });
  }
  program.exited = new Promise((resolve) => {
    child.on('error', (error) => {
      running.delete(child);
      resolve({ code: null, error });
    });
    child.on('close', (code, signal) => {
      running.delete(child);
      resolve({ code, signal });
    });
  });
  return program;
}

/** Waits until the program prints something that matches. */
export async function printed(program, pattern, seconds) {
  const deadline = Date.now() + seconds * 1000;
  let over;
  program.exited.then((how) => { over = how; });
  for (;;) {
    const match = program.output.match(pattern);
    if (match) return match;
    const why = over ? `it ended (${over.error?.message ?? over.signal ?? over.code})` : Date.now() > deadline && `${seconds} s passed`;
    if (why) throw new Error(`${program.child.spawnfile} never printed ${pattern}: ${why}; it printed:\n${program.output.slice(-2000)}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Asks the program to stop and says how it ended; kills it once the time is up. */
export async function stop(program, seconds, signal = 'SIGTERM') {
  const since = Date.now();
  program.child.kill(signal);
  const late = setTimeout(() => program.child.kill('SIGKILL'), seconds * 1000);
  const how = await program.exited;
  clearTimeout(late);
  return { ...how, seconds: (Date.now() - since) / 1000 };
}

/** A port of the loopback interface that was free a moment ago. */
export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A directory that is removed with all its contents once this process ends. */
export function temporaryDirectory() {
  const directory = mkdtempSync(path.join(tmpdir(), 'mcpgate-tests-'));
  directories.add(directory);
  return directory;
}
