// The MCP Inspector's programs, and where they keep what they keep.

import path from 'node:path';
import { Desktop } from './desktop.mjs';
import { TESTS, node22 } from './places.mjs';
import { start, temporaryDirectory } from './processes.mjs';

const launcher = path.join(TESTS, 'browser/node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js');

export class Inspector {
  home = temporaryDirectory();
  desktop = new Desktop(this.home);

  /** Starts the Inspector in one of its modes; `more` is added to its environment. */
  start(mode, args, more = {}) {
    const environment = {
      ...this.desktop.environment,
      MCP_STORAGE_DIR: this.home,
      MCP_INSPECTOR_SECRET_STORE: 'file',
      ...more,
    };
    return start(node22(), [launcher, `--${mode}`, ...args], { env: environment, cwd: this.home });
  }
}
