// The unmodified MCP servers that the gateway stands in front of; none of them knows OAuth.

import { client, python } from './places.mjs';
import { freePort, printed, start, stop } from './processes.mjs';

/** `@modelcontextprotocol/server-everything`: sessions, and event streams that stay open. */
async function everything(port) {
  const script = client('node_modules/@modelcontextprotocol/server-everything/dist/index.js');
  const server = start(process.execPath, [script, 'streamableHttp'], { env: { ...process.env, PORT: String(port) } });
  await printed(server, /listening on port/i, 20);
  return server;
}

/** The Python SDK's server, second generation: the newest revision, and 421 or 403 for a foreign Host or Origin. */
async function modern(port) {
  const server = start(python('python-2'), [client('modern_server.py'), String(port)]);
  await printed(server, /Uvicorn running on/i, 30);
  return server;
}

/** `@modelcontextprotocol/server-everything` with the transport of 2024-11-05: GET /sse, POST /message. */
async function old(port) {
  const script = client('node_modules/@modelcontextprotocol/server-everything/dist/index.js');
  const server = start(process.execPath, [script, 'sse'], { env: { ...process.env, PORT: String(port) } });
  await printed(server, /running on port/i, 20);
  return server;
}

/** The Python SDK's server, first generation, with that transport: GET /sse, POST /messages/. */
async function oldPython(port) {
  const server = start(python('python-1'), [client('old_server.py'), String(port)]);
  await printed(server, /Uvicorn running on/i, 30);
  return server;
}

const SERVERS = { everything, modern, old, 'old-python': oldPython };

export async function startServer(name) {
  const port = await freePort();
  const server = await SERVERS[name](port);
  return { name, port, stop: () => stop(server, 5) };
}
