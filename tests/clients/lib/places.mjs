// Where the tests find what tests/setup.sh installed and cargo built.

import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const TESTS = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const targets = path.resolve(process.env.CARGO_TARGET_DIR ?? path.join(TESTS, '../target'));
/** The program that everything here is about. */
export const PROGRAM = path.resolve(process.env.MCPGATE ?? path.join(targets, 'debug/mcpgate'));
/** What a newcomer's browser is: lib/browser.mjs under a name that programs can start. */
export const BROWSER = path.join(TESTS, 'clients/lib/browser');

export const python = (environment) => path.join(targets, 'test-env', environment, 'bin/python');
export const example = (name) => path.join(targets, 'debug/examples', name);
export const client = (file) => path.join(TESTS, 'clients', file);

/** A Node that is new enough for the Inspector and the conformance suite: this one, or the one that comes as a package. */
export function node22() {
  if (Number(process.versions.node.split('.')[0]) >= 22) return process.execPath;
  const packaged = path.join(TESTS, `judges/node_modules/node-linux-${process.arch}/bin/node`);
  if (!existsSync(packaged)) throw new Error('Node 22 or newer is needed: run tests/setup.sh');
  return packaged;
}
