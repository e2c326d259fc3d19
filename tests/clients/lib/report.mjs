// What a test prints: one line per step, and a failure that is never overlooked.

let failed = 0;

/** Runs one step and prints how it went. Later steps need earlier ones, so the first failure ends the script. */
export async function step(name, seconds, work) {
  try {
    const value = await within(seconds, name, work());
    console.log(`PASS ${name}`);
    return value;
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}: ${describe(error)}`);
    throw new StepFailed(name);
  }
}

export class StepFailed extends Error {}

/** The promise's value, or an error once so many seconds have passed. */
export function within(seconds, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: no answer within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function check(condition, message) {
  if (!condition) throw new Error(message);
}

export const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** An error with its causes on one line: fetch hides the useful one. */
export function describe(error) {
  const parts = [];
  for (let at = error; at && parts.length < 4; at = at.cause) parts.push(at.message || String(at));
  return parts.join(': ').replace(/\s+/g, ' ');
}

/** Runs a client's script from its first step to the exit code. */
export async function main(work) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof StepFailed)) {
      failed += 1;
      console.log(`FAIL ${describe(error)}`);
    }
  }
  process.exit(failed === 0 ? 0 : 1);
}
