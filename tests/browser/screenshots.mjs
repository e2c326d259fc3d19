// Makes the pictures of docs/images anew: node tests/browser/screenshots.mjs
//
//   MCPGATE   the program, by default target/debug/mcpgate      CHROMIUM   the browser, by default Debian's

import path from "node:path";
import { app, gatewayForPeople, launch, signIn } from "./people.mjs";

const FOLDER = path.resolve(import.meta.dirname, "../../docs/images");

const gateway = await gatewayForPeople({ host: "localhost" });
const browser = await launch();
try {
  const page = await browser.newPage({ viewport: { width: 640, height: 480 }, colorScheme: "light" });
  const picture = (name) => page.screenshot({ path: path.join(FOLDER, `${name}.png`), fullPage: true });
  const notebook = await app(gateway, "Notebook");
  await page.goto(notebook.url);
  await picture("sign-in");
  await signIn(page, gateway);
  await picture("consent");
  await notebook.allow(page);
  await page.goto(`${gateway.url}/account`);
  await page.getByLabel("Name of a new token").fill("Nightly backup");
  await page.getByRole("button", { name: "Make a token" }).click();
  await page.getByLabel("Your new token").waitFor();
  // Loaded anew, without the token.
  await page.goto(`${gateway.url}/account`);
  await picture("account");
  await page.goto(`${gateway.url}/account/security`);
  await page.getByRole("button", { name: "Make a passkey" }).waitFor();
  await picture("second-factor");
} finally {
  await browser.close();
  await gateway.stop();
}
process.exit(0);
