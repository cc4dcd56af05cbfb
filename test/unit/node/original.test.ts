import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { originalArguments, originalExitCode, replaceLogic } from '../../../src/node/original.ts';

describe('an image that the original prepared', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-original-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  describe('gets its logic replaced', () => {
    /** Runs a replacement as it stands in the container, with other scripts beside it. */
    async function run(name: string, scripts: Record<string, string>): Promise<{ status: number | null; stdout: string }> {
      const bind = (await replaceLogic(join(directory, 'logic'))).find(({ target }) => target.includes(name));
      const place = join(directory, name);
      await mkdir(join(place, 'jobs'), { recursive: true });
      for (const [file, content] of Object.entries(scripts))
        await writeFile(join(place, file), `#!/bin/sh\n${content}\n`, { mode: 0o700 });
      const script = await readFile(bind?.source ?? '', 'utf8');
      await writeFile(join(place, 'run.sh'), script.replaceAll(`/sd-container/tools/${name}`, place), { mode: 0o700 });
      const { status, stdout } = spawnSync(join(place, 'run.sh'), { encoding: 'utf8' });
      return { status, stdout };
    }

    it('by scripts that only the job can write, bound over it read-only', async () => {
      const binds = await replaceLogic(join(directory, 'logic'));
      assert.deepEqual(
        binds.map(({ target, readOnly }) => [target, readOnly]),
        [
          ['/sd-container/tools/input_logic/run.sh', true],
          ['/sd-container/tools/output_logic/run.sh', true],
        ],
      );
      for (const { source } of binds) assert.equal((await stat(source)).mode & 0o777, 0o500);
      assert.equal((await stat(join(directory, 'logic'))).mode & 0o777, 0o700);
    });

    it('which run the scripts of the image, not those of the job, which are run elsewhere', async () => {
      const scripts = { 'in.sh': 'echo in', 'a b.sh': 'echo ab', 'notes.txt': 'echo no', 'jobs/check.sh': 'echo no' };
      assert.deepEqual(await run('input_logic', scripts), { status: 0, stdout: 'ab\nin\n' });
    });

    it('and do nothing where there are none', async () => {
      assert.deepEqual(await run('output_logic', {}), { status: 0, stdout: '' });
    });

    it('and fail with the first that fails', async () => {
      assert.deepEqual(await run('output_logic', { 'a.sh': 'exit 3', 'b.sh': 'echo never' }), { status: 1, stdout: '' });
    });
  });

  it('takes arguments behind a word that becomes the name of its shell', () => {
    assert.deepEqual(originalArguments([]), []);
    assert.deepEqual(originalArguments(['a b', '--x']), ['--', 'a b', '--x']);
  });

  describe('leaves the exit code of its application', () => {
    const suggestion = /prepare the image again; what it printed is withheld/;
    const left = async (files: Record<string, string>, entryPoint = 0): Promise<number> => {
      for (const [name, content] of Object.entries(files)) await writeFile(join(directory, name), content);
      return originalExitCode(directory, entryPoint);
    };

    it('in a file', async () => {
      assert.equal(await left({ exit_code: '0\n', stdout: '' }), 0);
      assert.equal(await left({ exit_code: '137\n', stdout: 'x' }), 137);
    });

    it('which is that of the input logic where the application was not started', async () => {
      await assert.rejects(left({ exit_code: '1\n' }), { code: 'input-script-failed', exitCode: 6, suggestion });
    });

    it('which counts for nothing where the output logic failed', async () => {
      await assert.rejects(left({ exit_code: '0\n', stdout: '' }, 1), { code: 'output-script-failed', exitCode: 6, suggestion });
    });

    it('and nothing else is read in its place', async () => {
      await writeFile(join(directory, 'elsewhere'), '0\n');
      await symlink('elsewhere', join(directory, 'exit_code'));
      await assert.rejects(left({ stdout: '' }), { code: 'image-not-prepared' });
    });

    it('or was not prepared', async () => {
      await assert.rejects(left({ stdout: '' }), { code: 'image-not-prepared', exitCode: 6 });
      await assert.rejects(left({ exit_code: 'zero' }), { code: 'image-not-prepared', exitCode: 6 });
    });
  });
});
