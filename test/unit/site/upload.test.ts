import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { link, mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { linesOf } from '../../../src/lines.ts';
import { isPassing } from '../../../src/site/slurm.ts';
import { connectionLost, handshakeFailed, hostNotFound, isCut, unreachable } from '../../../src/site/ssh-errors.ts';
import type { ExecOptions, RemoteProcess } from '../../../src/site/transport.ts';
import { firstLaneScript } from '../../../src/site/upload-script.ts';
import { startUpload, uploadFile } from '../../../src/site/upload.ts';
import { FailingTransport, isRename } from '../../support/failing-transport.ts';
import { LocalTransport } from '../../support/local-transport.ts';
import { writePrograms } from '../../support/programs.ts';

describe('uploads over a way that fails', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-upload-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  it('go on when the network is back, though for a while not even the name of the site was known', async () => {
    const cuts = [connectionLost('h', undefined), hostNotFound('h')];
    const left = [...cuts];
    const transport = new FailingTransport(() => {
      const error = left.shift();
      return error && { error };
    });
    const warnings: string[] = [];
    const content = randomBytes(100_000);
    const path = join(directory, 'file');
    await uploadFile(transport, [content], path, { patience: 60, warn: (line) => void warnings.push(line) });
    assert.ok((await readFile(path)).equals(content));
    assert.deepEqual(await readdir(directory), ['file']);
    assert.deepEqual(
      warnings,
      cuts.map(({ message }) => `${message}; trying for 60 s to go on where it stopped`),
    );
  });

  it('fail with the first cut where nobody wants to wait', async () => {
    const transport = new FailingTransport(() => ({ error: hostNotFound('h') }));
    await assert.rejects(uploadFile(transport, [Buffer.from('x')], join(directory, 'file')), { code: 'ssh-host-not-found' });
  });

  for (const replace of [false, true]) {
    const how = replace ? 'in place of another' : 'where nothing was';
    for (const done of [false, true]) {
      it(`are published once when the answer to that is lost, and it was ${done ? '' : 'not '}done: ${how}`, async () => {
        const path = join(directory, 'file');
        if (replace) await writeFile(path, 'old');
        let cuts = 2;
        const transport = new FailingTransport((script) =>
          isRename(script) && cuts-- > 0 ? { error: connectionLost('h', undefined), done } : undefined,
        );
        await uploadFile(transport, [Buffer.from('new')], path, { patience: 60, replace });
        assert.equal(await readFile(path, 'utf8'), 'new');
        assert.deepEqual(await readdir(directory), ['file']);
      });
    }
  }

  it('fail with the reason of the channel that made the file, though another one misses the file first', async () => {
    const path = process.env['PATH'];
    const said = 'dd: error writing: No space left on device';
    await writeFile(join(directory, 'dd'), `#!/bin/sh\necho '${said}' >&2\nexit 1\n`, { mode: 0o755 });
    process.env['PATH'] = `${directory}:${path}`;
    const missed: string[] = [];
    // The first one is heard late, and the others come late.
    class Crossing extends LocalTransport {
      #count = 0;
      override exec(script: string, options: ExecOptions = {}): RemoteProcess {
        if (this.#count++ === 0) {
          const first = super.exec(script, options);
          return { ...first, finished: first.finished.then((exit) => sleep(600, exit)) };
        }
        const late = sleep(300).then(() => super.exec(script, options));
        return {
          stdout: (async function* () {
            yield* (await late).stdout;
            missed.push((await (await late).finished).stderr);
          })(),
          finished: late.then(({ finished }) => finished),
          [Symbol.asyncDispose]: async () => (await late)[Symbol.asyncDispose](),
        };
      }
    }
    try {
      const content = Array.from({ length: 20 }, () => Buffer.alloc(1024 * 1024));
      await assert.rejects(uploadFile(new Crossing(), content, join(directory, 'file')), { code: 'site-disk-full' });
    } finally {
      process.env['PATH'] = path;
    }
    assert.match(missed.join('\n'), /no such file/i);
    assert.deepEqual(await readdir(directory), ['dd']);
  });

  it('say what to look for where the site runs nothing of what it is given', async () => {
    class Deaf extends LocalTransport {
      override exec(_script: string, options: ExecOptions = {}): RemoteProcess {
        return super.exec('exit 0', options);
      }
    }
    await assert.rejects(uploadFile(new Deaf(), [Buffer.from('x')], join(directory, 'file')), {
      code: 'upload-unanswered',
      suggestion: /ssh HOST echo/,
    });
  });

  it('are published once when the answer was lost in the middle of it', async () => {
    const path = join(directory, 'file');
    await using upload = await startUpload(new LocalTransport(), path, [Buffer.from('new')]);
    await link(upload.temporary, path);
    assert.equal(await upload.publish(), path);
    assert.deepEqual(await readdir(directory), ['file']);
  });

  for (const done of [true, false]) {
    it(`are not published, nor left, when nobody wants to wait for the answer to that, and it was ${done ? '' : 'not '}done`, async () => {
      const transport = new FailingTransport((script) =>
        isRename(script) ? { error: connectionLost('h', undefined), done } : undefined,
      );
      await assert.rejects(uploadFile(transport, [Buffer.from('x')], join(directory, 'file')), { code: 'connection-lost' });
      assert.deepEqual(await readdir(directory), []);
    });
  }

  it('that are given up remove nothing of others under the name that they were to have', async () => {
    const path = join(directory, 'file');
    await writeFile(path, 'of others');
    await assert.rejects(uploadFile(new LocalTransport(), [Buffer.from('x')], path), { code: 'site-exists' });
    assert.deepEqual(await readdir(directory), ['file']);
    assert.equal(await readFile(path, 'utf8'), 'of others');
  });

  it('that are given up remove no file that somebody else gave that name meanwhile, though it has their inode', async () => {
    const path = join(directory, 'file');
    const programs = join(directory, 'programs');
    await mkdir(programs);
    await writePrograms(programs, { rm: `/bin/rm "$@"; case $* in *.part) echo 'of others' >'${path}' ;; esac` });
    class Site extends FailingTransport {
      override exec(script: string, options: ExecOptions = {}): RemoteProcess {
        return super.exec(`PATH=${programs}:$PATH\n${script}`, options);
      }
    }
    const site = new Site((script) => (isRename(script) ? { error: connectionLost('h', undefined) } : undefined));
    await assert.rejects(uploadFile(site, [Buffer.from('x')], path), { code: 'connection-lost' });
    assert.deepEqual((await readdir(directory)).toSorted(), ['file', 'programs']);
    assert.equal(await readFile(path, 'utf8'), 'of others\n');
  });

  it('end where the site could not keep what an earlier connection sent, though the file has another name by then', async () => {
    const programs = join(directory, 'programs');
    await mkdir(programs);
    const failing = `until [ -e '${directory}/failing' ]; do sleep 0.05; done; echo 'sync: error syncing: Input/output error' >&2; exit 1`;
    await writePrograms(programs, { sync: failing });
    const earlier = join(directory, '.file.0123456789abcdef.part');
    const later = join(directory, '.file.fedcba9876543210.part');
    const script = firstLaneScript({
      names: [earlier],
      path: join(directory, 'file'),
      mode: 0o600,
      identity: undefined,
      grace: 60,
    });
    const size = 64 * 1024 * 1024;
    const input = Buffer.concat([Buffer.from(`0 ${size}\n`), Buffer.alloc(size)]);
    const lane = new LocalTransport().exec(`PATH=${programs}:$PATH\n${script}`, { input: [input] });
    for await (const line of linesOf(lane.stdout, { unended: false })) {
      if (line !== `0 ${size}`) continue;
      await rename(earlier, later);
      await writeFile(join(directory, 'failing'), '');
    }
    assert.deepEqual((await readdir(directory)).toSorted(), ['failing', 'programs']);
  });

  it('that may be left are named, but never what was there under the name that they were to have', async () => {
    const path = join(directory, 'file.tgz');
    await writeFile(path, 'of others');
    const renames: string[] = [];
    const warnings: string[] = [];
    const transport = new FailingTransport((script) => {
      if (isRename(script)) renames.push(script);
      // Gone for good when it is to stand beside the other one.
      return renames.length > 1 ? { error: connectionLost('h', undefined) } : undefined;
    });
    const publish = async (): Promise<string> => {
      await using upload = await startUpload(transport, path, [Buffer.from('x')], { warn: (line) => void warnings.push(line) });
      return await upload.publishBeside('one');
    };
    await assert.rejects(publish(), { code: 'connection-lost' });
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? '', /^the unpublished file \S+\.part or \S+file-one\.tgz may remain on the site/);
  });

  it('of one name at once stand beside each other, and a third of the same suffix is refused', async () => {
    const publish = async (content: string, suffix: string): Promise<string> => {
      await using upload = await startUpload(new LocalTransport(), join(directory, 'file.tgz'), [Buffer.from(content)]);
      return await upload.publishBeside(suffix);
    };
    const paths = await Promise.all([publish('a', 'one'), publish('b', 'two')]);
    assert.equal(new Set(paths).size, 2);
    assert.deepEqual(await Promise.all(paths.map((path) => readFile(path, 'utf8'))), ['a', 'b']);
    const [suffix = ''] = paths.flatMap((path) => /-(\w+)\.tgz$/.exec(path)?.[1] ?? []);
    await assert.rejects(publish('c', suffix), { code: 'site-exists' });
    assert.equal((await readdir(directory)).length, 2);
  });

  it('take for a cut what waiting for a job takes for one', () => {
    for (const error of [connectionLost('h', 'x'), hostNotFound('h'), unreachable('h', 'x'), handshakeFailed('h', 'x')]) {
      assert.ok(isCut(error), error.code);
      assert.ok(isPassing(error), error.code);
    }
  });
});
