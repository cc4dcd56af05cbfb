import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdtemp, readdir, readFile as readLocal, rm, stat as statLocal, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseConfig, type Config } from '../../src/config.ts';
import { HpcsError } from '../../src/errors.ts';
import { assignments } from '../../src/shell.ts';
import { connect } from '../../src/site/connect.ts';
import { makeDirectory, readFile, readStream, remove, removeTemporary, run, sha256, sha512, stat } from '../../src/site/files.ts';
import { startUpload, uploadFile } from '../../src/site/upload.ts';
import { fingerprint } from '../../src/site/known-hosts.ts';
import { followLog } from '../../src/site/slurm.ts';
import type { Transport } from '../../src/site/transport.ts';
import { collectGarbage } from '../support/garbage.ts';
import { makeKey, Sshd } from '../support/sshd.ts';

const MiB = 1024 * 1024;

let sshd: Sshd;

/** A configuration for the test server; a key whose value is undefined is left out. */
function site(keys: Record<string, string | number | undefined>): Config {
  return parseConfig(configuration(keys), 'test.conf');
}

function configuration(keys: Record<string, string | number | undefined>): string {
  const all: Record<string, string | number | undefined> = {
    address: '127.0.0.1',
    username: 'alice',
    port: sshd.port,
    'identity-file': sshd.file('ed25519'),
    'known-hosts': sshd.file('known_hosts'),
    ...keys,
  };
  const lines = Object.entries(all).flatMap(([key, value]) => (value === undefined ? [] : [`${key} = ${value}`]));
  return `[spire-server]\naddress = a\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://a\n[vault]\nurl = https://b\n[supercomputer]\n${lines.join('\n')}\n`;
}

/** Asserts that something fails with an HpcsError of this code, whose message and next step match. */
async function fails(code: string, action: () => Promise<unknown>, text = /./): Promise<HpcsError> {
  let caught: unknown;
  await assert.rejects(async () => {
    try {
      await action();
    } catch (error) {
      caught = error;
      throw error;
    }
  });
  assert.ok(caught instanceof HpcsError, String(caught));
  assert.equal(caught.code, code, `${caught.code}: ${caught.message}`);
  assert.match(`${caught.message} | ${caught.suggestion}`, text);
  return caught;
}

async function* blocks(count: number, size = MiB): AsyncGenerator<Uint8Array> {
  const block = randomBytes(size);
  for (let index = 0; index < count; index++) {
    block.writeUInt32LE(index);
    yield Buffer.from(block);
  }
}

/** Waits until nothing matches any more, at most three seconds. */
async function gone(look: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 30 && (await look()); tries++) await sleep(100);
  assert.equal(await look(), false);
}

async function processRuns(mark: string): Promise<boolean> {
  const listed = execFileSync('ps', ['-eo', 'args='], { encoding: 'utf8' });
  return listed.split('\n').some((line) => line.includes(mark) && !line.startsWith('ps '));
}

