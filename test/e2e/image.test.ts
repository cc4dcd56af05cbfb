import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { chmod, mkdtemp, readdir, readlink, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type Docker from 'dockerode';
import { HpcsError } from '../../src/errors.ts';
import { ownLabel, runContainer } from '../../src/sandbox/container.ts';
import { connectDocker } from '../../src/image/docker.ts';
import { readFiles } from '../../src/image/files.ts';
import { openImage, type OpenImage, type OpenImageOptions } from '../../src/image/image.ts';
import { resolveSource } from '../../src/image/source.ts';
import { tarOf } from '../../src/pack/tar.ts';
import { dataUpTo, EngineProxy, type OnRequest } from '../support/engine-proxy.ts';
import { Sshd } from '../support/sshd.ts';

const run = promisify(execFile);
const here = fileURLToPath(new URL('.', import.meta.url));
const root = join(here, '..', '..');
const targets = [
  'entrypoint',
  'command',
  'both',
  'shell-form',
  'user',
  'neither',
  'static',
  'musl',
  'volumes',
  'layered',
  'linked',
  'odd',
  'on-build',
] as const;
type Target = (typeof targets)[number];
const site = 'hpcs-test-apptainer';
/** Directory of this machine that is /sif in there. */
let shared = '';

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

/** The docker program, so that the tests do not lean on the code they test. */
async function docker(...args: string[]): Promise<Ended> {
  try {
    const { stdout, stderr } = await run('docker', args, { maxBuffer: 256 * 1024 * 1024 });
    return { code: 0, stdout, stderr };
  } catch (error) {
    const { code = -1, stdout = '', stderr = '' } = error as Partial<Ended>;
    return { code, stdout, stderr };
  }
}

/** An image with extended attributes of every kind. What `docker build` makes has file capabilities only. */
async function importLabelled(): Promise<void> {
  const note = ['SCHILY.xattr.user.note', Buffer.from('a\0b\n\xff', 'latin1')] as const;
  const capability = [
    'SCHILY.xattr.security.capability',
    Buffer.from('0100000200200000000000000000000000000000', 'hex'),
  ] as const;
  const long = ['SCHILY.xattr.user.long', Buffer.alloc(1500, 'long')] as const;
  const archive = tarOf([
    { name: 'both', mode: 0o755, content: 'both', pax: new Map([note, capability]) },
    { name: 'capable', mode: 0o755, content: 'capable', pax: new Map([capability]) },
    { name: 'also-capable', mode: 0o755, content: 'also capable', pax: new Map([capability]) },
    { name: 'labels/', type: 'directory', mtime: 1e9, pax: new Map([note, long]) },
    ...Array.from({ length: 600 }, (_, n) => ({
      name: `labels/${n}`,
      content: `${n}`,
      pax: new Map([['SCHILY.xattr.user.number', Buffer.from(`number ${n}`)]]),
    })),
    { name: 'labels/linked', type: 'hardlink', linkname: 'labels/7' },
    // More than the short form of a directory can hold.
    { name: 'many/', type: 'directory' },
    ...Array.from({ length: 3000 }, (_, n) => ({
      name: `many/${String(n).padStart(30, '0')}`,
      content: n % 7 === 0 ? `${n}` : '',
    })),
  ]);
  const importing = run('docker', ['import', '--change', 'ENTRYPOINT ["/both"]', '-', tag('labelled')]);
  importing.child.stdin?.end(archive);
  await importing;
}

async function must(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await docker(...args);
  assert.equal(code, 0, `docker ${args.slice(0, 3).join(' ')}: ${stderr}`);
  return stdout;
}

const tag = (target: Target | 'labelled'): string => `hpcs-test/${target}`;

const open = (image: string, more: Partial<OpenImageOptions> = {}): Promise<OpenImage> =>
  openImage({ image, platform: 'linux/amd64', pull: 'never', compression: 'zstd', progress: () => {}, ...more });

/** Makes the SIF of an image at a path below /sif in the site's container. What never ends there is told by its name, not by the suite's limit. */
async function toSite(image: string, path: string, more: Partial<OpenImageOptions> = {}): Promise<OpenImage> {
  const last = { step: 'making it' };
  const progress = (message: string): void => {
    last.step = `after "${message}"`;
    more.progress?.(message);
  };
  const limit = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    limit.reject(new Error(`the SIF of ${image} stays at: ${last.step} (${process.getActiveResourcesInfo().join(' ')})`));
  }, 120_000);
  const make = async (): Promise<OpenImage> => {
    await using sif = await open(image, { ...more, progress });
    last.step = 'writing it';
    await pipeline(sif.source, createWriteStream(join(shared, basename(path))));
    last.step = 'disposing of it';
    return sif;
  };
  try {
    return await Promise.race([make(), limit.promise]);
  } finally {
    clearTimeout(timer);
  }
}

