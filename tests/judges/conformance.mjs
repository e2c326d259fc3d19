// The official conformance suite in its mode for authorization servers: it reads the metadata, prints an authorization URL
// for a person to open, and redeems the code. Once as clients of old revisions are, who name no resource, and once with it.

import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { TESTS, node22 } from '../clients/lib/places.mjs';
import { freePort, printed, start, temporaryDirectory } from '../clients/lib/processes.mjs';
import { check, main, step } from '../clients/lib/report.mjs';
import { ISSUER, RESOURCE, visit } from './lib.mjs';

const suite = path.join(TESTS, 'judges/node_modules/@modelcontextprotocol/conformance/dist/index.js');
const CHECKS = ['authorization-server-metadata', 'authorization-server-metadata-cimd', 'authorization-code-grant'];

async function run(...more) {
  const directory = temporaryDirectory();
  const args = ['authorization', '--url', ISSUER.origin, '--client-id', 'conformance', '-p', String(await freePort()), '-o', directory];
  const program = start(node22(), [suite, ...args, ...more, '--verbose'], { cwd: directory });
  const [url] = await printed(program, /http:\S+\/authorize\?\S+/, 20);
  await visit(url, { follow: true });
  const { code } = await program.exited;
  const checks = readdirSync(directory).flatMap((name) => JSON.parse(readFileSync(path.join(directory, name, 'checks.json'), 'utf8')));
  const bad = checks.filter(({ id, status }) => status !== 'SUCCESS');
  check(bad.length === 0, bad.map(({ id, status, errorMessage }) => `${id} ${status}: ${errorMessage}`).join('; '));
  check(code === 0, `exit code ${code}: ${program.output}`);
  for (const id of CHECKS) check(checks.some((made) => made.id === id), `the check ${id} was not made: ${JSON.stringify(checks)}`);
}

await main(async () => {
  // Spec: A1, A4, A7, D4, D9, D11, D14, F2
  for (const revision of ['2025-11-25', '2026-07-28']) {
    await step(`${revision}: metadata and code grant, all checks passed, no warning`, 40, () => run('--spec-version', revision));
  }
  await step('the same for a named resource', 40, () => run('--resource', RESOURCE.href));
});
