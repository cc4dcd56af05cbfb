import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { CliExit } from '../support/cli.ts';
import { Site } from '../support/site.ts';

/** A port on which nothing listens: that of the discard service, which no system runs. */
const closed = 9;

describe('what can fail', function () {
  this.timeout(180_000);
  let site: Site;
  let input: string;
  let configuration: string;
  let legacy: string;

  before(async () => {
    site = await Site.open();
    input = join(site.temporary, 'input');
    await mkdir(input);
    await writeFile(join(input, 'noise'), randomBytes(3 * 1024 * 1024));
    configuration = await readFile(site.configuration, 'utf8');
    legacy = await readFile(site.legacyConfiguration, 'utf8');
  });

  after(async () => {
    await site[Symbol.asyncDispose]();
  });

  const altered = async (from: RegExp, to: string, content = configuration): Promise<string> => {
    assert.match(content, from);
    const file = join(site.temporary, `${randomBytes(4).toString('hex')}.conf`);
    await writeFile(file, content.replace(from, to));
    return file;
  };

  const prepare = (config: string, directory = site.scratch, what = input): Promise<CliExit> =>
    site.hpcs([
      'data-prep',
      '--json',
      '--config',
      config,
      '-i',
      what,
      '-u',
      'alice',
      '-c',
      'nid000001',
      '--data-path',
      'failing.tgz',
      '--data-path-at-rest',
      directory,
    ]);

  /** One clear error: its code, its exit code, a next step, no stack, and nothing on the site. */
  const check = async (exit: CliExit, code: number, word: RegExp): Promise<void> => {
    assert.equal(exit.code, code, exit.stderr);
    const error = (JSON.parse(exit.stdout) as { error: { code: string; message: string; suggestion?: string } }).error;
    assert.match(error.code, word);
    assert.ok((error.suggestion ?? '').length > 0, `no next step: ${error.message}`);
    assert.doesNotMatch(exit.stderr, /\n {4}at /);
    assert.equal((await site.run(`ls -A ${site.scratch}`)).stdout.replaceAll(/^\.hpcs\n/gm, ''), '');
  };

  it('the input: something that cannot be packed, behind what is on its way already', async () => {
    const special = join(site.temporary, 'special');
    await mkdir(special);
    for (let count = 0; count < 4; count++) await writeFile(join(special, `noise ${count}`), randomBytes(40 * 1024 * 1024));
    execFileSync('mkfifo', [join(special, 'pipe')]);
    const exit = await prepare(site.configuration, site.scratch, special);
    await check(exit, 3, /^special-file$/);
    assert.match(exit.stdout, /pipe is a FIFO/);
  });

  it('the site: nobody listens', async () => {
    await check(
      await prepare(await altered(/(\[supercomputer\][^[]*?\nport=)\d+/, `$1${closed}`)),
      5,
      /refused|unreachable|connect/,
    );
  });

  it('the site: another host key', async () => {
    const known = join(site.temporary, 'other_known_hosts');
    const real = await readFile(join(site.directory, 'known_hosts'), 'utf8');
    // The same key types under the same name, with other keys.
    await writeFile(
      known,
      real
        .replaceAll(/(ssh-ed25519 )(\S{40})\S+/g, `$1$2${randomBytes(21).toString('base64')}`)
        .replaceAll(/^.*(ecdsa|rsa).*\n/gm, ''),
    );
    await check(await prepare(await altered(/known-hosts=.*/, `known-hosts=${known}`)), 5, /host-key/);
  });

  it('the site: a host that was never seen', async () => {
    const empty = join(site.temporary, 'empty_known_hosts');
    await writeFile(empty, '');
    await check(await prepare(await altered(/known-hosts=.*/, `known-hosts=${empty}`)), 5, /host-key-unknown/);
  });

  it('the HPCS server: nobody listens', async () => {
    await check(
      await prepare(await altered(/(\[hpcs-server\]\nurl=https:\/\/127\.0\.0\.1:)\d+/, `$1${closed}`)),
      4,
      /refused|unreachable/,
    );
  });

  it('the HPCS server: an authority that did not issue its certificate', async () => {
    await check(
      await prepare(await altered(/(\[hpcs-server\][^[]*?\nca-file=).*/, '$1/etc/ssl/certs/ca-certificates.crt')),
      4,
      /untrusted/,
    );
  });

  it('the vault: nobody listens', async () => {
    await check(
      await prepare(await altered(/(\[vault\]\nurl=https:\/\/127\.0\.0\.1:)\d+/, `$1${closed}`)),
      4,
      /refused|unreachable/,
    );
  });

  it('the SPIRE server: nobody listens', async () => {
    await check(await prepare(await altered(/(\[spire-server\][^[]*?\nport=)\d+/, `$1${closed}`, legacy)), 4, /./);
  });

  it('spire-agent: no such program', async () => {
    await check(await prepare(await altered(/bin=.*/, 'bin=/nonexistent/spire-agent', legacy)), 3, /agent/);
  });

  it('the site: no space left', async () => {
    await site.run(
      `mkdir -p /small && (mountpoint -q /small || mount -t tmpfs -o size=1m tmpfs /small) && chown alice /small`,
      'root',
    );
    try {
      await check(await prepare(site.configuration, '/small'), 5, /disk-full/);
      assert.equal((await site.run('ls -A /small')).stdout, '');
    } finally {
      await site.run('umount /small', 'root');
    }
  });

  it('the site: something in the place of the info record', async () => {
    const name = `${randomBytes(4).toString('hex')}.tgz`;
    const directory = `${site.scratch}/occupied`;
    const kept = join(site.temporary, 'kept');
    await mkdir(kept);
    await writeFile(join(kept, name), 'earlier');
    await site.run(`mkdir -p ${directory}/${name}.info.yaml`);
    try {
      const words = ['data-prep', '-i', input, '-g', 'team', '-o', kept, '--data-path', name, '--data-path-at-rest', directory];
      const exit = await site.hpcs(words);
      assert.equal(exit.code, 5, exit.stderr);
      assert.match(exit.stderr, /it is a directory/);
      assert.deepEqual(await readdir(kept), [name]);
      assert.equal(await readFile(join(kept, name), 'utf8'), 'earlier');
      assert.equal((await site.run(`ls -A ${directory}`)).stdout, `${name}.info.yaml\n`);
      assert.match(exit.stderr, /granting/);
      const { stdout } = await site.hpcsOk(['access', 'list', '--json']);
      assert.equal(stdout.includes(name.slice(0, 8)), false, stdout);
    } finally {
      await site.run(`rm -r ${directory}`);
    }
  });

  it('nothing: a copy is kept under the name of what was published, beside what is there', async () => {
    const name = `${randomBytes(4).toString('hex')}.tgz`;
    const directory = `${site.scratch}/copied`;
    const kept = join(site.temporary, 'copies');
    const once = async (): Promise<{ path: string; copy: string; sha512: string }> => {
      const words = ['data-prep', '--json', '-i', input, '-o', kept, '--data-path', name, '--data-path-at-rest', directory];
      return JSON.parse((await site.hpcsOk(words)).stdout) as { path: string; copy: string; sha512: string };
    };
    try {
      const all = [await once(), await once()];
      await site.run(`rm ${directory}/${name}`);
      all.push(await once());
      assert.deepEqual(all.map(({ path }) => path === `${directory}/${name}`), [true, false, true]); // prettier-ignore
      assert.equal(basename(all[1]?.copy ?? ''), basename(all[1]?.path ?? ''));
      assert.equal(new Set(all.map(({ copy }) => copy)).size, 3);
      for (const { copy, sha512 } of all)
        assert.equal(createHash('sha512').update(await readFile(copy)).digest('hex'), sha512); // prettier-ignore
      assert.equal((await readdir(kept)).length, 3);
    } finally {
      await site.run(`rm -r ${directory}`);
    }
  });

  const prepareImage = (image: string, more: readonly string[] = [], config = site.configuration): Promise<CliExit> => {
    const readers = ['-u', 'alice', '-c', 'nid000001'];
    return site.hpcs(['container-prep', '--json', '--config', config, '-b', image, '--pull', 'never', '-e', ...readers, ...more]);
  };

  it('the site: a directory of somebody else', async () => {
    await check(await prepare(site.configuration, '/root/x'), 5, /permission/);
    // While the same connection is asked what the site can read, and the image is made.
    await check(await prepareImage('debian:bookworm-slim', ['--data-path-at-rest', '/root/x']), 5, /permission/);
  });

  it('the vault and the HPCS server: nobody listens, while an image is made', async () => {
    for (const section of ['vault', 'hpcs-server']) {
      const config = await altered(new RegExp(`(\\[${section}\\]\\nurl=https://[^:]*:)\\d+`), `$1${closed}`);
      const exit = await prepareImage('debian:bookworm-slim', ['--data-path-at-rest', site.scratch], config);
      await check(exit, 4, /unreachable/);
    }
  });

  it('Docker: no engine', async () => {
    const exit = await prepareImage('debian:bookworm-slim', ['--data-path-at-rest', site.scratch, '-d', '/nonexistent.sock']);
    await check(exit, 3, /docker/);
  });

  it('Docker: no such image', async () => {
    await check(await prepareImage('hpcs-test/there-is-none', ['--data-path-at-rest', site.scratch]), 3, /image/);
  });

  it('an interruption: Ctrl-C while bytes go up', async () => {
    const abort = new AbortController();
    const kept = join(site.temporary, 'interrupted');
    await writeFile(join(input, 'more'), randomBytes(256 * 1024 * 1024));
    const exit = await site.hpcs(
      [
        'data-prep',
        '-i',
        input,
        '-u',
        'alice',
        '-c',
        'nid000001',
        '--data-path',
        'failing.tgz',
        '--data-path-at-rest',
        site.scratch,
        '-o',
        kept,
      ],
      {
        signal: abort.signal,
        onStderr: (text) => {
          if (text.includes('sealing and shipping')) abort.abort();
        },
      },
    );
    assert.equal(exit.code, 130, exit.stderr);
    assert.equal((await site.run(`ls -A ${site.scratch}`)).stdout, '');
    assert.deepEqual(await readdir(kept), []);
  });
});
