// The environment of programs that open the desktop's browser themselves: it is lib/browser.mjs, and notes each visit.

import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { BROWSER } from './places.mjs';
import { check } from './report.mjs';

export class Desktop {
  /** `home`: the directory in which the program keeps what it keeps. */
  constructor(home) {
    this.log = path.join(home, 'browser.log');
    // Without a desktop there is no keyring either, in which a test has no business.
    const { DISPLAY, WAYLAND_DISPLAY, XDG_CURRENT_DESKTOP, DESKTOP_SESSION, DBUS_SESSION_BUS_ADDRESS, XDG_RUNTIME_DIR, ...rest } = process.env;
    this.environment = {
      ...rest,
      HOME: home,
      XDG_CONFIG_HOME: home,
      PATH: `${path.join(path.dirname(BROWSER), 'desktop')}${path.delimiter}${rest.PATH}`,
      BROWSER,
      BROWSER_LOG: this.log,
    };
  }

  get visits() {
    return existsSync(this.log) ? readFileSync(this.log, 'utf8').trim().split('\n') : [];
  }

  /** The person was at the browser once, and it led back to the client. */
  checkOnce() {
    check(this.visits.length === 1, `the browser was opened ${this.visits.length} times`);
    check(this.visits[0].startsWith('back at the client'), this.visits[0]);
  }
}
