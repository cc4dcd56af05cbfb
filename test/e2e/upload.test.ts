import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHash, KeyObject, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, chmod, readdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import ssh2 from 'ssh2';
import { parseConfig, type Config } from '../../src/config.ts';
import type { HpcsError } from '../../src/errors.ts';
import { generateKey } from '../../src/seal/keys.ts';
import { open } from '../../src/seal/open.ts';
import { Sealing } from '../../src/seal/threads.ts';
import { connect } from '../../src/site/connect.ts';
import { quickenPackets } from '../../src/site/packet-cipher.ts';
import { narrowWindow } from '../../src/site/send-window.ts';
import { startUpload, uploadFile } from '../../src/site/upload.ts';
import type { Transport } from '../../src/site/transport.ts';
import { Sshd } from '../support/sshd.ts';
import { collect, failsWith, inPieces } from '../support/streams.ts';

const mib = 1024 * 1024;

describe('uploads', function () {
  this.timeout(180_000);
  let sshd: Sshd;
  let home: string;

  before(async () => {
    sshd = await Sshd.start(['ed25519']);
    home = sshd.file('home/alice/uploads');
    await mkdir(home);
    await chmod(home, 0o777);
  });
  after(() => sshd[Symbol.asyncDispose]());
  // A test that goes another way knows the host by another name.
  beforeEach(async () => writeFile(sshd.file('known_hosts'), await sshd.knownHost()));

  const site = (transport: string, port = sshd.port): Config =>
    parseConfig(
      `[spire-server]\naddress = a\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://a\n[vault]\nurl = https://b\n[supercomputer]
address = 127.0.0.1\nusername = alice\nport = ${port}\nidentity-file = ${sshd.file('ed25519')}\nknown-hosts = ${sshd.file('known_hosts')}\ntransport = ${transport}\n`,
      'test.conf',
    );
  const parts = async (name: string): Promise<string[]> => (await readdir(home)).filter((file) => file.startsWith(`.${name}`));
  const digestOf = async (path: string): Promise<string> =>
    createHash('sha512')
      .update(await readFile(path))
      .digest('hex');
  const until = async (condition: () => Promise<boolean>): Promise<void> => {
    for (let tries = 0; tries < 100; tries++) {
      if (await condition()) return;
      await sleep(100);
    }
    assert.fail('it did not come to pass');
  };

  for (const kind of ['ssh2', 'openssh']) {
    it(`go on after a cut at every tenth of the way, and seal nothing twice: ${kind}`, async () => {
      const size = 100 * mib;
      const plain = randomBytes(mib);
      let made = 0;
      let cuts = 0;
      const content = (async function* () {
        for (; made < size; made += mib) {
          // What is read ahead is a part of the tenth.
          if (made >= (cuts + 1) * (size / 10) && cuts < 9) {
            cuts++;
            sshd.dropConnections();
          }
          yield plain;
        }
      })();
      const key = await generateKey('openpgp');
      await using transport = await connect(site(kind));
      await using sealing = await Sealing.start(content, { format: 'openpgp', recipients: [key.publicKey], compress: 'none' });
      const warnings: string[] = [];
      const path = `${home}/cut-${kind}`;
      await using upload = await startUpload(transport, path, sealing, {
        patience: 60,
        memory: sealing,
        warn: (line) => warnings.push(line),
      });
      const { sha512, size: sealedSize } = await sealing.summary;
      assert.equal(cuts, 9);
      assert.ok(warnings.length >= 1, 'some cut was noticed');
      assert.equal(upload.size, sealedSize);
      await upload.publish();
      assert.equal(await digestOf(path), sha512);
      assert.equal(made, size, 'nothing was read twice');
      assert.deepEqual(await parts(`cut-${kind}`), []);
      let opened = 0;
      for await (const piece of open(inPieces(await readFile(path), [mib]), key.secretKey)) opened += piece.length;
      assert.equal(opened, size);
      await rm(path);
    });
  }

  it('leave nothing of a file that was made and never answered for', async () => {
    await using transport = await connect(site('ssh2'));
    await using _slow = await sshd.replaceProgram(
      '/usr/bin/chmod',
      `#!/bin/sh\nsleep 1\nexec perl -e 'chmod oct(shift), @ARGV' "$2" "$3"\n`,
    );
    const content = randomBytes(20 * mib);
    const uploading = startUpload(transport, `${home}/unanswered`, inPieces(content, [mib]), { patience: 60 });
    await until(async () => (await parts('unanswered')).length === 1);
    const first = await parts('unanswered');
    sshd.dropConnections();
    await using upload = await uploading;
    await until(async () => (await parts('unanswered')).length === 1);
    assert.notDeepEqual(await parts('unanswered'), first);
    await upload.publish();
    assert.ok((await readFile(`${home}/unanswered`)).equals(content));
    assert.deepEqual(await parts('unanswered'), []);
  });

  it('that do not come back in time fail, and the site removes what it has', async () => {
    await using transport = await connect(site('ssh2'));
    const slow = (async function* () {
      for (let block = 0; block < 200; block++) {
        yield randomBytes(mib);
        await sleep(20);
      }
    })();
    const proxy = await forward(sshd.port);
    await writeFile(
      sshd.file('known_hosts'),
      (await sshd.knownHost()) + (await sshd.knownHost('ed25519', `[127.0.0.1]:${proxy.port}`)),
    );
    await using far = await connect(site('ssh2', proxy.port));
    const uploading = startUpload(far, `${home}/late`, slow, { patience: 2 });
    setTimeout(() => proxy.cut(), 1000);
    await assert.rejects(uploading, (error: Error & { suggestion?: string }) => {
      assert.match(error.suggestion ?? '', /remove .*\.late\./);
      return failsWith('site', 'ssh-unreachable', 'connection-lost')(error);
    });
    await until(async () => (await parts('late')).length === 0);
    void transport;
  });

  it('use more channels over a longer way, and all bytes arrive', async () => {
    await using way = await longWay(sshd.port);
    await writeFile(sshd.file('known_hosts'), await sshd.knownHost('ed25519', `[127.0.0.1]:${way.port}`));
    for (const kind of ['ssh2', 'openssh']) {
      await using transport = await connect(site(kind, way.port));
      const counted = new CountingTransport(transport);
      const content = randomBytes(50 * mib + 17);
      const path = `${home}/far-${kind}`;
      await uploadFile(counted, inPieces(content, [mib + 33]), path);
      assert.ok((await readFile(path)).equals(content));
      // One for each 6 ms of the way.
      assert.ok(counted.most >= 5 && counted.most <= 8, `${counted.most} at once`);
    }
  });

  it('open no more channels when the site, or this machine, is busy for a moment', async () => {
    await using transport = await connect(site('ssh2'));
    const counted = new CountingTransport(transport, 100);
    const content = randomBytes(20 * mib);
    await uploadFile(counted, inPieces(content, [mib]), `${home}/busy`);
    assert.equal(counted.delayed, 1);
    // Eight, by that ping alone.
    assert.ok(counted.most < 8, `${counted.most} at once`);
  });

  it('make no file anew that was removed before all channels had it', async () => {
    await using way = await longWay(sshd.port, 60);
    await writeFile(sshd.file('known_hosts'), await sshd.knownHost('ed25519', `[127.0.0.1]:${way.port}`));
    await using transport = await connect(site('ssh2', way.port));
    const uploading = startUpload(transport, `${home}/gone`, inPieces(randomBytes(20 * mib), [mib]));
    const failed = assert.rejects(uploading, { kind: 'site', message: /no such file/ });
    // Over such a way the others come 0.4 s later at the earliest.
    let made: string[] = [];
    for (const end = Date.now() + 10_000; made.length === 0 && Date.now() < end;) made = await parts('gone');
    assert.equal(made.length, 1);
    for (const name of made) await rm(`${home}/${name}`);
    await failed;
    assert.deepEqual(await parts('gone'), []);
  });

  it('take little for all channels together while nothing gets through, and everything afterwards', async () => {
    const way = await forward(sshd.port);
    try {
      await writeFile(sshd.file('known_hosts'), await sshd.knownHost('ed25519', `[127.0.0.1]:${way.port}`));
      await using transport = await connect(site('ssh2', way.port));
      let taken = 0;
      const piece = randomBytes(64 * 1024);
      async function* input(): AsyncGenerator<Buffer, void, undefined> {
        await gate.promise;
        for (let count = 0; count < 64; count++, taken += piece.length) yield piece;
      }
      const gate = Promise.withResolvers<void>();
      const counts = Array.from({ length: 8 }, async () => {
        const process = transport.exec('echo started; wc -c', { input: input() });
        const lines: string[] = [];
        for await (const text of process.stdout) {
          lines.push(...String(text).trim().split('\n'));
          started += lines.length === 1 ? 1 : 0;
        }
        return lines;
      });
      let started = 0;
      await until(() => Promise.resolve(started === counts.length));
      way.stall();
      gate.resolve();
      let before = -1;
      await until(async () => {
        await sleep(300);
        return before === (before = taken);
      });
      const stalled = taken;
      way.flow();
      for (const lines of await Promise.all(counts)) assert.deepEqual(lines, ['started', String(4 * mib)]);
      // The windows of the eight channels let 16 MiB through; what the system takes is not ours.
      assert.ok(stalled > 0 && stalled < 10 * mib, `${stalled} bytes`);
    } finally {
      way.cut();
    }
  });

  it('make do with the channels that the site allows', async () => {
    await using narrow = await Sshd.start(['ed25519']);
    await narrow.restart(['MaxSessions 2']);
    await using way = await longWay(narrow.port);
    const before = sshd;
    sshd = narrow;
    try {
      await writeFile(narrow.file('known_hosts'), await narrow.knownHost('ed25519', `[127.0.0.1]:${way.port}`));
      await using transport = await connect(site('ssh2', way.port));
      const content = randomBytes(20 * mib);
      await using upload = await startUpload(transport, 'narrow', inPieces(content, [mib]));
      assert.equal(upload.size, content.length);
      assert.ok((await readFile(narrow.file(`home/alice/${upload.temporary}`))).equals(content));
    } finally {
      sshd = before;
    }
  });

  it('keep to a bandwidth', async () => {
    await using transport = await connect(site('ssh2'));
    const started = performance.now();
    await uploadFile(transport, inPieces(randomBytes(4 * mib), [256 * 1024]), `${home}/slow`, { bandwidth: 2 * mib });
    // The first piece may go at once; no machine is too slow for this.
    assert.ok(performance.now() - started > 1700);
  });

  it('write into no file but their own, whatever is put in its place', async () => {
    await using transport = await connect(site('ssh2'));
    await writeFile(`${home}/treasure`, 'mine');
    const gate = Promise.withResolvers<void>();
    const content = (async function* () {
      yield randomBytes(9 * mib);
      await gate.promise;
      yield randomBytes(9 * mib);
    })();
    const uploading = startUpload(transport, `${home}/swapped`, content, { mode: 0o640 });
    await until(async () => (await parts('swapped')).length === 1);
    const [name = ''] = await parts('swapped');
    await rm(`${home}/${name}`);
    await symlink(`${home}/treasure`, `${home}/${name}`);
    gate.resolve();
    const upload = await uploading.catch(() => undefined);
    await upload?.[Symbol.asyncDispose]();
    assert.equal(await readFile(`${home}/treasure`, 'utf8'), 'mine');
  });

  it('fail when the site cannot keep what it has taken, whenever it says so', async () => {
    await using transport = await connect(site('ssh2'));
    for (const [when, test] of Object.entries({ meanwhile: '[ "$1" = -d ]', 'at the end': '[ "$1" != -d ]' })) {
      await using _failing = await sshd.replaceProgram(
        '/usr/bin/sync',
        `#!/bin/sh\nif ${test}; then echo 'sync: error syncing: Input/output error' >&2; exit 1; fi\n`,
      );
      const content = inPieces(Buffer.alloc(70 * mib), [mib]);
      await assert.rejects(startUpload(transport, `${home}/unkept`, content), (error: HpcsError) => {
        assert.equal(error.kind, 'site', `${when}: ${error.message}`);
        // Meanwhile, another word of the site was seen once, on a loaded machine.
        if (when !== 'meanwhile') assert.match(error.message, /Input\/output error$/);
        return true;
      });
      await until(async () => (await parts('unkept')).length === 0);
    }
  });

  for (const algorithm of ['aes128-gcm@openssh.com', 'aes256-gcm@openssh.com', 'aes128-ctr'] as const) {
    it(`go in packets of every size that the site accepts: ${algorithm}`, async () => {
      const client = new ssh2.Client();
      client.connect({
        host: '127.0.0.1',
        port: sshd.port,
        username: 'alice',
        privateKey: await readFile(sshd.file('ed25519')),
        algorithms: { cipher: [algorithm] },
      });
      await once(client, 'ready');
      quickenPackets(client);
      // What stands here is the package's own affair: this test says when it changes, and then only speed is lost.
      const { _protocol: protocol } = client as unknown as {
        _protocol: { _cipher: object; _decipher: { _decipherKey: unknown } };
      };
      if (algorithm !== 'aes128-ctr') {
        assert.equal(protocol._cipher.constructor.name, 'GcmPackets');
        assert.ok(protocol._decipher._decipherKey instanceof KeyObject);
      }
      const channel = await new Promise<ssh2.ClientChannel>((resolve, reject) =>
        client.exec('sha512sum', (error, opened) => (error === undefined ? resolve(opened) : reject(error))),
      );
      const sent = createHash('sha512');
      for (const size of [...Array.from({ length: 70 }, (_, index) => index + 1), 32_767, 32_768, 32_769, 300_000]) {
        const bytes = randomBytes(size);
        sent.update(bytes);
        channel.write(bytes);
      }
      channel.end();
      assert.match(String(Buffer.concat((await channel.toArray()) as Buffer[])), new RegExp(sent.digest('hex')));
      client.end();
      await once(client, 'close');
    });
  }

  for (const [name, narrowed] of [
    ['OpenSSH', true],
    ['a server that may tell late what it has taken', false],
  ] as const) {
    it(`have ${narrowed ? 'no more under way than is let through' : 'as much under way as it takes'}: ${name}`, async () => {
      await using other = await otherServer();
      const client = new ssh2.Client();
      const port = narrowed ? sshd.port : other.port;
      client.connect({ host: '127.0.0.1', port, username: 'alice', privateKey: await readFile(sshd.file('ed25519')) });
      await once(client, 'ready');
      const channel = await new Promise<ssh2.ClientChannel>((resolve, reject) =>
        client.exec('sleep 1; sha512sum', (error, opened) => (error === undefined ? resolve(opened) : reject(error))),
      );
      // The package's own affair, too.
      const inside = channel as unknown as { outgoing: { window: number } };
      const given = inside.outgoing.window;
      narrowWindow(client, channel, 512 * 1024 + 0.5);
      assert.ok(given > mib);
      assert.equal(inside.outgoing.window, narrowed ? 512 * 1024 : given);
      const content = randomBytes(8 * mib);
      channel.end(content);
      const digest = createHash('sha512').update(content).digest('hex');
      assert.match(String(Buffer.concat((await channel.toArray()) as Buffer[])), new RegExp(digest));
      client.end();
      await once(client, 'close');
    });
  }

  it('have their pipe on the site widened, where there is Perl, and arrive where there is none', async () => {
    const content = randomBytes(18 * mib);
    const sizes = async (name: string): Promise<number[]> => {
      const gate = Promise.withResolvers<void>();
      await using transport = await connect(site('ssh2'));
      const uploading = uploadFile(
        transport,
        (async function* () {
          yield content.subarray(0, 17 * mib);
          await gate.promise;
          yield content.subarray(17 * mib);
        })(),
        `${home}/${name}`,
      );
      // Both channels have had their segment, and Perl its time.
      await until(async () => (await stat(`${home}/${(await parts(name))[0] ?? ''}`)).size >= 16 * mib);
      await sleep(500);
      const found = await pipesOf(`.${name}.`);
      gate.resolve();
      await uploading;
      assert.ok((await readFile(`${home}/${name}`)).equals(content));
      return found;
    };
    const wide = await sizes('wide');
    assert.ok(wide.length >= 2 && wide.includes(mib) && wide.every((size) => size === mib || size === 65_536), String(wide));
    await using _none = await sshd.replaceProgram('/usr/bin/perl', '#!/bin/sh\nexit 127\n');
    assert.deepEqual(new Set(await sizes('narrow-pipe')), new Set([65_536]));
  });

  it('take what a stream gives in any pieces', async () => {
    await using transport = await connect(site('ssh2'));
    const content = randomBytes(3 * mib + 1);
    for (const sizes of [[1_000_003], [7, 70_000, 2 * mib]]) {
      await uploadFile(transport, inPieces(content, sizes), `${home}/pieces`, { replace: true });
      assert.ok((await readFile(`${home}/pieces`)).equals(content));
    }
    assert.equal((await collect(inPieces(content))).length, content.length);
  });
});

