import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import { Worker } from 'node:worker_threads';
import { HpcsError } from '../../../src/errors.ts';
import { pack } from '../../../src/pack/pack.ts';
import { unpack } from '../../../src/pack/unpack.ts';
import { sealFormats, type SealFormat } from '../../../src/seal/format.ts';
import { generateKey, type ArtefactKey } from '../../../src/seal/keys.ts';
import { open } from '../../../src/seal/open.ts';
import { digestingAside, Sealing, startEarly } from '../../../src/seal/threads.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

const mib = 1024 * 1024;

/** Threads that this process starts until it is disposed of. */
function startedThreads(): Disposable & { readonly threads: Worker[] } {
  const threads: Worker[] = [];
  const add = (thread: Worker): void => void threads.push(thread);
  process.on('worker', add);
  return { threads, [Symbol.dispose]: () => void process.off('worker', add) };
}

describe('sealing on threads', () => {
  let directory: string;
  const keys = new Map<SealFormat, ArtefactKey>();

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-threads-'));
    for (const format of sealFormats) keys.set(format, await generateKey(format));
  });
  after(() => rm(directory, { recursive: true, force: true }));

  const keyOf = (format: SealFormat): ArtefactKey => keys.get(format) as ArtefactKey;
  /** Takes all blocks as an upload does: copies them, and gives them back some time later. */
  const taken = async (sealing: Sealing, stall = 0): Promise<Buffer> => {
    const parts: Buffer[] = [];
    let held = 0;
    for await (const block of sealing) {
      parts.push(Buffer.from(block));
      if (stall > 0) await sleep(Math.random() * stall);
      if (++held > 5) {
        sealing.release(held);
        held = 0;
      }
    }
    sealing.release(held);
    return Buffer.concat(parts);
  };

  for (const format of sealFormats) {
    for (const compress of ['auto', 'none'] as const) {
      it(`gives what opens to the same bytes: ${format}, compress ${compress}`, async () => {
        const { publicKey, secretKey } = keyOf(format);
        for (const size of [0, mib - 1, mib + 1, 9 * mib + 11]) {
          const plain = Buffer.concat([randomBytes(Math.floor(size / 2)), Buffer.alloc(Math.ceil(size / 2), 'text ')]);
          await using sealing = await Sealing.start(inPieces(plain, [70_001]), { format, recipients: [publicKey], compress });
          const sealed = await taken(sealing, 1);
          assert.deepEqual(await sealing.summary, {
            sha512: createHash('sha512').update(sealed).digest('hex'),
            size: sealed.length,
          });
          assert.ok((await collect(open(inPieces(sealed), secretKey, { checkedAtEnd: true }))).equals(plain), `size ${size}`);
        }
      });
    }
  }

  for (const format of sealFormats) {
    it(`makes a key of its own, which opens what it seals, as the recipients' do: ${format}`, async () => {
      const { publicKey, secretKey } = keyOf(format);
      const plain = randomBytes(3 * mib + 1);
      const { sealing: started, key } = await Sealing.startWithNewKey(inPieces(plain), { format, recipients: [publicKey] });
      await using sealing = started;
      const sealed = await taken(sealing);
      assert.equal(key.format, format);
      assert.notEqual(key.publicKey, publicKey);
      for (const secret of [key.secretKey, secretKey])
        assert.ok((await collect(open(inPieces(sealed), secret, { checkedAtEnd: true }))).equals(plain));
      assert.equal(inspect(key).includes('SECRET') || inspect(key).includes('PRIVATE'), false);
    });
  }

  it('packs a directory on the way, and counts its bytes', async () => {
    const source = join(directory, 'source');
    await mkdir(source);
    const content = randomBytes(3 * mib);
    await writeFile(join(source, 'large'), content);
    await writeFile(join(source, 'small'), 'small');
    const { publicKey, secretKey } = keyOf('openpgp');
    const seen: number[] = [];
    const options = { format: 'openpgp', recipients: [publicKey], onProgress: (count: number) => void seen.push(count) } as const;
    let sealed: Buffer;
    {
      await using sealing = await Sealing.start({ path: source, name: 'renamed' }, options);
      sealed = await taken(sealing);
      await sealing.summary;
    }
    await unpack(open(inPieces(sealed), secretKey), join(directory, 'out'));
    assert.ok((await readFile(join(directory, 'out/renamed/large'))).equals(content));
    assert.equal(await readFile(join(directory, 'out/renamed/small'), 'utf8'), 'small');
    assert.ok((seen.at(-1) ?? 0) > 3 * mib);
  });

  for (const compress of ['auto', 'paced', 'zstd'] as const) {
    it(`packs what gets smaller and what does not, in turn, and mixes up nothing: ${compress}`, async () => {
      const source = join(directory, 'in-turn');
      let line = 0;
      const lines = (): Buffer => Buffer.from(Array.from({ length: 110_000 }, () => `line ${line++}\n`).join(''));
      // Longer and shorter runs of some 1.3 MB each, and more than all rings hold.
      const runs = [1, 1, 30, 1, 2, 25, 9, 1, 20].flatMap((length, run) =>
        Array.from({ length }, () => (run % 2 === 0 ? lines() : randomBytes(1_300_000))),
      );
      await writeFile(source, Buffer.concat(runs));
      const expected = await collect(pack(source));
      const { publicKey, secretKey } = keyOf('openpgp');
      for (const stall of [0, 3]) {
        await using sealing = await Sealing.start({ path: source }, { format: 'openpgp', recipients: [publicKey], compress });
        const sealed = await taken(sealing, stall);
        await sealing.summary;
        assert.equal(sealing.plainSize, expected.length);
        assert.ok((await collect(open(inPieces(sealed), secretKey))).equals(expected), `stall ${stall}`);
        assert.ok(sealed.length < 0.9 * expected.length);
      }
    }).timeout(60_000);
  }

  it('tells of a source that shrinks, grows or vanishes, by its name', async () => {
    const { publicKey } = keyOf('openpgp');
    const source = join(directory, 'changing');
    const change = async (alter: (file: string) => Promise<void>): Promise<void> => {
      await mkdir(source, { recursive: true });
      const [first, last] = [join(source, 'a'), join(source, 'z')];
      // More than the ring and the blocks in between hold: the thread cannot have read to the end when the first block comes.
      await writeFile(first, randomBytes(60 * mib));
      await writeFile(last, randomBytes(mib));
      await using sealing = await Sealing.start(
        { path: source },
        { format: 'openpgp', recipients: [publicKey], compress: 'none' },
      );
      // The first block is the header, which says nothing of where the packing is.
      let blocks = 0;
      for await (const _block of sealing) {
        if (++blocks === 4) await alter(first);
        sealing.release(1);
      }
    };
    await assert.rejects(
      change((file) => truncate(file, 50 * mib)),
      failsWith('local', 'source-changed'),
    );
    await assert.rejects(
      change((file) => truncate(file, 70 * mib)),
      failsWith('local', 'source-changed'),
    );
    await assert.rejects(
      change(() => rm(join(source, 'z'))),
      failsWith('local', 'source-changed'),
    );
    await assert.rejects(async () => {
      await using sealing = await Sealing.start(
        { path: join(directory, 'nowhere') },
        { format: 'openpgp', recipients: [publicKey] },
      );
      await taken(sealing);
    }, /nowhere/);
  });

  it('passes on the failure of a stream, and ends it when given up', async () => {
    const { publicKey } = keyOf('openpgp');
    const options = { format: 'openpgp', recipients: [publicKey] } as const;
    const broken = (async function* () {
      yield randomBytes(100);
      throw new HpcsError('local', 'broken', 'the container broke');
    })();
    await assert.rejects(async () => {
      await using sealing = await Sealing.start(broken, options);
      await taken(sealing);
    }, /the container broke/);
    let ended = false;
    const endless = (async function* () {
      try {
        for (;;) yield randomBytes(mib);
      } finally {
        ended = true;
      }
    })();
    {
      await using sealing = await Sealing.start(endless, options);
      for await (const _block of sealing) break;
      sealing.summary.catch(() => undefined);
    }
    assert.equal(ended, true);
  });

  it('stops at its signal, with its reason', async () => {
    const { publicKey } = keyOf('age');
    const controller = new AbortController();
    const endless = (async function* () {
      for (;;) yield randomBytes(mib);
    })();
    const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
    await assert.rejects(async () => {
      await using sealing = await Sealing.start(endless, { format: 'age', recipients: [publicKey], signal: controller.signal });
      for await (const _block of sealing) controller.abort(reason);
    }, reason);
  });

  const sealed = async (plain: Buffer): Promise<void> => {
    const { publicKey, secretKey } = keyOf('openpgp');
    await using sealing = await Sealing.start(inPieces(plain), { format: 'openpgp', recipients: [publicKey], compress: 'none' });
    const bytes = await taken(sealing);
    assert.equal((await sealing.summary).size, bytes.length);
    assert.ok((await collect(open(inPieces(bytes), secretKey))).equals(plain));
  };

  it('has threads that were started early do the next task, once, and does without those that died', async () => {
    using started = startedThreads();
    const { threads } = started;
    startEarly();
    startEarly();
    // They are told of a little later.
    await sleep(0);
    assert.equal(threads.length, 2);
    await sealed(randomBytes(mib + 1));
    assert.equal(threads.length, 2);
    assert.ok(threads.every((thread) => thread.threadId === -1));
    await sealed(randomBytes(5));
    assert.equal(threads.length, 4);
    startEarly();
    await sleep(0);
    await threads[4]?.terminate();
    await sealed(randomBytes(7));
    assert.equal(threads.length, 7);
  });

  it('keeps no process from ending by threads that were started early', async () => {
    const module = new URL('../../../src/seal/threads.ts', import.meta.url);
    for (const wait of [0, 300]) {
      const script = `import { startEarly } from '${module.href}'; startEarly(); setTimeout(() => {}, ${wait});`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'inherit', timeout: 15_000 });
      assert.deepEqual(await once(child, 'exit'), [0, null]);
    }
  });

  it('says so when a thread dies, and leaves none behind', async () => {
    const { publicKey } = keyOf('openpgp');
    const endless = async function* (compress: string): AsyncGenerator<Uint8Array> {
      for (;;) yield compress === 'none' ? randomBytes(mib) : Buffer.alloc(mib, randomBytes(300_000));
    };
    using started = startedThreads();
    const { threads } = started;
    // Sealing and digesting start at once, compression with the first frame.
    for (const [victim, compress] of [
      [0, 'none'],
      [1, 'none'],
      [0, 'zstd'],
      [2, 'zstd'],
    ] as const) {
      threads.length = 0;
      await assert.rejects(
        async () => {
          await using sealing = await Sealing.start(endless(compress), {
            format: 'openpgp',
            recipients: [publicKey],
            compress,
          });
          let blocks = 0;
          for await (const _block of sealing) {
            if (++blocks === 3) void threads[victim]?.terminate();
            sealing.release(1);
          }
        },
        failsWith('local', 'thread-died'),
      );
      assert.ok(compress === 'none' ? threads.length === 2 : threads.length > 2);
      // A thread that has ended has no id any more.
      assert.ok(threads.every((thread) => thread.threadId === -1));
    }
  });

  it('tells why it failed though a thread that stops for that is heard of first', async () => {
    using started = startedThreads();
    const failing = Sealing.start(inPieces(Buffer.from('x')), { format: 'age', recipients: ['age1no'] });
    await setImmediate();
    const [sealer, digester] = started.threads;
    assert.ok(sealer !== undefined && digester !== undefined);
    const gone = once(digester, 'exit');
    for (const event of ['message', 'exit'] as const)
      for (const listener of sealer.listeners(event) as ((told: unknown) => void)[])
        sealer.on(event, (told: unknown) => void gone.then(() => listener(told))).off(event, listener);
    await assert.rejects(failing, failsWith('usage', 'recipient-invalid'));
  });

  it('refuses what is no recipient before it starts', async () => {
    await assert.rejects(
      Sealing.start(inPieces(Buffer.from('x')), { format: 'age', recipients: ['age1no'] }),
      failsWith('usage', 'recipient-invalid'),
    );
  });
});