for (const kind of ['ssh2', 'openssh'] as const) {
  describe(`site over ${kind}`, function () {
    this.timeout(60_000);
    let transport: Transport;
    let home: string;

    before(async () => {
      sshd = await Sshd.start();
      await writeFile(sshd.file('known_hosts'), await sshd.knownHost());
      transport = await connect(site({ transport: kind }));
      home = sshd.file('home/alice');
    });
    after(async () => {
      await transport[Symbol.asyncDispose]();
      await sshd[Symbol.asyncDispose]();
    });

    describe('commands', () => {
      it('have input, both outputs and an exit code', async () => {
        const answer = await run(transport, 'cat; echo err >&2; exit 3', { input: [Buffer.from('in')] });
        assert.deepEqual(answer, { code: 3, stdout: 'in', stderr: 'err\n' });
        assert.deepEqual(await run(transport, ':'), { code: 0, stdout: '', stderr: '' });
      });

      it('keep every byte of hostile values', async () => {
        const value = `a'b"c\\n \`id\` $(id) $HOME !! !foo %s \\0101 \u0001\u007f\u0081\u0088 é ☃ 💥\nline\r\n\ttab ; & | < > * ? ~ #`;
        const { stdout } = await run(transport, `${assignments({ value })}printf %s "$value"`);
        assert.equal(stdout, value);
      });

      it('tell exit codes of ssh and of commands apart', async () => {
        for (const code of [1, 126, 127, 128, 254, 255])
          assert.equal((await run(transport, `echo said >&2; exit ${code}`)).code, code);
        assert.equal((await run(transport, 'kill -TERM $$; kill -9 $$')).code, null);
        assert.equal((await run(transport, "sh -c 'kill -9 $$'")).code, 137);
        assert.equal((await run(transport, 'exec sh -c "exit 9"')).code, 9);
      });

      it('keep what start-up files print out of their output', async () => {
        for (const username of ['alice', 'carol', 'dave']) {
          await using other = await connect(site({ transport: kind }), { username });
          const script = 'printf "%s\\n" "$0"; echo \'a!b\' "c!d"; echo "$HOME"; echo err >&2';
          assert.deepEqual(await run(other, script), {
            code: 0,
            stdout: `/bin/sh\na!b c!d\n${sshd.file('home')}/${username}\n`,
            stderr: 'err\n',
          });
        }
      });

      it('say so when the account has no shell', async () => {
        await fails(
          'no-remote-shell',
          async () => {
            await using other = await connect(site({ transport: kind, username: 'nobody2' }));
            await run(other, 'true');
          },
          /not available/,
        );
      });

      it('keep the last part of a long standard error', async () => {
        const { stderr } = await run(transport, 'i=0; while [ $i -lt 9000 ]; do echo "line $i of many" >&2; i=$((i+1)); done');
        assert.ok(stderr.length <= 65_536);
        assert.ok(stderr.endsWith('line 8999 of many\n'));
      });

      it('run many at once on one connection', async () => {
        const answers = await Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map((n) => run(transport, `sleep 0.2; echo ${n}`)));
        assert.deepEqual(answers.map(({ stdout }) => stdout), ['1\n', '2\n', '3\n', '4\n', '5\n', '6\n', '7\n', '8\n']); // prettier-ignore
      });

      it('show none of their text in the process list', async () => {
        const marker = `secret${randomBytes(6).toString('hex')}`;
        await using process = transport.exec(`${assignments({ marker })}echo up; sleep 5; : "$marker"`);
        for await (const chunk of process.stdout) {
          assert.equal(String(chunk), 'up\n');
          assert.equal(await processRuns(marker), false);
          assert.equal(await processRuns('read -r s'), true);
          break;
        }
      });

      it('pass on 64 MiB both ways, and no byte is altered', async () => {
        const there = createHash('sha256');
        const back = createHash('sha256');
        const input = (async function* () {
          for await (const block of blocks(64)) {
            there.update(block);
            yield block;
          }
        })();
        const process = transport.exec('cat', { input });
        let size = 0;
        for await (const chunk of process.stdout) {
          back.update(chunk);
          size += chunk.length;
        }
        assert.equal((await process.finished).code, 0);
        assert.equal(size, 64 * MiB);
        assert.equal(back.digest('hex'), there.digest('hex'));
      });

      it('take input no faster than the site does', async () => {
        let produced = 0;
        const input = (async function* () {
          for await (const block of blocks(64)) {
            produced += block.length;
            yield block;
          }
        })();
        await using process = transport.exec('read -r go </dev/null; sleep 1; cat >/dev/null; echo done', { input });
        await sleep(700);
        assert.ok(produced < 16 * MiB, `${produced} bytes were taken at once`);
        for await (const _ of process.stdout);
        assert.equal((await process.finished).code, 0);
        assert.equal(produced, 64 * MiB);
      });

      it('keep nothing of the input that has gone', async () => {
        const gone: WeakRef<Uint8Array>[] = [];
        const last = Promise.withResolvers<void>();
        const input = (async function* () {
          for (let count = 0; count < 200; count++) {
            const block = Buffer.from(`block ${count}`);
            gone.push(new WeakRef(block));
            yield block;
            await sleep(1);
          }
          await last.promise;
        })();
        await using process = transport.exec('cat >/dev/null', { input });
        while (gone.length < 200) await sleep(10);
        await sleep(100);
        collectGarbage();
        const kept = gone.filter((block) => block.deref() !== undefined).length;
        assert.ok(kept < 20, `${kept}`);
        last.resolve();
        for await (const _ of process.stdout);
        assert.equal((await process.finished).code, 0);
      });

      it('hold the site back when nobody reads', async () => {
        await using process = transport.exec('head -c 67108864 /dev/zero; echo end >"$HOME/all-sent"');
        const before = globalThis.process.memoryUsage.rss();
        await sleep(700);
        assert.equal((await stat(transport, `${home}/all-sent`)) === undefined, true);
        assert.ok(globalThis.process.memoryUsage.rss() - before < 32 * MiB);
        let size = 0;
        for await (const chunk of process.stdout) size += chunk.length;
        assert.equal(size, 64 * MiB);
      });

      it('end when their input is no longer wanted', async () => {
        const process = transport.exec('head -c 10 >/dev/null; exit 5', { input: blocks(64) });
        for await (const _ of process.stdout);
        assert.equal((await process.finished).code, 5);
      });

      it('do not wait for a source of input that never comes', async () => {
        const never = (async function* (): AsyncGenerator<Uint8Array> {
          yield Buffer.from('x');
          await new Promise((resolve) => setTimeout(resolve, 30_000).unref());
        })();
        assert.equal((await run(transport, 'exit 4', { input: never })).code, 4);
      });

      it('end with the error of their input, not with its beginning', async () => {
        const file = `${home}/half`;
        const broken = (async function* () {
          yield Buffer.from('half');
          await sleep(200);
          throw new Error('disk on fire');
        })();
        const script = `cat >/dev/null && echo whole >${file}`;
        await assert.rejects(run(transport, script, { input: broken }), /disk on fire/);
        await sleep(200);
        assert.equal(await stat(transport, file), undefined);
      });

      it('are ended on the site when aborted', async () => {
        const mark = `4${randomBytes(3).readUIntBE(0, 3)}`;
        const controller = new AbortController();
        const process = transport.exec(`echo up; sleep ${mark} & sleep ${mark}; wait`, { signal: controller.signal });
        const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
        await assert.rejects(async () => {
          for await (const chunk of process.stdout) {
            assert.equal(String(chunk), 'up\n');
            assert.equal(await processRuns(`sleep ${mark}`), true);
            controller.abort(reason);
          }
        }, reason);
        await assert.rejects(process.finished, reason);
        await gone(() => processRuns(`sleep ${mark}`));
      });

      it('are ended though they refuse a polite word', async () => {
        const mark = `5${randomBytes(3).readUIntBE(0, 3)}`;
        const controller = new AbortController();
        const process = transport.exec(`trap '' TERM HUP; sleep ${mark}`, { signal: controller.signal });
        await sleep(300);
        controller.abort(new Error('enough'));
        await assert.rejects(process.finished, /enough/);
        await gone(() => processRuns(`sleep ${mark}`));
      });

      it('do not begin when aborted before', async () => {
        const process = transport.exec(`echo no >${home}/begun`, { signal: AbortSignal.abort(new Error('too late')) });
        await assert.rejects(process.finished, /too late/);
        assert.equal(await stat(transport, `${home}/begun`), undefined);
      });

      it('are ended by leaving their output early and by disposal', async () => {
        const mark = `6${randomBytes(3).readUIntBE(0, 3)}`;
        for await (const _ of transport.exec(`echo up; sleep ${mark}`).stdout) break;
        await gone(() => processRuns(`sleep ${mark}`));
        {
          await using _ = transport.exec(`sleep ${mark}`);
          await sleep(300);
          assert.equal(await processRuns(`sleep ${mark}`), true);
        }
        await gone(() => processRuns(`sleep ${mark}`));
      });
    });

    describe('files', () => {
      it('are written whole, privately, and published in one step', async () => {
        const path = `${home}/plain file`;
        const content = randomBytes(3 * MiB + 7);
        {
          await using upload = await startUpload(transport, path, [content.subarray(0, 100), content.subarray(100)]);
          assert.equal(upload.size, content.length);
          assert.equal(await stat(transport, path), undefined);
          assert.deepEqual(await stat(transport, upload.temporary), { size: content.length, mode: 0o600, type: 'file' });
          assert.match(upload.temporary, /\/\.plain file\.[0-9a-f]{16}\.part$/);
          await upload.publish();
        }
        assert.deepEqual(await readLocal(path), content);
        assert.deepEqual(
          (await readdir(home)).filter((name) => name.endsWith('.part')),
          [],
        );
        assert.equal(await sha512(transport, path), createHash('sha512').update(content).digest('hex'));
        assert.equal(await sha256(transport, path), createHash('sha256').update(content).digest('hex'));
        assert.deepEqual(Buffer.from(await readFile(transport, path, { maxBytes: content.length })), content);
        await fails('site-file-too-long', () => readFile(transport, path, { maxBytes: content.length - 1 }));
      });

      it('may have any name', async () => {
        for (const name of ["it's", '-rf', 'new\nline', ' lead', 'ünï☃', '$(id)', '%n*', 'x'.repeat(255)]) {
          const path = `${home}/names/${name}`;
          await makeDirectory(transport, `${home}/names`);
          assert.equal(await uploadFile(transport, [Buffer.from(name)], path, { mode: 0o640 }), Buffer.byteLength(name));
          assert.deepEqual(await stat(transport, path), { size: Buffer.byteLength(name), mode: 0o640, type: 'file' });
          assert.equal(Buffer.from(await readFile(transport, path, { maxBytes: 999 })).toString(), name);
          await remove(transport, path);
          assert.equal(await stat(transport, path), undefined);
        }
        await uploadFile(transport, [Buffer.from('relative')], 'in-home');
        assert.equal(await readLocal(`${home}/in-home`, 'utf8'), 'relative');
        await uploadFile(transport, [], `${home}/empty`);
        assert.equal((await statLocal(`${home}/empty`)).size, 0);
      });

      it('that are there are not replaced unless asked', async () => {
        const path = `${home}/taken`;
        await uploadFile(transport, [Buffer.from('first')], path);
        await fails('site-exists', () => uploadFile(transport, [Buffer.from('second')], path), /already there/);
        assert.equal(await readLocal(path, 'utf8'), 'first');
        await uploadFile(transport, [Buffer.from('third')], path, { replace: true, mode: 0o644 });
        assert.equal(await readLocal(path, 'utf8'), 'third');
        await run(transport, `ln -s /nowhere ${home}/dangling`);
        await fails('site-exists', () => uploadFile(transport, [Buffer.from('x')], `${home}/dangling`));
        assert.deepEqual(
          (await readdir(home)).filter((name) => name.endsWith('.part')),
          [],
        );
      });

      it('that two runs publish at once appear once', async () => {
        const path = `${home}/race`;
        const uploads = await Promise.all(['a', 'b', 'c', 'd'].map((text) => startUpload(transport, path, [Buffer.from(text)])));
        const results = await Promise.allSettled(uploads.map((upload) => upload.publish()));
        for (const upload of uploads) await upload[Symbol.asyncDispose]();
        assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1);
        assert.deepEqual(
          (await readdir(home)).filter((name) => name.startsWith('.race')),
          [],
        );
      });

      it('get a free name beside an earlier one', async () => {
        const path = `${home}/named.tgz`;
        const publish = async (suffix: string): Promise<string> => {
          await using upload = await startUpload(transport, path, [Buffer.from(suffix)]);
          return await upload.publishBeside(suffix);
        };
        assert.equal(await publish('first'), path);
        assert.equal(await publish('abcd'), `${home}/named-abcd.tgz`);
        await fails('site-exists', () => publish('abcd'));
        assert.equal(await readLocal(path, 'utf8'), 'first');
      });

      it('leave nothing behind when aborted, failing at the source, or not published', async () => {
        const path = `${home}/never`;
        const controller = new AbortController();
        const slow = (async function* () {
          for await (const block of blocks(100, 65_536)) {
            yield block;
            await sleep(20);
          }
        })();
        setTimeout(() => controller.abort(new Error('stop it')), 500);
        await assert.rejects(startUpload(transport, path, slow, { signal: controller.signal }), /stop it/);
        const parts = async (): Promise<boolean> => (await readdir(home)).some((name) => name.startsWith('.never'));
        assert.equal(await parts(), false);
        const broken = (async function* () {
          yield randomBytes(100_000);
          throw new Error('read error');
        })();
        await assert.rejects(startUpload(transport, path, broken), /read error/);
        assert.equal(await parts(), false);
        {
          await using _ = await startUpload(transport, path, [Buffer.from('x')]);
          assert.equal(await parts(), true);
        }
        assert.equal(await parts(), false);
      });

      it('leave nothing behind when the connection breaks', async () => {
        await using other = await connect(site({ transport: kind }));
        const slow = (async function* () {
          for await (const block of blocks(100, 65_536)) {
            yield block;
            await sleep(20);
          }
        })();
        setTimeout(() => sshd.dropConnections(), 500);
        await fails('connection-lost', () => startUpload(other, `${home}/broken`, slow), /remove .*\.broken\./);
        await gone(async () => (await readdir(home)).some((name) => name.startsWith('.broken')));
        assert.equal((await run(other, 'echo again')).stdout, 'again\n');
        await transport[Symbol.asyncDispose]();
        transport = await connect(site({ transport: kind }));
      });

      it('leave nothing behind when this program is killed', async () => {
        const file = sshd.file(`killed-${kind}.conf`);
        await writeFile(file, configuration({ transport: kind }));
        const program = fileURLToPath(new URL('../support/endless-upload.ts', import.meta.url));
        const child = spawn(process.execPath, [program, file, `${home}/killed`], { stdio: 'inherit' });
        const parts = async (): Promise<boolean> => (await readdir(home)).some((name) => name.startsWith('.killed'));
        for (let tries = 0; tries < 200 && !(await parts()); tries++) await sleep(100);
        assert.equal(await parts(), true);
        child.kill('SIGKILL');
        await once(child, 'exit');
        await gone(parts);
        assert.equal(await stat(transport, `${home}/killed`), undefined);
        await gone(() => processRuns(`${home}/killed`));
      });

      it('that do not fit are refused, and their space is given back', async () => {
        const small = sshd.file('small');
        const error = await fails(
          'site-disk-full',
          () => uploadFile(transport, blocks(64), `${small}/big`),
          /no space.*make room/,
        );
        assert.equal(error.exitCode, 5);
        assert.equal((await run(transport, `ls -A ${small}`)).stdout, '');
      });

      it('name what stands in the way', async () => {
        const data = [Buffer.from('x')];
        await run(
          transport,
          `mkdir -p ${home}/dir/locked; chmod 500 ${home}/dir/locked; : >${home}/file; : >${home}/hidden; chmod 0 ${home}/hidden`,
        );
        const codes: Array<[string, () => Promise<unknown>]> = [
          ['site-permission-denied', () => uploadFile(transport, data, `${home}/dir/locked/x`)],
          ['site-permission-denied', () => uploadFile(transport, data, '/etc/hpcs-test')],
          ['site-permission-denied', () => readFile(transport, `${home}/hidden`, { maxBytes: 9 })],
          ['site-permission-denied', () => sha512(transport, `${home}/hidden`)],
          ['site-permission-denied', () => makeDirectory(transport, '/etc/hpcs-test')],
          ['site-permission-denied', () => remove(transport, '/etc/passwd')],
          ['site-directory-missing', () => uploadFile(transport, data, `${home}/nowhere/x`)],
          ['site-not-directory', () => uploadFile(transport, data, `${home}/file/x`)],
          ['site-not-directory', () => makeDirectory(transport, `${home}/file/x`)],
          ['site-exists', () => makeDirectory(transport, `${home}/file`)],
          ['site-is-directory', () => uploadFile(transport, data, `${home}/dir`)],
          ['site-is-directory', () => uploadFile(transport, data, `${home}/dir`, { replace: true })],
          ['site-is-directory', () => readFile(transport, `${home}/dir`, { maxBytes: 9 })],
          ['site-is-directory', () => remove(transport, `${home}/dir`)],
          ['site-not-found', () => readFile(transport, `${home}/nothing`, { maxBytes: 9 })],
          ['bug', () => removeTemporary(transport, `${home}/file`)],
        ];
        for (const [code, action] of codes) {
          const error = await fails(code, action);
          if (code !== 'bug') assert.equal(error.exitCode, 5);
        }
        assert.equal(await sha512(transport, `${home}/nothing`), undefined);
        assert.equal((await stat(transport, `${home}/dir`))?.type, 'directory');
        assert.equal((await stat(transport, '/dev/null'))?.type, 'other');
      });

      it('stream to their end, and say when they cannot', async () => {
        const path = `${home}/stream`;
        await run(transport, `head -c 5000000 /dev/urandom >${path}`);
        const hash = createHash('sha256');
        for await (const chunk of readStream(transport, path)) hash.update(chunk);
        assert.equal(hash.digest('hex'), await sha256(transport, path));
        await fails('site-not-found', async () => {
          for await (const _ of readStream(transport, `${home}/nothing`));
        });
      });

      it('of a job are followed to the last byte', async () => {
        const path = `${home}/job.out`;
        const { promise: ended, resolve } = Promise.withResolvers<void>();
        let seen = '';
        const following = followLog(transport, path, {
          until: ended,
          onBytes: (bytes) => (seen += Buffer.from(bytes).toString('latin1')),
          interval: { first: 50, longest: 100 },
        });
        await sleep(200);
        await run(transport, `for i in 1 2 3 4 5; do echo "line $i" >>${path}; sleep 0.1; done`);
        resolve();
        await run(transport, `echo late >>${path}`);
        await following;
        assert.equal(seen, 'line 1\nline 2\nline 3\nline 4\nline 5\nlate\n');
        await assert.rejects(
          followLog(transport, path, {
            until: Promise.reject(new Error('job lost')),
            onBytes: () => undefined,
            interval: { first: 10, longest: 10 },
          }),
          /job lost/,
        );
      });
    });

    describe('keys', () => {
      const whoami = async (keys: Record<string, string | number | undefined>): Promise<void> => {
        await using other = await connect(site({ transport: kind, ...keys }));
        assert.equal((await run(other, 'echo "$HOME"')).stdout, `${sshd.file('home/alice')}\n`);
      };

      for (const type of ['ed25519', 'ecdsa', 'rsa'])
        it(`of type ${type} let in`, () => whoami({ 'identity-file': sshd.file(type) }));

      it('are tried in turn', () => whoami({ 'identity-file': `${sshd.file('stranger')}, ${sshd.file('rsa')}` }));

      it('that the site does not know are refused', () =>
        fails(
          'ssh-authentication-failed',
          () => whoami({ 'identity-file': sshd.file('stranger') }),
          /alice.*stranger.*identity-file/,
        ));

      it('of an agent let in, and a protected key names it', async () => {
        const sock = sshd.file(`agent-${kind}`);
        const environment = { ...process.env };
        delete process.env['SSH_AUTH_SOCK'];
        const agent = spawn('ssh-agent', ['-D', '-a', sock], { stdio: ['ignore', 'pipe', 'ignore'] });
        try {
          await fails('ssh-key-encrypted', () => whoami({ 'identity-file': sshd.file('protected') }), /protected.*ssh-agent/);
          await once(agent.stdout, 'data');
          process.env['SSH_AUTH_SOCK'] = sock;
          await fails('ssh-key-encrypted', () => whoami({ 'identity-file': sshd.file('protected') }));
          const ask = sshd.file('askpass');
          await writeFile(ask, '#!/bin/sh\necho correct horse\n');
          await chmod(ask, 0o700);
          execFileSync('ssh-add', ['-q', sshd.file('protected')], {
            env: { ...process.env, SSH_ASKPASS: ask, SSH_ASKPASS_REQUIRE: 'force' },
          });
          await whoami({ 'identity-file': sshd.file('protected') });
          await whoami({ 'identity-file': sshd.file('stranger') });
        } finally {
          process.env = environment;
          agent.kill();
        }
      });

      it('are found in $HOME/.ssh, and a dead agent does no harm', async () => {
        const environment = { ...process.env };
        const directory = await mkdtemp(join(tmpdir(), 'hpcs-home-'));
        try {
          process.env['HOME'] = directory;
          process.env['SSH_AUTH_SOCK'] = join(directory, 'no-agent');
          execFileSync('sh', [
            '-c',
            'mkdir -m 700 "$0/.ssh"; cp "$1" "$0/.ssh/id_ecdsa"; cp "$2" "$0/.ssh/known_hosts"',
            directory,
            sshd.file('ecdsa'),
            sshd.file('known_hosts'),
          ]);
          await whoami({ 'identity-file': undefined, 'known-hosts': undefined });
        } finally {
          process.env = environment;
          await rm(directory, { recursive: true });
        }
      });

      it('that are missing or no keys are named', async () => {
        await fails('identity-file-missing', () => whoami({ 'identity-file': '/nowhere/id' }), /\/nowhere\/id/);
        if (kind === 'ssh2')
          await fails('identity-file-invalid', () => whoami({ 'identity-file': sshd.file('sshd_config') }), /sshd_config/);
        else await fails('ssh-authentication-failed', () => whoami({ 'identity-file': sshd.file('sshd_config') }));
      });
    });

    describe('host keys', () => {
      const enter = async (keys: Record<string, string | number | undefined>): Promise<void> => {
        await using other = await connect(site({ transport: kind, ...keys }));
        assert.equal((await run(other, 'echo in')).stdout, 'in\n');
      };
      const hosts = async (content: string): Promise<{ 'known-hosts': string }> => {
        const file = sshd.file('hosts-here');
        await writeFile(file, content);
        return { 'known-hosts': file };
      };
      const printOf = async (type: string): Promise<string> =>
        fingerprint(Buffer.from((await readLocal(sshd.file(`host_${type}.pub`), 'utf8')).split(' ')[1] ?? '', 'base64'));

      it('of any known type are asked for first', async () => {
        for (const type of ['ecdsa', 'rsa']) await enter(await hosts(await sshd.knownHost(type)));
      });

      it('may be hashed in the file, or known under the bare name', async () => {
        const file = await hosts(await sshd.knownHost());
        execFileSync('ssh-keygen', ['-q', '-H', '-f', file['known-hosts']], { stdio: 'ignore' });
        await enter(file);
        await enter(await hosts(await sshd.knownHost('ed25519', '127.0.0.1')));
      });

      it('that nobody knows are refused, with the way to pin them', async () => {
        const offered = await printOf('ed25519');
        const error = await fails(
          'host-key-unknown',
          async () => enter(await hosts('')),
          /host-key-fingerprint = SHA256.*ssh-keyscan -p \d+ 127\.0\.0\.1/,
        );
        assert.ok(error.message.includes(offered), error.message);
        assert.equal(error.exitCode, 5);
        assert.equal(await readLocal(sshd.file('hosts-here'), 'utf8'), '');
      });

      it('that changed are refused loudly', async () => {
        const other = await readLocal(sshd.file('stranger.pub'), 'utf8');
        const error = await fails(
          'host-key-changed',
          async () => enter(await hosts(`[127.0.0.1]:${sshd.port} ${other}`)),
          /HAS CHANGED.*do not connect/,
        );
        assert.ok(error.message.includes(await printOf('ed25519')), error.message);
      });

      it('that are revoked are refused', async () => {
        const line = await sshd.knownHost();
        await fails('host-key-revoked', async () => enter(await hosts(`${line}@revoked ${line.replace(/^\S+/, '*')}`)));
      });

      it('are pinned by their fingerprint, whatever their type', async () => {
        for (const type of ['ed25519', 'ecdsa', 'rsa'])
          await enter({ 'known-hosts': '/nowhere', 'host-key-fingerprint': await printOf(type) });
        const wrong = `SHA256:${'A'.repeat(43)}`;
        await fails('host-key-changed', () => enter({ 'host-key-fingerprint': wrong }), /HAS CHANGED.*SHA256:AAAA/);
        await using lone = await Sshd.start(['ed25519']);
        await fails('host-key-changed', () => enter({ port: lone.port, 'host-key-fingerprint': wrong }));
      });

      it('under a certificate authority need the ssh program', async () => {
        const authority = sshd.file(`authority-${kind}`);
        makeKey(authority, 'ed25519');
        const trusted = await hosts(`@cert-authority [127.0.0.1]:* ${await readLocal(`${authority}.pub`, 'utf8')}`);
        if (kind === 'ssh2') {
          await fails('host-key-certificate', () => enter(trusted), /transport = openssh/);
          return;
        }
        await using certified = await Sshd.start(['ed25519']);
        execFileSync(
          'ssh-keygen',
          ['-q', '-s', authority, '-I', 'test', '-h', '-n', '127.0.0.1', certified.file('host_ed25519.pub')],
          { stdio: 'ignore' },
        );
        await certified.restart([`HostCertificate ${certified.file('host_ed25519-cert.pub')}`]);
        await using other = await connect(
          site({ transport: kind, port: certified.port, 'identity-file': certified.file('rsa'), ...trusted }),
        );
        assert.equal((await run(other, 'echo in')).stdout, 'in\n');
      });
    });

    describe('connections', () => {
      it('that cannot be made say why', async () => {
        await fails(
          'ssh-unreachable',
          () => connect(site({ transport: kind, port: 1 })),
          /127\.0\.0\.1 port 1.*refused.*address and port/,
        );
        await fails(
          'ssh-host-not-found',
          () => connect(site({ transport: kind, address: 'no-such-host.invalid' })),
          /no-such-host\.invalid/,
        );
      });

      it('can be given up while they are being made', async () => {
        const { createServer } = await import('node:net');
        const silent = createServer(() => undefined).listen(0, '127.0.0.1');
        await once(silent, 'listening');
        const address = silent.address();
        const port = typeof address === 'object' ? address?.port : undefined;
        const signal = AbortSignal.timeout(300);
        const start = performance.now();
        await assert.rejects(connect(site({ transport: kind, port }), { signal }), { name: 'TimeoutError' });
        assert.ok(performance.now() - start < 3000);
        silent.close();
      });

      it('that break fail what runs, and come back for what follows', async () => {
        await using other = await connect(site({ transport: kind }));
        const running = other.exec('echo up; sleep 30');
        const read = (async () => {
          for await (const _ of running.stdout) sshd.dropConnections();
        })();
        await fails('connection-lost', () => read, /127\.0\.0\.1 broke/);
        await fails('connection-lost', () => running.finished);
        assert.equal((await run(other, 'echo back')).stdout, 'back\n');
        await transport[Symbol.asyncDispose]();
        transport = await connect(site({ transport: kind }));
      });

      it('change their keys while bytes flow', async () => {
        await using impatient = await Sshd.start(['ed25519']);
        await impatient.restart(['RekeyLimit 3M']);
        await writeFile(impatient.file('known_hosts'), await impatient.knownHost());
        const keys = {
          port: impatient.port,
          'identity-file': impatient.file('ed25519'),
          'known-hosts': impatient.file('known_hosts'),
        };
        await using other = await connect(site({ transport: kind, ...keys }));
        const process = other.exec('cat', { input: blocks(20) });
        let size = 0;
        for await (const chunk of process.stdout) size += chunk.length;
        assert.equal(size, 20 * MiB);
      });

      it('leave no process and no file on this machine', async () => {
        const before = new Set(await readdir(tmpdir()));
        const other = await connect(site({ transport: kind }), { username: 'dave' });
        const running = other.exec('sleep 30');
        await sleep(300);
        await other[Symbol.asyncDispose]();
        await fails('connection-closed', () => running.finished);
        await fails('connection-closed', () => run(other, 'true'));
        assert.equal(await processRuns(`-p ${sshd.port} -l dave`), false);
        // As connections name theirs; other programs on the machine have others.
        const left = (await readdir(tmpdir())).filter((name) => /^hpcs-[A-Za-z0-9]{6}$/.test(name) && !before.has(name));
        assert.deepEqual(left, []);
      });

      if (kind === 'openssh') {
        it('take further options, but none that weakens them', async () => {
          const file = sshd.file('hosts-empty');
          await writeFile(file, '');
          const weak = {
            'known-hosts': file,
            'ssh-options': 'StrictHostKeyChecking=no, KexAlgorithms=curve25519-sha256,ecdh-sha2-nistp256',
          };
          await fails('host-key-unknown', () => connect(site({ transport: kind, ...weak })));
          await fails(
            'ssh-option-invalid',
            () => connect(site({ transport: kind, 'ssh-options': 'NoSuchOption=1' })),
            /nosuchoption.*ssh-options/i,
          );
        });
      }
    });
  });
}
