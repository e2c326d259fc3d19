// The fixture server of the conformance suite, made with the TypeScript SDK, second generation: sessions for the revisions
// that have them, and the newest revision without. It knows nothing of OAuth.
//
//   node typescript.mjs PORT

import { randomBytes, randomUUID } from 'node:crypto';
import http from 'node:http';
import { NodeStreamableHTTPServerTransport, localhostHostValidation, localhostOriginValidation, toNodeHandler, toWebRequest } from '@modelcontextprotocol/node';
import { ProtocolError, Server, createMcpHandler, createRequestStateCodec, inputRequired, isLegacyRequest } from '@modelcontextprotocol/server';

const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==';
const SILENCE = Buffer.concat([Buffer.from('RIFF$\0\0\0WAVEfmt '), Buffer.alloc(20, 1), Buffer.from('data\0\0\0\0')]).toString('base64');
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const text = (words) => ({ type: 'text', text: words });
const image = { type: 'image', data: PIXEL, mimeType: 'image/png' };
const embedded = (uri, mimeType, words) => ({ type: 'resource', resource: { uri, mimeType, text: words } });
const form = (message, properties) => inputRequired.elicit({ message, requestedSchema: { type: 'object', properties, required: Object.keys(properties) } });
const sample = (words, maxTokens = 100) => inputRequired.createMessage({ messages: [{ role: 'user', content: text(words) }], maxTokens });
const states = createRequestStateCodec({ key: randomBytes(32) });

const NOTHING = { type: 'object', properties: {} };
const takes = (name, description) => ({ type: 'object', properties: { [name]: { type: 'string', description } }, required: [name] });
const titled = (...names) => names.map((name, index) => ({ const: `value${index + 1}`, title: name }));
const three = ['option1', 'option2', 'option3'];

/** Ends with what the answers make, or asks for them: over a session in a request of the server's, else in the result. */
async function asks(inputs, requests, answer, { state, keys = Object.keys(requests) } = {}) {
  if (!keys.every((key) => inputs?.[key] && (inputs[key].action ? inputs[key].content : true))) {
    return inputRequired({ inputRequests: requests, ...(state ? { requestState: await states.mint(state) } : {}) });
  }
  return { content: [text(await answer(inputs))] };
}
const named = { user_name: form('What is your name?', { name: { type: 'string' } }) };
const confirm = { confirm: form('Please confirm', { ok: { type: 'boolean' } }) };