function abortAfter(delay: number, reason: Error): AbortSignal {
  const abort = new AbortController();
  setTimeout(() => abort.abort(reason), delay);
  return abort.signal;
}

function ended(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.exitCode === null ? child.once('close', resolve) : resolve(child.exitCode)); // prettier-ignore
}

const apptainer = (...args: string[]): Promise<Ended> =>
  docker('exec', '-u', 'alice', '-w', '/home/alice', '-e', 'HOME=/home/alice', site, 'apptainer', '-s', ...args);

const ours = async (pid = process.pid): Promise<string[]> =>
  (await must('ps', '-aq', '--filter', `label=${ownLabel.name}=${hostname()}:${pid}`)).split('\n').filter(Boolean);

/** Files of the making that have a name. */
const named = async (): Promise<string[]> => (await readdir(tmpdir())).filter((name) => name.startsWith('hpcs-blocks-'));

/** Those that this process has open. */
async function openBlocks(): Promise<string[]> {
  const links = await Promise.all((await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')));
  return links.filter((link) => link.includes('/hpcs-blocks-'));
}

async function nothingLeft(pid = process.pid): Promise<void> {
  // A container that removes itself may take a moment.
  for (let tries = 0; tries < 50 && (await ours(pid)).length > 0; tries++) await sleep(100);
  assert.deepEqual(await ours(pid), []);
  assert.deepEqual(await named(), []);
  assert.deepEqual(await openBlocks(), []);
}

describe('an OCI image as a SIF', function () {
  this.timeout(600_000);
  let engine: Docker;

  before(async () => {
    engine = await connectDocker();
    await Promise.all([
      (async () => {
        for (const target of targets) await must('build', '-q', '--target', target, '-t', tag(target), join(here, 'image'));
        await importLabelled();
      })(),
      must(
        'build',
        '-q',
        '-t',
        'hpcs-test/site',
        '-f',
        join(root, 'docker/sandbox/site.Dockerfile'),
        join(root, 'docker/sandbox'),
      ),
    ]);
    await docker('rm', '-f', site);
    shared = await mkdtemp(join(tmpdir(), 'hpcs-sif-'));
    await chmod(shared, 0o755);
    await must('run', '-d', '--init', '--name', site, '-v', `${shared}:/sif:ro`, '--security-opt', 'seccomp=unconfined', '--security-opt', 'systempaths=unconfined', '--device', '/dev/fuse', '--entrypoint', 'sh', 'hpcs-test/site', '-c', 'chmod 666 /dev/fuse; exec sleep infinity'); // prettier-ignore
  });
  after(async () => {
    await docker('rm', '-f', site);
    await rm(shared, { recursive: true });
  });
  afterEach(() => nothingLeft());

  const odd = ['', 'a b', "it's", '$HOME `x` "q" \\', 'new\nline', '--', '-x', '*', 'ü'];

  describe('run by Apptainer', () => {
    for (const target of ['entrypoint', 'command', 'both', 'shell-form', 'user', 'volumes'] as const) {
      it(`does what Docker does: ${target}`, async () => {
        await toSite(tag(target), '/sif/app.sif');
        for (const args of ['command', 'shell-form'].includes(target)
          ? [[], ['probe', ...odd], ['sh', '-c', 'exit 3']]
          : [[], odd, ['x', 'exit=3']]) {
          const expected = await docker('run', '--rm', tag(target), ...args);
          const actual = await apptainer('run', '--containall', '--cleanenv', '/sif/app.sif', ...args);
          // An image without a directory of its own starts where Apptainer starts it.
          const comparable = ({ code, stdout }: Ended): unknown => ({
            code,
            stdout: target === 'entrypoint' ? stdout : stdout.replace(/directory .*\n/, ''),
          });
          assert.deepEqual(comparable(actual), comparable(expected), actual.stderr);
        }
      });
    }

    for (const target of ['static', 'musl'] as const) {
      it(`an image without a shell runs by its configuration: ${target}`, async () => {
        const { image: config } = await toSite(tag(target), '/sif/app.sif');
        const command = [...config.entrypoint, ...(target === 'static' ? odd : config.cmd)];
        const pwd = config.workdir === '' ? [] : ['--pwd', config.workdir];
        const actual = await apptainer('exec', '--containall', '--cleanenv', ...pwd, '/sif/app.sif', ...command);
        const expected = await docker('run', '--rm', tag(target), ...(target === 'static' ? odd : []));
        const comparable = ({ code, stdout }: Ended): unknown => ({
          code,
          stdout: target === 'musl' ? stdout : stdout.replace(/directory .*\n/, ''),
        });
        assert.deepEqual(comparable(actual), comparable(expected), actual.stderr);
      });
    }

    it('needs no layer above it for mounts, and lets --env win', async () => {
      await toSite(tag('static'), '/sif/app.sif');
      await must(
        'exec',
        site,
        'sh',
        '-c',
        'sed "s/^enable overlay.*/enable overlay = no/; s/^enable underlay.*/enable underlay = no/" /etc/apptainer/apptainer.conf >/tmp/plain.conf',
      );
      const bind = ['--bind', '/srv:/sd-container/input', '--bind', '/srv:/sd-container/encrypted', '--no-home'];
      await must(
        'exec',
        site,
        'sh',
        '-c',
        'cp -n /etc/apptainer/apptainer.conf /etc/apptainer/before.conf && cp /tmp/plain.conf /etc/apptainer/apptainer.conf',
      );
      try {
        const { code, stdout, stderr } = await apptainer(
          'exec',
          '--containall',
          '--cleanenv',
          '--env',
          'GREETING=mine',
          ...bind,
          '/sif/app.sif',
          '/probe',
        );
        assert.equal(code, 0, stderr);
        assert.match(stdout, /GREETING \[mine\]/);
        assert.doesNotMatch(stderr, /WARNING/);
      } finally {
        await must('exec', site, 'sh', '-c', 'mv /etc/apptainer/before.conf /etc/apptainer/apptainer.conf');
      }
    });

    it('its variables win over the user’s environment, and --env over both; so does --nv find its libraries', async () => {
      await toSite(tag('entrypoint'), '/sif/app.sif');
      await must('exec', site, 'touch', '/srv/libcuda.so');
      const alice = ['exec', '-u', 'alice', '-w', '/home/alice', '-e', 'GREETING=host', '-e', 'APPTAINERENV_EMPTY=given', site];
      const libraries = ['--bind', '/srv/libcuda.so:/.singularity.d/libs/libcuda.so'];
      const run = [...alice, 'apptainer', '-s', 'exec', '--env', 'PATH=/a', ...libraries, '/sif/app.sif'];
      const { stdout, stderr } = await docker(...run, '/usr/local/bin/probe');
      assert.match(stdout, /PATH \[\/a\]\nGREETING \[hello {2}world\]\nODD .*\nEMPTY \[given\]/, stderr);
      assert.match((await docker(...run, '/usr/bin/env')).stdout, /^LD_LIBRARY_PATH=.*\/\.singularity\.d\/libs$/m);
    });

    it('gzip, for old sites, is the same image', async () => {
      await toSite(tag('static'), '/sif/app.sif', { compression: 'gzip' });
      assert.equal((await apptainer('exec', '--containall', '/sif/app.sif', '/probe', 'exit=3')).code, 3);
      assert.match(await must('exec', site, 'unsquashfs', '-o', '32768', '-s', '/sif/app.sif'), /Compression gzip/);
    });

    it('carries its configuration', async () => {
      const { image: config } = await toSite(tag('entrypoint'), '/sif/app.sif');
      const { stdout } = await apptainer('exec', '/sif/app.sif', 'cat', '/sd-container/image.json');
      assert.deepEqual(JSON.parse(stdout), config);
      assert.equal(config.workdir, '/srv/a dir');
      assert.equal(config.user, '');
      assert.equal(config.platform, 'linux/amd64');
      assert.match(config.digest, /^sha256:[0-9a-f]{64}$/);
      assert.equal(
        (await open(tag('user')).then(async (image) => (await image[Symbol.asyncDispose](), image))).image.user,
        '12345:54321',
      );
    });
  });

  describe("has the tree of Apptainer's own build", () => {
    // Names, kinds, modes, owners, times, links, sizes, digests, extended attributes: one line for each file.
    const list = `set -e; rm -rf /tmp/tree; unsquashfs -q -n -o "$2" -d /tmp/tree "$1" >/dev/null 2>&1; cd /tmp/tree
      find . -printf '%p|%y|%m|%U:%G|%Ts|%l|%n|%i\\0' | sort -z
      find . -type f -print0 | sort -z | xargs -0 sha256sum -z; printf '\\0'
      unsquashfs -o "$2" -pf - "$1" 2>/dev/null | grep -a ' x ' | sort | tr '\\n' '\\0'`;
    const tree = async (sif: string): Promise<string[]> => {
      const offset = (
        await must('exec', site, 'sh', '-c', `apptainer sif list ${sif} | grep Squashfs | sed 's/.*|\\([0-9]*\\)-.*/\\1/'`)
      ).trim();
      const lines = (await must('exec', site, 'sh', '-c', list, 'list', sif, offset)).split('\0');
      // Hard links: the same inode number, whatever it is.
      const inodes = new Map<string, string>();
      return lines.filter(Boolean).map((line) => {
        const [, name = '', inode] = /^(\.[^|]*)\|.*\|(\d+)$/s.exec(line) ?? [];
        if (inode === undefined) return line;
        inodes.set(inode, inodes.get(inode) ?? name);
        // The number of links of a directory is the file system's own affair.
        return line.replace(/\|\d+$/s, `|${inodes.get(inode)}`).replace(/^([^|]*\|d\|.*\|)\d+(\|[^|]*)$/s, '$1$2');
      });
    };
    const name = (line: string): string => /^(?:\\?[0-9a-f]{64} {2})?\.?\/?([^|]*)/s.exec(line)?.[1] ?? line;
    // What each of the two adds of its own; device nodes and what is mounted beside them; two
    // files that Apptainer empties, to mount over them; and the root directory.
    const aside =
      /^$|^\.(singularity\.d|exec|run|shell|test)(\/|$)|^(singularity|environment|sd-container)$|^(sd-container|dev)\/|^etc\/(hosts|resolv\.conf)$/;
    // Directories in which these lie, or on which is mounted: their time is that of the making.
    const touched = /^(dev|etc|proc|sys)$/;
    // Mount points that either adds to an image without them.
    const bare = /^(dev|proc|sys|home|root|run|tmp|var|var\/tmp|etc\/(passwd|group|hostname|localtime))$/;
    const device = (line: string): boolean => /^[^|]*\|[cb]\|/s.test(line);
    const relevant = (lines: readonly string[], target: string): string[] => {
      const fromScratch = ['static', 'musl', 'linked', 'labelled'].includes(target);
      const compared = lines.filter(
        (line) => !device(line) && !aside.test(name(line)) && !(fromScratch && bare.test(name(line))),
      );
      return compared.map((line) =>
        touched.test(name(line)) ? line.replace(/^(\.[^|]*\|d\|\d+\|[^|]*)\|-?\d+\|/s, '$1||') : line,
      );
    };

    for (const target of ['entrypoint', 'user', 'static', 'musl', 'layered', 'linked', 'odd', 'labelled'] as const) {
      it(target, async () => {
        await run('sh', ['-c', 'docker save "$0" | docker exec -i "$1" sh -c "cat >/tmp/image.tar"', tag(target), site]);
        await must(
          'exec',
          site,
          'apptainer',
          '-s',
          'build',
          '--force',
          '--mksquashfs-args',
          '-comp zstd -Xcompression-level 1',
          '/tmp/theirs.sif',
          'docker-archive:/tmp/image.tar',
        );
        const theirs = await tree('/tmp/theirs.sif');
        // An engine elsewhere has to save it.
        await using elsewhere = await EngineProxy.start('tcp');
        for (const dockerPath of [undefined, elsewhere.address]) {
          const said: string[] = [];
          await toSite(tag(target), '/sif/ours.sif', { dockerPath, progress: (line) => void said.push(line) });
          assert.equal(said.length, 1, said.join('\n'));
          const mine = await tree('/sif/ours.sif');
          // BuildKit does not tell that two names are of one symbolic link: each is one of its own.
          const told = (line: string): string =>
            dockerPath === undefined ? line.replace(/^([^|]*)(\|l\|.*)\|\d+\|[^|]*$/s, '$1$2|1|$1') : line;
          assert.deepEqual(relevant(mine, target), relevant(theirs, target).map(told));
          assert.ok(!mine.some(device));
          if (target === 'labelled') {
            for (const label of [
              'both x security.capability=',
              'both x user.note=',
              'labels x user.note=',
              'labels x user.long=',
            ])
              assert.ok(
                mine.some((line) => line.includes(label)),
                label,
              );
          }
          if (target === 'odd') {
            assert.ok(mine.some((line) => line.includes('capable') && line.includes('security.capability')));
            assert.ok(mine.some((line) => /setuid\|f\|4755\|0:0/.test(line)));
            assert.ok(mine.some((line) => line.includes('|f|644|3000000000:3000000001|')));
          }
        }
      });
    }
  });

  describe('sent by the build service', () => {
    const made = async (image: string, more: Partial<OpenImageOptions> = {}): Promise<string[]> => {
      const said: string[] = [];
      await toSite(image, '/sif/app.sif', { progress: (line) => void said.push(line), ...more });
      return said;
    };
    // Without times, as what we add is of now; without the sizes of directories, which are the file system's own affair; and without
    // the root, of which BuildKit does not tell.
    const list =
      "unsquashfs -o 32768 -lls /sif/app.sif | sed -n 's/^\\(d[^ ]* [^ ]*\\) *[0-9]*/\\1/; s/ [0-9-]* [0-9:]* squashfs-root\\// /p'";
    const listed = (): Promise<string> => must('exec', site, 'sh', '-c', list);

    /** Made without having been saved. */
    const sent = async (image: string): Promise<void> => {
      const said = await made(image);
      assert.equal(said.length, 1, said.join('\n'));
    };

    it('an image is not run, nor what it would have run in a build upon it', async () => {
      await sent(tag('on-build'));
      const files = await listed();
      assert.match(files, / probe\n/);
      assert.doesNotMatch(files, /ran-in-a-build/);
    });

    it('an image without a name is saved instead', async () => {
      const id = (await must('build', '-q', '--label', 'nameless=1', '--target', 'static', join(here, 'image'))).trim();
      const lines: string[] = [];
      await using proxy = await EngineProxy.start('unix', (line) => void lines.push(line));
      try {
        assert.equal((await made(id, { dockerPath: proxy.address })).length, 1);
        assert.equal((await apptainer('exec', '--containall', '/sif/app.sif', '/probe', 'exit=3')).code, 3);
        assert.ok(lines.some((line) => line.startsWith('GET') && line.includes('/get')));
        assert.ok(!lines.some((line) => line.includes('/session')));
      } finally {
        await docker('rmi', id);
      }
    });

    it('no name is given to an image, nor taken from one', async () => {
      const names = async (): Promise<string[]> =>
        (await must('image', 'ls', '--no-trunc', '--format', '{{.Repository}}:{{.Tag}} {{.ID}}')).split('\n').sort();
      const before = await names();
      await sent(tag('static'));
      assert.deepEqual(await names(), before);
    });

    const refused =
      (path: string, status: string): OnRequest =>
      (line, client) => {
        if (!line.includes(path)) return undefined;
        client.end(`HTTP/1.1 ${status}\r\nContent-Length: 24\r\nConnection: close\r\n\r\n{"message":"no session"}`);
        return 'taken';
      };
    const cut =
      (path: string, after: number): OnRequest =>
      (line, client, engine) => {
        if (!line.includes(path)) return;
        let passed = 0;
        if (after === 0) client.destroy();
        else engine.on('data', (part) => (passed += part.length) > after && client.destroy());
      };
    // The engine notices a session that is gone; this one answers, and its files stop coming.
    const stalled: OnRequest = (line) => (line.includes('/session') ? dataUpTo(20e6) : undefined);
    const silent: OnRequest = (line) => (line.includes('/grpc') ? 'taken' : undefined);
    for (const [what, image, onRequest, reason] of [
      ['is not there', 'static', refused('/session', '404 Not Found'), /no session/],
      ['knows nothing of other protocols', 'static', refused('/grpc', '200 OK'), /no session/],
      ['ends at once', 'static', cut('/grpc', 0), /socket hang up|ECONNRESET/],
      ['ends when it has agreed', 'odd', cut('/grpc', 130), /lost|hang up|premature close|ECONNRESET/i],
      [
        'is cut off in the middle of a file',
        'odd',
        cut('/session', 20e6),
        /ended early|premature close|hang up|lost|ECONNRESET/i,
      ],
      ['says nothing', 'static', silent, /nothing for 30 s/],
      ['falls silent in the middle of a file', 'odd', stalled, /nothing for 30 s/],
    ] as const) {
      it(`from an engine whose build service ${what}, the image is saved`, async () => {
        await sent(tag(image));
        const expected = await listed();
        await using proxy = await EngineProxy.start('unix', onRequest);
        const said = await made(tag(image), { dockerPath: proxy.address });
        assert.match(said[0] ?? '', /^the engine has to save the image, as its build service did not send it: /);
        assert.match(said[0] ?? '', reason);
        assert.equal(await listed(), expected);
      });
    }

    it('an image is not saved because the site takes its time to tell what it can read', async () => {
      const compression = sleep(35_000).then(() => 'zstd' as const);
      assert.equal((await made(tag('static'), { compression })).length, 1);
    });

    it('an image is there when all of it has come, though the build has not ended', async () => {
      const ended = Promise.withResolvers<unknown>();
      await using proxy = await EngineProxy.start('unix', (line, client, engine) => {
        if (!line.includes('/grpc')) return;
        client.once('end', ended.resolve).once('close', ended.resolve);
        // It has agreed to another protocol, and says nothing in that.
        let head = '';
        engine.on('data', (part: Buffer) => {
          const agreed = head.includes('\r\n\r\n');
          head += part.toString('latin1');
          if (!agreed && head.includes('\r\n\r\n')) setImmediate(() => engine.unpipe(client).resume());
        });
      });
      assert.equal((await made(tag('static'), { dockerPath: proxy.address })).length, 1);
      await ended.promise;
    });

    it('an image that loses its name to another one meanwhile is still the one that was asked for', async () => {
      const name = 'hpcs-test/moving';
      await must('tag', tag('static'), name);
      await using proxy = await EngineProxy.start('unix', async (line) => {
        if (line.includes('/grpc')) await must('tag', tag('musl'), name);
      });
      try {
        const said = await made(name, { dockerPath: proxy.address });
        assert.match(said[0] ?? '', /docker\.io\/hpcs-test\/moving:latest is another image now/);
        assert.equal((await apptainer('exec', '--containall', '/sif/app.sif', '/probe', 'exit=3')).code, 3);
        const moved = await listed();
        await made(tag('static'));
        assert.equal(await listed(), moved);
      } finally {
        await docker('rmi', name);
      }
    });

    it('nor does it become another one that has its name while another client reads that', async () => {
      // The first of its names in their order, from which it is built.
      const name = 'hpcs-test/both-moving';
      const signal = new AbortController().signal;
      const [began, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      const read = async (keep: (size: number, body: AsyncIterable<Uint8Array>) => Promise<number>): Promise<string[]> => {
        const source = await resolveSource(engine, { image: name, platform: 'linux/amd64', pull: 'never', progress: () => {} });
        assert.equal(source.name, `docker.io/${name}:latest`);
        const tree = await readFiles({ docker: engine, source, keep, signal, progress: assert.fail });
        return [...tree.root.children.keys()];
      };
      const taken = async (_size: number, body: AsyncIterable<Uint8Array>): Promise<number> =>
        (await Array.fromAsync(body)).length;
      await must('tag', tag('layered'), name);
      try {
        const first = read(async (size, body) => {
          began.resolve();
          await gate.promise;
          return await taken(size, body);
        });
        await began.promise;
        await must('tag', tag('static'), name);
        assert.deepEqual(await read(taken), ['probe']);
        gate.resolve();
        assert.ok((await first).includes('usr'));
      } finally {
        gate.resolve();
        await docker('rmi', name);
      }
    });

    it('what fails here is told, and is no reason to save the image', async () => {
      const source = await resolveSource(engine, {
        image: tag('static'),
        platform: 'linux/amd64',
        pull: 'never',
        progress: () => {},
      });
      const full = new HpcsError('local', 'build-space', 'no room');
      const keep = async (): Promise<never> => Promise.reject(full);
      const { signal } = new AbortController();
      await assert.rejects(readFiles({ docker: engine, source, keep, signal, progress: assert.fail }), full);
    });

    it('it can be interrupted while the engine says nothing', async () => {
      await using proxy = await EngineProxy.start('unix', silent);
      const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
      await assert.rejects(open(tag('static'), { dockerPath: proxy.address, signal: abortAfter(300, reason) }), reason);
    });
  });

  describe('is refused with a clear error', () => {
    const fails = async (image: string, expected: object, more: Partial<OpenImageOptions> = {}): Promise<void> => {
      await assert.rejects(open(image, more), (error) => {
        assert.ok(error instanceof HpcsError, String(error));
        assert.ok(error.suggestion);
        return assert.throws(() => { throw error; }, { exitCode: 3, ...expected }) === undefined; // prettier-ignore
      });
    };
    it('neither entrypoint nor command', () =>
      fails(tag('neither'), { code: 'image-without-command', message: /hpcs-test\/neither/ }));
    it('an image that is not there', () =>
      fails('hpcs-test/absent:1', { code: 'image-not-found', message: /hpcs-test\/absent:1/ }));
    it('another platform', () =>
      fails(
        tag('both'),
        { code: 'image-platform', message: /is for linux\/amd64, not for linux\/arm64/ },
        { platform: 'linux/arm64' },
      ));
    it('a platform that does not exist', () =>
      fails(tag('both'), { code: 'platform', exitCode: 2 }, { platform: 'windows/amd64' }));
    it('a registry that does not answer', () =>
      fails('localhost:9/none', { code: 'image-pull', message: /localhost:9\/none/ }, { pull: 'missing' }));
  });

  describe('from a registry', () => {
    const name = 'hpcs-test-registry';
    const login = `alice:pass:word é`;
    let directory = '';
    let image = '';

    const configure = async (config: object): Promise<NodeJS.ProcessEnv> => {
      await writeFile(join(directory, 'config.json'), JSON.stringify(config));
      return { ...process.env, DOCKER_CONFIG: directory, PATH: `${directory}:${process.env['PATH']}` };
    };
    const pulled = async (env: NodeJS.ProcessEnv, more: Partial<OpenImageOptions> = {}): Promise<[OpenImage, string[]]> => {
      const said: string[] = [];
      const sif = await open(image, { pull: 'missing', env, progress: (line) => void said.push(line), ...more });
      await sif[Symbol.asyncDispose]();
      return [sif, said];
    };

    before(async () => {
      directory = await mkdtemp(join(tmpdir(), 'hpcs-registry-'));
      await must('build', '-q', '-t', 'hpcs-test/registry', '-f', join(here, 'image/registry.Dockerfile'), join(here, 'image'));
      await docker('rm', '-f', name);
      await must('run', '-d', '--name', name, '--tmpfs', '/tmp', '-p', '127.0.0.1::5000', 'hpcs-test/registry');
      const registry = (await must('port', name, '5000/tcp')).trim().split('\n')[0] ?? '';
      image = `${registry}/some/static:1`;
      await must('tag', tag('static'), image);
      const { DOCKER_CONFIG } = await configure({ auths: { [registry]: { auth: Buffer.from(login).toString('base64') } } });
      await must('--config', DOCKER_CONFIG ?? '', 'push', '-q', image);
    });
    beforeEach(() => docker('rmi', image));
    after(async () => {
      await docker('rmi', image);
      await docker('rm', '-f', name);
      await rm(directory, { recursive: true });
    });
    const registry = (): string => image.split('/', 1)[0] ?? '';

    it('with the password in config.json; the digest is the registry’s', async () => {
      const env = await configure({ auths: { [registry()]: { auth: Buffer.from(login).toString('base64') } } });
      const [{ image: config }, said] = await pulled(env);
      const [digest] = JSON.parse(await must('inspect', '-f', '{{json .RepoDigests}}', image)) as string[];
      assert.equal(digest, `${registry()}/some/static@${config.digest}`);
      assert.match(said.join('\n'), /^pulling .*\/some\/static:1 for linux\/amd64\n(.*\n)*Digest: sha256:/);
      // By digest it is the same image, and there already.
      const [again, silent] = await pulled(env, { image: `${registry()}/some/static@${config.digest}` });
      assert.deepEqual(again.image, config);
      assert.ok(!silent.some((line) => line.startsWith('pulling')));
      assert.ok((await pulled(env, { pull: 'always' }))[1].some((line) => line.startsWith('pulling')));
    });

    it('with a credential helper', async () => {
      const answer = JSON.stringify({ ServerURL: registry(), Username: 'alice', Secret: 'pass:word é' });
      await writeFile(
        join(directory, 'docker-credential-own'),
        `#!/bin/sh\n[ "$(cat)" = '${registry()}' ] && echo '${answer}'\n`,
      );
      await chmod(join(directory, 'docker-credential-own'), 0o755);
      const path = process.env['PATH'];
      try {
        process.env['PATH'] = `${directory}:${path}`;
        const [{ image: config }] = await pulled(await configure({ credHelpers: { [registry()]: 'own' } }));
        assert.equal(config.env.includes('GREETING=static'), true);
      } finally {
        process.env['PATH'] = path;
      }
    });

    it('without a password, with a wrong tag, for another platform: each its own error', async () => {
      await assert.rejects(pulled(await configure({})), { code: 'image-denied', exitCode: 3, suggestion: /docker login/ });
      const env = await configure({ auths: { [registry()]: { auth: Buffer.from(login).toString('base64') } } });
      await assert.rejects(pulled(env, { image: image.replace(':1', ':2') }), { code: 'image-not-found', message: /static:2/ });
      await assert.rejects(pulled(env, { pull: 'never' }), { code: 'image-not-found' });
      await assert.rejects(pulled(env, { platform: 'linux/arm64' }), { code: 'image-platform', message: /linux\/arm64/ });
    });
  });

  describe('while it is made', () => {
    it('makes no container, and keeps nothing under a name', async () => {
      await using sif = await open(tag('both'));
      assert.deepEqual(await ours(), []);
      assert.deepEqual(await named(), []);
      assert.ok((await openBlocks()).length > 0);
      assert.ok(sif.total > 300_000);
    });

    it('makes no volume of what the image declares as one', async () => {
      const volumes = async (): Promise<Set<string>> =>
        new Set((await must('volume', 'ls', '-q', '--filter', 'dangling=true')).split('\n'));
      const before = await volumes();
      await toSite(tag('volumes'), '/sif/app.sif');
      assert.deepEqual(
        [...(await volumes())].filter((volume) => !before.has(volume)),
        [],
      );
      assert.equal((await apptainer('exec', '/sif/app.sif', 'cat', '/data/file')).stdout, 'kept\n');
      assert.match(
        (await apptainer('exec', '/sif/app.sif', 'ls', '-ld', '/sd-container', '/sd-container/input')).stdout,
        /^d.*\nd/,
      );
    });

    it('can be interrupted at any time', async () => {
      let finished = 0;
      for (const delay of [0, 5, 20, 60, 120, 250, 500, 1000, 2000]) {
        const abort = new AbortController();
        const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
        const timer = setTimeout(() => abort.abort(reason), delay);
        try {
          await using sif = await open(tag('odd'), { signal: abort.signal });
          for await (const part of sif.source) void part;
          finished++;
        } catch (error) {
          assert.equal(error, reason);
        } finally {
          clearTimeout(timer);
        }
        await nothingLeft();
      }
      assert.ok(finished < 9);
    });

    it('can be interrupted while it is read, or not be read at all', async () => {
      const abort = new AbortController();
      const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
      const reading = async (): Promise<void> => {
        await using sif = await open(tag('odd'), { signal: abort.signal });
        let parts = 0;
        for await (const part of sif.source) if (part.length > 0 && parts++ === 5) abort.abort(reason);
      };
      await assert.rejects(reading(), reason);
      await nothingLeft();
      await (await open(tag('static')))[Symbol.asyncDispose]();
    });

    it('leaves nothing of the image behind when the client is killed', async () => {
      const directory = await mkdtemp(join(tmpdir(), 'hpcs-killed-'));
      try {
        const script = join(directory, 'open.mjs');
        await writeFile(
          script,
          `import { openImage } from ${JSON.stringify(join(root, 'src/image/image.ts'))};
          await openImage({ image: ${JSON.stringify(tag('odd'))}, platform: 'linux/amd64', pull: 'never', compression: 'zstd', progress: console.log });
          console.log('open'); setInterval(() => {}, 1000);`,
        );
        const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
        let said = '';
        for await (const chunk of child.stdout) if ((said += String(chunk)).includes('open')) break;
        assert.match(said, /open\n/);
        child.kill('SIGKILL');
        await ended(child);
        await nothingLeft(child.pid);
      } finally {
        await rm(directory, { recursive: true });
      }
    });
  });

  describe('from an engine elsewhere', () => {
    it('over TCP', async () => {
      await using proxy = await EngineProxy.start('tcp');
      await toSite(tag('static'), '/sif/app.sif', { dockerPath: proxy.address });
      assert.equal((await apptainer('exec', '/sif/app.sif', '/probe', 'exit=3')).code, 3);
    });

    it('over SSH, whose host key is checked', async () => {
      await using sshd = await Sshd.start();
      const directory = await mkdtemp(join(tmpdir(), 'hpcs-ssh-'));
      const path = process.env['PATH'];
      try {
        // The real ssh, with a configuration of its own.
        const known = join(directory, 'known_hosts');
        await writeFile(
          join(directory, 'config'),
          `IdentityFile ${sshd.file('ed25519')}\nIdentitiesOnly yes\nUserKnownHostsFile ${known}\nStrictHostKeyChecking yes\nBatchMode yes\n`,
        );
        await writeFile(join(directory, 'ssh'), `#!/bin/sh\nPATH='${path}' exec ssh -F '${directory}/config' "$@"\n`);
        await chmod(join(directory, 'ssh'), 0o755);
        process.env['PATH'] = `${directory}:${path}`;
        const dockerPath = `ssh://root@127.0.0.1:${sshd.port}`;
        await assert.rejects(open(tag('static'), { dockerPath }), { code: 'docker-unreachable', message: /[Hh]ost key/ });
        await writeFile(known, await sshd.knownHost());
        await toSite(tag('static'), '/sif/app.sif', { dockerPath });
        assert.equal((await apptainer('exec', '/sif/app.sif', '/probe', 'exit=3')).code, 3);
      } finally {
        process.env['PATH'] = path;
        await rm(directory, { recursive: true });
      }
    });
  });

  describe('the containers beneath', () => {
    const spec = { image: 'debian:bookworm-slim', host: { NetworkMode: 'none' } };

    it('run to their end, with no input, streams apart', async () => {
      const result = await runContainer(engine, { ...spec, command: ['sh', '-c', 'cat; echo good; echo bad >&2; exit 7'] });
      assert.deepEqual({ ...result, stdout: result.stdout.toString() }, { code: 7, stdout: 'good\n', stderr: 'bad' });
    });

    it('end with their signal, and are gone', async () => {
      const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
      const running = runContainer(engine, { ...spec, command: ['sleep', '60'] }, abortAfter(1500, reason));
      await assert.rejects(running, reason);
      await nothingLeft();
    });
  });
});