describe('digesting aside', () => {
  it('lets bytes through and tells their digest', async () => {
    const bytes = randomBytes(9 * mib + 5);
    await using aside = digestingAside(inPieces(bytes, [100_001]));
    assert.ok((await collect(aside.bytes)).equals(bytes));
    assert.deepEqual(await aside.summary, { sha512: createHash('sha512').update(bytes).digest('hex'), size: bytes.length });
  });

  it('passes on a failure, and gives no digest of a part', async () => {
    const broken = (async function* () {
      yield Buffer.from('x');
      throw new Error('cut');
    })();
    await using aside = digestingAside(broken);
    await assert.rejects(collect(aside.bytes), /cut/);
    await assert.rejects(aside.summary, /cut/);
    const early = digestingAside(inPieces(randomBytes(mib)));
    for await (const _piece of early.bytes) break;
    await early[Symbol.asyncDispose]();
    await assert.rejects(early.summary, failsWith('local', 'stream-unfinished'));
  });

  it('ends its thread', async () => {
    const ended: Promise<unknown>[] = [];
    const onWorker = (worker: Worker): void => void ended.push(once(worker, 'exit'));
    process.on('worker', onWorker);
    {
      await using aside = digestingAside(inPieces(Buffer.from('x')));
      await collect(aside.bytes);
    }
    process.off('worker', onWorker);
    assert.equal(ended.length, 1);
    await Promise.all(ended);
  });
});
