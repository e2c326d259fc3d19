// Better Auth with its MCP plugin, on SQLite in a file and as fast as it goes: no rate limit, no logging, no telemetry.
//
//   node server.mjs PORT DIRECTORY
//
// Prints one line of JSON when it listens: what `bench-issue` needs to ask it for tokens.
import http from "node:http";
import path from "node:path";
import { randomBytes } from "node:crypto";
import { mcp } from "@better-auth/mcp";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";
import Database from "better-sqlite3";

const [port, directory] = process.argv.slice(2);
const origin = `http://127.0.0.1:${port}`;
const resource = `${origin}/mcp`;
const redirect = "https://client.example.com/callback";
const database = new Database(path.join(directory, "better-auth.db"));
// What its documents recommend for production.
database.pragma("journal_mode = WAL");

const options = {
    baseURL: origin,
    secret: randomBytes(32).toString("hex"),
    database,
    emailAndPassword: { enabled: true },
    rateLimit: { enabled: false },
    telemetry: { enabled: false },
    logger: { disabled: true },
    plugins: [
        jwt(),
        mcp({
            loginPage: "/login",
            consentPage: "/consent",
            resource,
            allowDynamicClientRegistration: true,
            allowUnauthenticatedClientRegistration: true,
            clientPrivileges: () => true,
            scopes: ["openid", "profile", "email", "offline_access", "bench:use"],
        }),
    ],
};
const auth = betterAuth(options);
await (await getMigrations(options)).runMigrations();

const signedUp = await auth.api.signUpEmail({
    body: { name: "Ada", email: "ada@example.com", password: randomBytes(12).toString("hex") },
    returnHeaders: true,
});
const cookie = signedUp.headers
    .getSetCookie()
    .map((line) => line.split(";")[0])
    .join("; ");
const headers = new Headers({ cookie });
const person = await auth.api.adminCreateOAuthClient({
    headers,
    body: {
        redirect_uris: [redirect],
        client_name: "bench",
        token_endpoint_auth_method: "none",
        application_type: "web",
        grant_types: ["authorization_code", "refresh_token"],
        response_types: ["code"],
        skip_consent: true,
    },
});
const machine = await auth.api.adminCreateOAuthClient({
    headers,
    body: {
        client_name: "bench machine",
        token_endpoint_auth_method: "client_secret_post",
        grant_types: ["client_credentials"],
        client_credentials_scopes: ["bench:use"],
    },
});
for (const client of [person, machine]) {
    await auth.api
        .adminLinkClientResource({ headers, params: { identifier: resource, client_id: client.client_id } })
        .catch((error) => console.error(`linking ${client.client_id}: ${error.message}`));
}

const server = http.createServer(toNodeHandler(auth));
server.keepAliveTimeout = 60_000;
server.listen(Number(port), "127.0.0.1", () => {
    const plan = {
        address: `127.0.0.1:${port}`,
        authorize: "/api/auth/oauth2/authorize",
        token: "/api/auth/oauth2/token",
        register: "/api/auth/oauth2/register",
        resource,
        redirect,
        cookie,
        client: person.client_id,
        scope: "openid offline_access",
        machine: { client: machine.client_id, secret: machine.client_secret, scope: "bench:use" },
    };
    console.log(JSON.stringify(plan));
});
process.on("SIGTERM", () => process.exit(0));
