import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { array, assert as assertProperty, asyncProperty, infiniteStream, integer, nat, oneof } from 'fast-check';
import { modeBits, packetCoder, packetType, receiveFiles, type Packet, type Stat } from '../../../src/image/file-sync.ts';
import type { FileTree } from '../../../src/image/tree.ts';

const mib = 1024 * 1024;
const file = (path: string | Buffer, size = 0, more: Partial<Stat> = {}): Stat => ({
  path: Buffer.from(path),
  mode: 0o644,
  uid: 0,
  gid: 0,
  size: String(size),
  modTime: '0',
  linkname: Buffer.alloc(0),
  xattrs: {},
  ...more,
});
const directory = (path: string, mode = 0o755): Stat => file(path, 0, { mode: modeBits.directory + mode });
const whole = Buffer.alloc(13 * mib, 'content of files, ');
/** Of a file: no two begin alike. */
const content = (id: number, size: number): Buffer => whole.subarray(id, id + size);
const packet = (more: Partial<Packet>): Packet => ({ type: packetType.stat, stat: null, ID: 0, data: Buffer.alloc(0), ...more });

/** A sender that does as BuildKit's: files in an order of its own, several of them at once, stats between. */
class Sender {
  readonly asked: number[] = [];
  /** Most bytes that were asked for and not sent whole, where more than one file was. */
  most = 0;
  readonly #stats: readonly Stat[];
  readonly #choose: () => number;
  readonly #files = new Map<number, number>();
  #ended = false;

  constructor(stats: readonly Stat[], choose: () => number = () => 0) {
    this.#stats = stats;
    this.#choose = choose;
  }

