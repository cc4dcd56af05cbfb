import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmod, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Commands of those who run a server or a sandbox, or make what the images bring. */
const notForStages = ['sandbox', 'server', 'tool-kit'];

describe('the entry point of the stage images', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-stage-'));
    for (const [name, body] of [
      ['node', 'printf "%s\\n" "$*"'],
      ['id', 'echo 1000'],
    ] as const) {
      await writeFile(join(directory, name), `#!/bin/sh\n${body}\n`);
      await chmod(join(directory, name), 0o755);
    }
  });
  after(() => rm(directory, { recursive: true }));

  /** What it would run. */
  const runs = (...words: string[]): string =>
    execFileSync(join(root, 'docker/stage.sh'), words, {
      env: { PATH: `${directory}:${process.env['PATH']}` },
      encoding: 'utf8',
    }).trimEnd();

  it('runs its stage with what it is given', () => {
    assert.equal(runs('data-prep', '-i', 'enrol'), '/app/bin/dev.js data-prep -i enrol');
    assert.equal(runs('data-prep'), '/app/bin/dev.js data-prep');
  });

  it('runs every other command of a client', async () => {
    const all = new Set((await readdir(join(root, 'commands'))).map((name) => name.replace(/\.ts$/, '')));
    for (const command of [...all, 'help'].filter((name) => !notForStages.includes(name)))
      assert.equal(runs('data-prep', command, 'x'), `/app/bin/dev.js ${command} x`);
  });
});
