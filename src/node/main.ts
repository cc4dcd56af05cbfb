// oxlint-disable-next-line import/no-unassigned-import -- before anything makes garbage
import '../heap.ts';
import { Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { createReadStream } from 'node:fs';
import { firstError, HpcsError } from '../errors.ts';
import { insideSchema, jobPlanSchema, type Inside } from '../job/plan.ts';
import { Secret } from '../secret.ts';
import { inside } from './inside.ts';
import { nameless } from './nameless.ts';
import { outside } from './outside.ts';

/**
 * The program of the tool kit: `run` is what the batch script becomes; `inside` is its other half, in the private namespace.
 * Everything it prints goes to the job's log, which others may read: no secret, no content.
 */
const progress = (line: string): void => {
  process.stdout.write(`hpcs: ${line}\n`);
};
// A log that is full, or gone, is to cost no results.
process.stdout.on('error', () => {});

const abort = new AbortController();
const endEarly = (): void =>
  abort.abort(
    new HpcsError('interrupted', 'ended-early', 'the job was ended before the application was done (time limit or cancel)'),
  );
for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(name, endEarly);

// An error of the parser would quote what it read, which holds keys.
function readHanded(content: string): Inside {
  try {
    return insideSchema.parse(JSON.parse(content));
  } catch {
    throw new HpcsError('bug', 'bug', 'the two halves of hpcs-node do not understand each other');
  }
}

async function main(step: string | undefined): Promise<number> {
  if (step === 'run') {
    const plan = jobPlanSchema.parse(JSON.parse(await text(process.stdin)));
    return outside(plan, { signal: abort.signal, progress });
  }
  if (step === 'inside') {
    const control = new Socket({ fd: 4, readable: true, writable: false });
    control
      .on('data', endEarly)
      .on('error', () => {})
      .unref();
    const handed = readHanded(await text(createReadStream('', { fd: 3, encoding: 'utf8' })));
    return inside(
      {
        ...handed,
        image: { ...handed.image, key: new Secret(handed.image.key) },
        data: { ...handed.data, key: new Secret(handed.data.key) },
        authenticationKey: new Secret(handed.authenticationKey),
        scriptsKey: handed.scriptsKey === null ? null : new Secret(handed.scriptsKey),
      },
      { signal: abort.signal, progress },
    );
  }
  throw new HpcsError('usage', 'usage', 'hpcs-node is started by a job script of hpcs-client');
}

try {
  process.exitCode = await main(process.argv[2]);
} catch (thrown) {
  const error = firstError(thrown);
  const known = error instanceof HpcsError ? error : nameless('the job', error);
  process.stdout.write(`hpcs: error: ${known.code}: ${known.message}\n`);
  if (known.suggestion !== undefined) process.stdout.write(`hpcs:   ${known.suggestion}\n`);
  // Without the message, which may name a file.
  if (known.kind === 'bug' && error instanceof Error) process.stdout.write(`${error.stack?.replace(error.message, '')}\n`);
  process.exitCode = known.exitCode;
}
