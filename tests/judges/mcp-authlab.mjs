// mcp-authlab signs in as a client, attacks the authorization server and the MCP server with the tokens that it got, and
// gives a grade.

import path from 'node:path';
import { BROWSER, python } from '../clients/lib/places.mjs';
import { start, temporaryDirectory } from '../clients/lib/processes.mjs';
import { check, main, step } from '../clients/lib/report.mjs';

const { MCP_URL, OTHER_MCP_URL } = process.env;
const home = temporaryDirectory();
const authlab = path.join(path.dirname(python('judges')), 'mcp-authlab');
/** Plain http on the loopback interface is all that it may find fault with. */
const TRANSPORT = ['TLS-01', 'ASM-03', 'ASF-06'];

async function run(...args) {
  const environment = { ...process.env, HOME: home, XDG_CONFIG_HOME: home, BROWSER: `${BROWSER} %s &` };
  const program = start(authlab, args, { env: environment });
  const { code } = await program.exited;
  return { code, output: program.output };
}

await main(async () => {
  // Spec: D7, D10, D18, F8, F9, F11, F13
  await step('it signs in, and the authorization server withstands its probes', 60, async () => {
    const { code, output } = await run('login', MCP_URL, '--thorough', '--foreign-resource', OTHER_MCP_URL, '--timeout', '20');
    check(code === 0, output);
    check(/TOK-03 will run/.test(output), output);
  });
  // Spec: H1, H2, H3, H4, I1, K13
  await step('grade A, every check was made, nothing but the missing TLS found', 60, async () => {
    const { code, output } = await run('scan', MCP_URL, '--fail-under', 'A', '--format', 'json');
    check(code === 0, output);
    const report = JSON.parse(output.slice(output.indexOf('{')));
    check(report.grade === 'A', `grade ${report.grade}`);
    const found = report.results.filter(({ id, status }) => status !== 'pass' && !TRANSPORT.includes(id));
    check(found.length === 0, found.map(({ id, status, message }) => `${id} ${status}: ${message}`).join('; '));
    console.log(`${report.score} points, ${report.coverage.line}`);
  });
});