  readonly take = ({ type, ID = 0 }: Partial<Packet>): void => {
    if (type === packetType.end) this.#ended = true;
    else {
      this.asked.push(ID);
      this.#files.set(ID, 0);
      const open = [...this.#files].map(([id, sent]) => Number(this.#stats[id]?.size) - sent).filter((left) => left > 0);
      if (open.length > 1) this.most = Math.max(this.most, open.reduce((sum, left) => sum + left, 0)); // prettier-ignore
    }
  };

  async *packets(): AsyncGenerator<Packet> {
    for (let told = 0; told <= this.#stats.length || !this.#ended;) {
      const open = [...this.#files.keys()].slice(0, 4);
      const choice = this.#choose() % (open.length + 1);
      const id = open[choice];
      if (id === undefined) {
        if (told <= this.#stats.length) yield packet({ stat: this.#stats[told++] ?? null });
        else await new Promise(setImmediate);
        continue;
      }
      const [sent, size] = [this.#files.get(id) ?? 0, Number(this.#stats[id]?.size)];
      const data = content(id, size).subarray(sent, sent + 32 * 1024);
      this.#files.set(id, sent + data.length);
      if (data.length === 0) this.#files.delete(id);
      // By way of its bytes, as it comes from the engine.
      yield packetCoder.decode(packetCoder.encode({ type: packetType.data, ID: id, data }));
    }
    yield packet({ type: packetType.end });
  }
}

const sum = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const received = (
  packets: AsyncIterable<Packet>,
  send: (packet: Partial<Packet>) => void = () => {},
): Promise<FileTree<string>> =>
  receiveFiles(packets, send, async (size, body) => {
    const bytes = Buffer.concat(await Array.fromAsync(body));
    assert.equal(bytes.length, size);
    return sum(bytes);
  });
async function* just(...packets: Partial<Packet>[]): AsyncGenerator<Packet> {
  for (const one of packets) yield packet(one);
}

describe('a file system that BuildKit sends', () => {
  it('comes whole, whatever is sent when', async () => {
    const size = oneof(integer({ min: 0, max: 100_000 }), integer({ min: 0, max: 12 * mib }));
    await assertProperty(
      asyncProperty(array(size, { maxLength: 12 }), infiniteStream(nat(4)), async (sizes, choices) => {
        const sender = new Sender(
          sizes.map((bytes, id) => file(`f${id}`, bytes)),
          () => Number(choices.next().value),
        );
        const tree = await received(sender.packets(), sender.take);
        for (const [id, bytes] of sizes.entries()) {
          const node = tree.find(`f${id}`);
          assert.ok(node?.type === 'file');
          assert.equal(node.content, sum(content(id, bytes)));
        }
        assert.deepEqual(sender.asked, [...sizes.keys()].filter((id) => sizes[id] !== 0)); // prettier-ignore
        assert.ok(sender.most <= 8 * mib, `${sender.most} bytes asked for at once`);
      }),
      { numRuns: 60 },
    );
  });

  it('is read no faster than it is kept', async () => {
    const sender = new Sender(
      Array.from({ length: 40 }, (_, id) => file(`f${id}`, mib)),
      () => 0,
    );
    let [given, kept] = [0, 0];
    const packets = async function* (): AsyncGenerator<Packet> {
      for await (const one of sender.packets()) {
        given += one.data.length;
        assert.ok(given - kept <= 8 * mib, 'more than the window');
        yield one;
      }
    };
    await receiveFiles(packets(), sender.take, async (_size, body) => {
      for await (const piece of body) kept += piece.length;
    });
    assert.equal(kept, 40 * mib);
  });

  it('has names, kinds, owners, modes, times and attributes', async () => {
    const xattrs = {
      'user.note': Buffer.from([0, 255]),
      'security.capability': Buffer.from([1]),
      'security.selinux': Buffer.from('a label of this machine'),
      'trusted.overlay.opaque': Buffer.from('y'),
    };
    const latin1 = Buffer.from('d/l\xe9', 'latin1');
    const sender = new Sender([
      directory('d', 0o1777 - 0o1000 + modeBits.sticky),
      file('d/a', 3, { mode: 0o755 + modeBits.setuid + modeBits.setgid, uid: 3_000_000_000, gid: 7, modTime: '-1', xattrs }),
      file('d/b', 3, { linkname: Buffer.from('d/a') }),
      file(latin1, 1, { modTime: '1577836800999999999' }),
      file('d/pipe', 0, { mode: modeBits.fifo + 0o600 }),
      file('d/soft', 9, { mode: modeBits.symlink + 0o777, linkname: latin1 }),
      file('null', 0, { mode: modeBits.device + modeBits.character + 0o666 }),
      file('sda', 0, { mode: modeBits.device + 0o660 }),
    ]);
    const tree = await received(sender.packets(), sender.take);
    const a = tree.find('d/a');
    assert.deepEqual(a?.attributes, {
      mode: 0o6755,
      uid: 3_000_000_000,
      gid: 7,
      mtime: -1,
      xattrs: new Map([
        ['user.note', Uint8Array.of(0, 255)],
        ['security.capability', Uint8Array.of(1)],
      ]),
    });
    // Else it would keep the piece of the stream in memory in which it came.
    assert.equal(a.attributes.xattrs.get('user.note')?.buffer.byteLength, 2);
    assert.equal(tree.find('d/b'), a);
    assert.equal(tree.find('d')?.attributes.mode, 0o1777);
    assert.equal(tree.find('d/l\udce9')?.attributes.mtime, 1577836800);
    const soft = tree.find('d/soft');
    assert.ok(soft?.type === 'symlink');
    assert.equal(soft.target, 'd/l\udce9');
    const kinds = ['d', 'd/pipe', 'null', 'sda'].map((path) => tree.find(path)?.type);
    assert.deepEqual(kinds, ['directory', 'fifo', 'character', 'block']);
    assert.deepEqual(sender.asked, [1, 3]);
  });

  const told = { stat: file('a', 5) };
  for (const [what, packets, message] of [
    ['that ends early', [told], /ended early/],
    ['that ends within a file', [told, { stat: null }, { type: packetType.data, data: Buffer.from('abc') }], /ended early/],
    ['that fails', [told, { type: packetType.error, data: Buffer.from('no such layer') }], /^no such layer$/],
    ['with a file that could not be read', [told, { stat: null }, { type: packetType.data }], /another size/],
    ['with a file that grew', [told, { stat: null }, { type: packetType.data, data: Buffer.alloc(6) }], /another size/],
    ['with content nobody wants', [told, { type: packetType.data, ID: 7, data: Buffer.alloc(1) }], /nobody had asked/],
    ['with a file after the last one', [told, { stat: null }, told], /after the last/],
    ['with a file of a negative size', [{ stat: file('a', -1) }], /impossible size/],
    ['with packets of a kind unknown', [{ type: 9 }], /unknown type 9/],
  ] as const) {
    it(`${what} is an error`, () => assert.rejects(received(just(...packets)), { name: 'FileSyncError', message }));
  }

  it('of bytes that are no packet is an error', () => {
    assert.throws(() => packetCoder.decode(Buffer.from([0x12, 0x7f, 1])), { name: 'FileSyncError', message: /no packet/ });
  });
});
