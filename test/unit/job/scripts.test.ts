import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pinScripts } from '../../../src/job/scripts.ts';
import { copyScripts } from '../../../src/node/scripts.ts';
import type { RemoteProcess, Transport } from '../../../src/site/transport.ts';
import { LocalTransport } from '../../support/local-transport.ts';

const sha256 = (content: string): string => createHash('sha256').update(content).digest('hex');
const { signal } = new AbortController();

/** A site that lists what it likes. */
class LyingSite implements Transport {
  readonly #listing: string;
  constructor(listing: string) {
    this.#listing = listing;
  }
  exec(): RemoteProcess {
    const stdout = async function* (this: LyingSite) {
      yield Buffer.from(this.#listing, 'latin1');
    }.call(this);
    return { stdout, finished: Promise.resolve({ code: 0, stderr: '' }), async [Symbol.asyncDispose]() {} };
  }
  async [Symbol.asyncDispose](): Promise<void> {}
}

describe('pinned scripts', () => {
  let directory: string;
  beforeEach(async () => {
    directory = join(await mkdtemp(join(tmpdir(), 'hpcs-pin-')), "scripts '$(id)");
    await mkdir(directory);
  });
  afterEach(() => rm(dirname(directory), { recursive: true }));

  const pin = (transport: Transport = new LocalTransport()) => pinScripts(transport, directory, 'input', signal);
  const write = async (path: string, content: string | Buffer): Promise<void> => {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), content);
  };

  it('are all files of the directory with their digests, whatever their names, in order', async () => {
    const names = [
      'b.sh',
      'a.sh',
      '-rf.sh',
      'with space.sh',
      'line\nbreak.sh',
      'quote\'".sh',
      '$(touch pwned).sh',
      'back\\slash.sh',
      'søk.sh',
      '.hidden',
      'sub/list.txt',
      '\uFEFFbom.sh',
    ];
    for (const name of names) await write(name, name);
    const { files } = await pin();
    assert.deepEqual(
      files,
      names.toSorted().map((path) => ({ sha256: sha256(path), path })),
    );
    // What was pinned is what the job copies.
    assert.equal(
      (await copyScripts({ directory, files }, join(dirname(directory), 'copy'))).length,
      names.filter((name) => name.endsWith('.sh')).length,
    );
  });

  it('include those that are links, and those in linked directories', async () => {
    await write('../elsewhere/real.sh', 'real');
    await symlink('../elsewhere/real.sh', join(directory, 'link.sh'));
    await symlink('../elsewhere', join(directory, 'more'));
    assert.deepEqual((await pin()).files, [
      { sha256: sha256('real'), path: 'link.sh' },
      { sha256: sha256('real'), path: 'more/real.sh' },
    ]);
  });

  it('are refused where one would be left out in silence', async () => {
    await write('a.sh', 'a');
    await symlink('nowhere.sh', join(directory, 'broken.sh'));
    await assert.rejects(pin(), { code: 'scripts-unreadable', exitCode: 5, message: /: it holds a link that leads nowhere$/ });
    await rm(join(directory, 'broken.sh'));
    await writeFile(Buffer.concat([Buffer.from(`${directory}/`), Buffer.from([0xff]), Buffer.from('.sh')]), 'x');
    await assert.rejects(pin(), { code: 'scripts-unreadable', message: /not UTF-8/ });
  });

  it('are refused where there are none', async () => {
    await assert.rejects(pin(), { code: 'no-scripts', exitCode: 2 });
    await write('readme.txt', 'a');
    await assert.rejects(pin(), { code: 'no-scripts', exitCode: 2, suggestion: /--supplementary-input-scripts/ });
  });

  it('are refused where there is no such directory, or it was not named in full', async () => {
    await assert.rejects(pinScripts(new LocalTransport(), '/nonexistent', 'output', signal), {
      code: 'scripts-unreadable',
      message: /^the output script directory \/nonexistent cannot be read on the site: .*nonexistent/,
      suggestion: 'correct --supplementary-output-scripts',
    });
    for (const path of ['scripts', '~/scripts', '-x', ''])
      await assert.rejects(pinScripts(new LocalTransport(), path, 'input', signal), { code: 'bad-path', exitCode: 2 });
  });

  it('are not what a lying site makes of them', async () => {
    const digest = '0'.repeat(64);
    for (const listing of [
      'x\0',
      `${digest}  ../a.sh\0`,
      `${digest}  ./../a.sh\0`,
      `${digest}  ./a/../../b.sh\0`,
      `${digest}  /etc/a.sh\0`,
      `${digest}  ./\0`,
      `${digest.slice(1)}  ./a.sh\0`,
      `\\${digest}  ./a.sh\0`,
      `${digest}  ./\xff.sh\0`,
    ]) {
      await assert.rejects(pin(new LyingSite(listing)), { code: 'scripts-unreadable' }, listing);
    }
  });
});
