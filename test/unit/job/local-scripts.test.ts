import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { chooseScripts, shipScripts, type ShippedScripts } from '../../../src/job/local-scripts.ts';
import { takeScripts } from '../../../src/node/scripts.ts';
import { generateKey } from '../../../src/seal/keys.ts';
import { LocalTransport } from '../../support/local-transport.ts';

const { signal } = new AbortController();
const sha256 = (content: string): string => createHash('sha256').update(content).digest('hex');

describe('scripts of this machine', () => {
  let directory: string;
  let said: string[];
  let unsubmitted: AsyncDisposableStack;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-local-'));
    said = [];
    unsubmitted = new AsyncDisposableStack();
    await mkdir(join(directory, 'own'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  const context = () => ({ transport: new LocalTransport(), signal, progress: (line: string) => void said.push(line) });
  const write = async (files: Record<string, string>): Promise<void> => {
    for (const [path, content] of Object.entries(files)) {
      await mkdir(dirname(join(directory, 'own', path)), { recursive: true });
      await writeFile(join(directory, 'own', path), content);
    }
  };
  const choose = (named = `local:${join(directory, 'own')}`) => chooseScripts(named, 'input', context());
  const ship = async (): Promise<ShippedScripts> =>
    shipScripts(
      { input: await choose(), output: null },
      { directory: join(directory, 'site'), name: 'job', format: 'age' },
      unsubmitted,
      context(),
    );
  const taken = async ({ planned, scriptsKey }: ShippedScripts): Promise<string[]> =>
    takeScripts(planned.input, join(directory, 'volume'), scriptsKey ?? null, signal);

  it('are listed with their digests, all of them, in order', async () => {
    await write({ 'b.sh': 'b', 'a.sh': 'a', 'sub/list.txt': '1' });
    await choose();
    assert.deepEqual(
      said,
      [['a.sh', 'a'], ['b.sh', 'b'], ['sub/list.txt', '1']].map(([path, content = '']) => `input script ${path} sha256:${sha256(content)}`),
    ); // prettier-ignore
  });

  it('travel sealed, named and described nowhere, and arrive as they were', async () => {
    await write({ 'b.sh': 'b', 'a b.sh': 'canary', 'sub/list.txt': '1', 'sub/c.sh': 'c' });
    const shipped = await ship();
    assert.deepEqual(await readdir(join(directory, 'site')), ['job.input-scripts']);
    const sealed = join(directory, 'site/job.input-scripts');
    assert.doesNotMatch(await readFile(sealed, 'latin1'), /canary|[abc]\.sh|list\.txt/);
    assert.equal((await stat(sealed)).mode & 0o777, 0o600);
    assert.deepEqual(Object.keys(shipped.planned.input ?? {}), ['sealed', 'sha512']);
    assert.equal(shipped.planned.output, null);

    assert.deepEqual(await taken(shipped), ['a b.sh', 'b.sh', 'sub/c.sh']);
    assert.deepEqual((await readdir(join(directory, 'volume'))).toSorted(), ['a b.sh', 'b.sh', 'sub']);
    assert.equal(await readFile(join(directory, 'volume/sub/list.txt'), 'utf8'), '1');
    assert.equal((await stat(join(directory, 'volume/a b.sh'))).mode & 0o777, 0o500);
    // Nothing of them stays on the site, nor in two places of the volume.
    assert.deepEqual(await readdir(join(directory, 'site')), []);
    assert.deepEqual((await readdir(directory)).toSorted(), ['own', 'site', 'volume']);
  });

  it('stop the job when they were altered or removed', async () => {
    await write({ 'a.sh': 'a' });
    const shipped = await ship();
    const sealed = join(directory, 'site/job.input-scripts');
    const altered = { code: 'script-altered', exitCode: 7 };
    const bytes = await readFile(sealed);
    await chmod(sealed, 0o600);
    await writeFile(sealed, Buffer.concat([bytes, Buffer.of(0)]));
    await assert.rejects(taken(shipped), altered);
    await rm(join(directory, 'volume.sealed'));
    await rm(sealed);
    await assert.rejects(taken(shipped), altered);
  });

  it('stop the job without their key, or with another', async () => {
    await write({ 'a.sh': 'a' });
    const shipped = await ship();
    await assert.rejects(taken({ ...shipped, scriptsKey: undefined }), { code: 'vault-record-invalid', exitCode: 7 });
    await assert.rejects(taken({ ...shipped, scriptsKey: (await generateKey('age')).secretKey }), { code: 'wrong-key' });
  });

  it('are removed from the site for a job that is not submitted', async () => {
    await write({ 'a.sh': 'a' });
    await ship();
    await unsubmitted.disposeAsync();
    assert.deepEqual(await readdir(join(directory, 'site')), []);
  });

  it('are refused where there is nothing to run, a link, or no directory', async () => {
    await write({ 'list.txt': '1' });
    await assert.rejects(choose(), { code: 'no-scripts', exitCode: 2 });
    await symlink('list.txt', join(directory, 'own/a.sh'));
    await assert.rejects(choose(), { code: 'scripts-unreadable', exitCode: 3, message: /own\/a\.sh is a link/ });
    for (const named of ['local:', `local:${directory}/none`, `local:${directory}/own/list.txt`])
      await assert.rejects(choose(named), { code: 'scripts-unreadable', exitCode: 3 }, named);
  });

  it('are told from those on the site, which remain what a path names', async () => {
    await write({ 'a.sh': 'a' });
    const pinned = { directory: join(directory, 'own'), files: [{ path: 'a.sh', sha256: sha256('a') }] };
    assert.deepEqual(await choose(join(directory, 'own')), pinned);
    await assert.rejects(choose('own'), { code: 'bad-path', suggestion: /local:own$/ });
    assert.equal(await chooseScripts(undefined, 'input', context()), null);
  });
});