/** Name, what it says of itself, what it takes, what it does. */
const TOOLS = {
  test_simple_text: ['Answers with text', NOTHING, () => ({ content: [text('This is a simple text response for testing.')] })],
  test_image_content: ['Answers with an image', NOTHING, () => ({ content: [image] })],
  test_audio_content: ['Answers with sound', NOTHING, () => ({ content: [{ type: 'audio', data: SILENCE, mimeType: 'audio/wav' }] })],
  test_embedded_resource: ['Answers with a resource', NOTHING, () => ({ content: [embedded('test://embedded-resource', 'text/plain', 'This is an embedded resource content.')] })],
  test_multiple_content_types: ['Answers with several kinds of content', NOTHING, () => ({
    content: [text('Multiple content types test:'), image, embedded('test://mixed-content-resource', 'application/json', JSON.stringify({ test: 'data', value: 123 }))],
  })],
  test_tool_with_logging: ['Says what it is doing', NOTHING, async (_, { mcpReq }) => {
    for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      await mcpReq.notify({ method: 'notifications/message', params: { level: 'info', data } });
      await pause(50);
    }
    return { content: [text('Tool with logging executed successfully')] };
  }],
  test_tool_with_progress: ['Reports its progress', NOTHING, async (_, { mcpReq }) => {
    const progressToken = mcpReq._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progressToken !== undefined) await mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
      await pause(50);
    }
    return { content: [text('Tool with progress executed successfully')] };
  }],
  test_error_handling: ['Fails', NOTHING, () => ({ isError: true, content: [text('This tool intentionally returns an error for testing')] })],
  test_sampling: ['Asks the model of the client', takes('prompt', 'What to ask'), ({ prompt }, { mcpReq }) => (
    asks(mcpReq.inputResponses, { answer: sample(prompt) }, ({ answer }) => `LLM response: ${answer.content.text}`)
  )],
  test_elicitation: ['Asks the person', takes('message', 'What to ask'), ({ message }, { mcpReq }) => (
    asks(mcpReq.inputResponses, { answer: form(message, { username: { type: 'string' }, email: { type: 'string' } }) }, ({ answer }) => `User response: ${JSON.stringify(answer)}`)
  )],
  test_elicitation_sep1034_defaults: ['Asks the person, with answers suggested', NOTHING, (_, { mcpReq }) => (
    asks(mcpReq.inputResponses, { answer: inputRequired.elicit({
      message: 'Please review',
      requestedSchema: {
        type: 'object',
        properties: {
          name: { type: 'string', default: 'John Doe' }, age: { type: 'integer', default: 30 }, score: { type: 'number', default: 95.5 },
          status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' }, verified: { type: 'boolean', default: true },
        },
      },
    }) }, ({ answer }) => `Elicitation completed: ${JSON.stringify(answer)}`)
  )],
  test_elicitation_sep1330_enums: ['Asks the person to choose', NOTHING, (_, { mcpReq }) => (
    asks(mcpReq.inputResponses, { answer: inputRequired.elicit({
      message: 'Please choose',
      requestedSchema: {
        type: 'object',
        properties: {
          untitledSingle: { type: 'string', enum: three }, titledSingle: { type: 'string', oneOf: titled('First Option', 'Second Option') },
          legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
          untitledMulti: { type: 'array', items: { type: 'string', enum: three } },
          titledMulti: { type: 'array', items: { anyOf: titled('First Choice', 'Second Choice') } },
        },
      },
    }) }, ({ answer }) => `Elicitation completed: ${JSON.stringify(answer)}`)
  )],
  test_reconnection: ['Ends its stream before it answers', NOTHING, async (_, { http: exchange }) => {
    exchange?.closeSSE?.();
    await pause(100);
    return { content: [text('Reconnection test completed')] };
  }],
  test_custom_headers: ['Takes arguments that are headers, too', {
    type: 'object', properties: { region: { type: 'string', 'x-mcp-header': 'Region' }, count: { type: 'integer', 'x-mcp-header': 'Count' } },
  }, (given) => ({ content: [text(JSON.stringify(given))] })],
  json_schema_2020_12_tool: ['Says what it takes in the words of JSON Schema 2020-12', {
    $schema: 'https://json-schema.org/draft/2020-12/schema', type: 'object', additionalProperties: false,
    $defs: { address: { $anchor: 'addressDef', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } } },
    properties: { name: { type: 'string' }, address: { $ref: '#/$defs/address' }, contactMethod: { type: 'string', enum: ['phone', 'email'] }, phone: { type: 'string' }, email: { type: 'string' } },
    allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
    if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] }, then: { required: ['phone'] }, else: { required: ['email'] },
  }, (given) => ({ content: [text(JSON.stringify(given))] })],
  test_missing_capability: ['Needs a client with a model', NOTHING, (_, { mcpReq }) => asks(mcpReq.inputResponses, { answer: sample('Anything') }, () => 'done')],
  greet: ['Says hello', takes('name', 'To whom'), ({ name }) => ({ content: [text(`Hello, ${name}!`)] })],
  test_input_required_result_elicitation: ['Asks for a name', NOTHING, (_, { mcpReq }) => (
    asks(mcpReq.inputResponses, named, ({ user_name: { content } }) => `Hello, ${content.name}!`)
  )],
  test_input_required_result_sampling: ['Asks the model', NOTHING, (_, { mcpReq }) => (
    asks(mcpReq.inputResponses, { capital_question: sample('What is the capital of France?') }, (inputs) => JSON.stringify(inputs.capital_question.content))
  )],
  test_input_required_result_list_roots: ['Asks for roots', NOTHING, (_, { mcpReq }) => (
    asks(mcpReq.inputResponses, { client_roots: inputRequired.listRoots() }, (inputs) => JSON.stringify(inputs.client_roots.roots))
  )],
  test_input_required_result_request_state: ['Remembers by the client', NOTHING, (_, { mcpReq }) => (
    asks(mcpReq.inputResponses, confirm, () => (mcpReq.requestState()?.step === 1 ? 'state-ok' : 'no state'), { state: { step: 1 } })
  )],
  test_input_required_result_tampered_state: ['Notices a state that was changed', NOTHING, (_, { mcpReq }) => (
    asks(mcpReq.inputResponses, confirm, () => (mcpReq.requestState()?.step === 1 ? 'state-ok' : 'no state'), { state: { step: 1 } })
  )],
  test_input_required_result_multiple_inputs: ['Asks three things at once', NOTHING, (_, { mcpReq }) => (
    asks(mcpReq.inputResponses, { ...named, greeting: sample('Generate a greeting', 50), client_roots: inputRequired.listRoots() }, (inputs) => `All of it: ${Object.keys(inputs)}`, { state: { step: 1 } })
  )],
  test_input_required_result_multi_round: ['Asks one thing after the other', NOTHING, (_, { mcpReq }) => {
    const asked = mcpReq.requestState()?.step ?? 0;
    if (asked === 2) return asks(mcpReq.inputResponses, { step2: form('Step 2: What is your favorite color?', { color: { type: 'string' } }) }, () => 'Done after two rounds', { state: { step: 2 } });
    const step1 = { step1: form('Step 1: What is your name?', { name: { type: 'string' } }) };
    if (asked === 0 || !mcpReq.inputResponses?.step1) return asks(undefined, step1, undefined, { state: { step: 1 } });
    return asks(undefined, { step2: form('Step 2: What is your favorite color?', { color: { type: 'string' } }) }, undefined, { state: { step: 2 } });
  }],
  test_input_required_result_capabilities: ['Asks only what the client can do', NOTHING, (_, { mcpReq }) => {
    const can = mcpReq.envelope?.['io.modelcontextprotocol/clientCapabilities'] ?? {};
    const requests = { ...(can.elicitation ? named : {}), ...(can.sampling ? { question: sample('Anything') } : {}), ...(can.roots ? { client_roots: inputRequired.listRoots() } : {}) };
    return asks(mcpReq.inputResponses, requests, () => 'done');
  }],
};