/** Sizes of the pipes from which shells read that have a file of such a name open as their third. */
async function pipesOf(name: string): Promise<number[]> {
  const sizes: number[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    const file = await readlink(`/proc/${pid}/fd/3`).catch(() => '');
    if (!file.includes(name)) continue;
    // F_GETPIPE_SZ. Where the site has no Perl, this machine, outside of it, has.
    const script = 'open(my $pipe, "<", $ARGV[0]) or die; print fcntl($pipe, 1032, 0)';
    sizes.push(Number(execFileSync('perl', ['-e', script, `/proc/${pid}/fd/0`], { encoding: 'utf8' })));
  }
  return sizes;
}

/** A server that is not OpenSSH: the ssh2 package's own, which tells after each MiB only that more may be sent. */
async function otherServer(): Promise<AsyncDisposable & { port: number }> {
  const { private: hostKey } = ssh2.utils.generateKeyPairSync('ed25519');
  const server = new ssh2.Server({ hostKeys: [hostKey], ident: 'Other_1.0' }, (client) => {
    client.on('error', () => undefined);
    client.on('authentication', (context) => context.accept());
    client.on('session', (acceptSession) => {
      acceptSession().on('exec', (acceptExec, _reject, { command }) => {
        const channel = acceptExec();
        const child = spawn('/bin/sh', ['-c', command]);
        channel.pipe(child.stdin);
        child.stdout.pipe(channel, { end: false });
        child.stderr.pipe(channel.stderr, { end: false });
        child.on('close', (code) => {
          channel.exit(code ?? 1);
          channel.end();
        });
      });
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  return {
    port,
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, 'close');
    },
  };
}

/** Counts the commands that run at once. */
class CountingTransport implements Transport {
  most = 0;
  /** Pings that were held back. */
  delayed = 0;
  #now = 0;
  readonly #inner: Transport;
  readonly #firstPing: number;

  /** @param firstPing milliseconds for which the first ping is held back */
  constructor(inner: Transport, firstPing = 0) {
    this.#inner = inner;
    this.#firstPing = firstPing;
  }

  exec(...[script, options]: Parameters<Transport['exec']>): ReturnType<Transport['exec']> {
    this.most = Math.max(this.most, ++this.#now);
    const process = this.#inner.exec(script, { ...options, input: this.#withPause(options?.input ?? []) });
    const ended = (): void => void this.#now--;
    process.finished.then(ended, ended);
    return process;
  }

  async *#withPause(input: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of input) {
      if (this.#firstPing > 0 && this.delayed === 0 && Buffer.from(piece).toString() === 'ping 0\n') {
        this.delayed++;
        await sleep(this.#firstPing);
      }
      yield piece;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#inner[Symbol.asyncDispose]();
  }
}

/** A way to a port that takes so many milliseconds there, and as many back. */
async function longWay(target: number, delay = 15): Promise<AsyncDisposable & { port: number }> {
  const program = fileURLToPath(new URL('../support/delay-proxy.ts', import.meta.url));
  const proxy = spawn(process.execPath, [program, String(target), String(delay)], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(proxy.stdout, 'data')) as [Buffer];
  return {
    port: Number(String(line)),
    async [Symbol.asyncDispose]() {
      proxy.kill();
      await once(proxy, 'exit');
    },
  };
}

/** A way to a port that can be cut for good, or let nothing through to it for a while. */
async function forward(target: number): Promise<{ port: number; cut: () => void; stall: () => void; flow: () => void }> {
  const { connect: open } = await import('node:net');
  const sockets = new Set<{ destroy: () => void }>();
  const clients = new Set<Socket>();
  const server: Server = createServer((client) => {
    clients.add(client);
    const upstream = open({ host: '127.0.0.1', port: target });
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        client.destroy();
        upstream.destroy();
      });
    }
    client.pipe(upstream).pipe(client);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    port: address.port,
    cut: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
    stall: () => {
      for (const client of clients) client.pause();
    },
    flow: () => {
      for (const client of clients) client.resume();
    },
  };
}