const RESOURCES = [
  { uri: 'test://static-text', name: 'Static text', mimeType: 'text/plain', text: 'This is the content of the static text resource.' },
  { uri: 'test://static-binary', name: 'Static bytes', mimeType: 'image/png', blob: PIXEL },
  { uri: 'test://watched-resource', name: 'Watched', mimeType: 'text/plain', text: 'Watched resource content' },
];
const says = (...contents) => ({ messages: contents.map((content) => ({ role: 'user', content })) });
/** Name, arguments, what it says. */
const PROMPTS = {
  test_simple_prompt: [[], () => says(text('This is a simple prompt for testing.'))],
  test_prompt_with_arguments: [['arg1', 'arg2'], ({ arg1, arg2 }) => says(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))],
  test_prompt_with_embedded_resource: [['resourceUri'], ({ resourceUri }) => says(embedded(resourceUri, 'text/plain', 'Embedded resource content for testing.'), text('Please process it.'))],
  test_prompt_with_image: [[], () => says(image, text('Please analyze the image above.'))],
  test_input_required_result_prompt: [[], (_, { mcpReq }) => {
    const { context } = mcpReq.inputResponses?.user_context?.content ?? {};
    if (context) return says(text(`A prompt with ${context}`));
    return inputRequired({ inputRequests: { user_context: form('What context should the prompt use?', { context: { type: 'string' } }) } });
  }],
};

/** A server as the SDK wants one for each session, or for each request where there are none. */
function make() {
  const server = new Server({ name: 'fixtures', version: '1.0.0' }, {
    capabilities: { tools: {}, resources: { subscribe: true }, prompts: {}, completions: {}, logging: {} },
    requestState: { verify: states.verify },
    cacheHints: { 'tools/list': { ttlMs: 60_000, cacheScope: 'public' } },
  });
  server.setRequestHandler('tools/list', () => ({
    tools: Object.entries(TOOLS).map(([name, [description, inputSchema]]) => ({ name, description, inputSchema })),
  }));
  server.setRequestHandler('tools/call', ({ params }, context) => {
    const tool = TOOLS[params.name];
    if (!tool) throw new ProtocolError(-32602, `no tool ${params.name}`);
    return tool[2](params.arguments ?? {}, context);
  });
  server.setRequestHandler('resources/list', () => ({ resources: RESOURCES.map(({ uri, name, mimeType }) => ({ uri, name, mimeType })) }));
  server.setRequestHandler('resources/templates/list', () => ({
    resourceTemplates: [{ uriTemplate: 'test://template/{id}/data', name: 'Anything', mimeType: 'application/json' }],
  }));
  server.setRequestHandler('resources/read', ({ params: { uri } }) => {
    const [, id] = uri.match(/^test:\/\/template\/([^/]+)\/data$/) ?? [];
    if (id) return { contents: [{ uri, mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }] };
    const { name: _, ...found } = RESOURCES.find((one) => one.uri === uri) ?? {};
    if (!found.uri) throw new ProtocolError(-32602, `no resource ${uri}`, { uri });
    return { contents: [found] };
  });
  for (const method of ['resources/subscribe', 'resources/unsubscribe']) server.setRequestHandler(method, () => ({}));
  server.setRequestHandler('prompts/list', () => ({
    prompts: Object.entries(PROMPTS).map(([name, [names]]) => ({ name, description: `The prompt ${name}`, arguments: names.map((own) => ({ name: own, required: true })) })),
  }));
  server.setRequestHandler('prompts/get', ({ params }, context) => {
    const prompt = PROMPTS[params.name];
    if (!prompt) throw new ProtocolError(-32602, `no prompt ${params.name}`);
    return prompt[1](params.arguments ?? {}, context);
  });
  server.setRequestHandler('completion/complete', ({ params }) => ({
    completion: { values: ['paris', 'park', 'party'].filter((word) => word.startsWith(params.argument.value)), hasMore: false },
  }));
  return server;
}

const modern = toNodeHandler(createMcpHandler(make, { legacy: 'reject' }));
const [hostIsOurs, originIsOurs] = [localhostHostValidation(), localhostOriginValidation()];
const sessions = new Map();

async function legacy(request, response, body) {
  const id = request.headers['mcp-session-id'];
  let transport = sessions.get(id);
  if (id && !transport) {
    response.writeHead(404, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ jsonrpc: '2.0', id: null, error: { code: -32001, message: 'Session not found' } }));
    return;
  }
  if (!transport) {
    transport = new NodeStreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: (own) => { sessions.set(own, transport); },
      onsessionclosed: (own) => { sessions.delete(own); },
    });
    await make().connect(transport);
  }
  await transport.handleRequest(request, response, body);
}

const server = http.createServer(async (request, response) => {
  if (!hostIsOurs(request, response) || !originIsOurs(request, response)) return;
  const parts = [];
  for await (const part of request) parts.push(part);
  let body;
  try {
    body = parts.length > 0 ? JSON.parse(Buffer.concat(parts).toString('utf8')) : undefined;
  } catch {
    response.writeHead(400, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ jsonrpc: '2.0', id: null, error: { code: -32700, message: 'Parse error' } }));
    return;
  }
  const old = await isLegacyRequest(await toWebRequest(request, body), body);
  await (old ? legacy(request, response, body) : modern(request, response, body));
});
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log(`listening on 127.0.0.1:${process.argv[2]}`));
