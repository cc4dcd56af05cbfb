import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { readFrames, type Output } from '../../../src/sandbox/frames.ts';

describe('the framed stream of a container', () => {
  const frame = (kind: number, bytes: Uint8Array): Buffer => {
    const header = Buffer.alloc(8);
    header[0] = kind;
    header.writeUInt32BE(bytes.length, 4);
    return Buffer.concat([header, bytes]);
  };
  async function* cut(bytes: Buffer, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
    for (let at = 0, index = 0; at < bytes.length; index++) {
      const size = sizes[index % sizes.length] ?? 1;
      yield bytes.subarray(at, at + size);
      at += size;
    }
  }
  const all = async (source: AsyncIterable<Output>): Promise<Record<Output['stream'], string>> => {
    const texts = { stdout: '', stderr: '' };
    for await (const { stream, bytes } of source) texts[stream] += Buffer.from(bytes).toString('latin1');
    return texts;
  };

  it('is taken apart wherever it is cut', async () => {
    const frames = fc.array(fc.tuple(fc.constantFrom(1, 2), fc.uint8Array({ maxLength: 40 })));
    await fc.assert(
      fc.asyncProperty(frames, fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), async (parts, sizes) => {
        const text = (wanted: number): string =>
          Buffer.concat(parts.filter(([kind]) => kind === wanted).map(([, bytes]) => bytes)).toString('latin1');
        const stream = Buffer.concat(parts.map(([kind, bytes]) => frame(kind, bytes)));
        assert.deepEqual(await all(readFrames(cut(stream, sizes))), { stdout: text(1), stderr: text(2) });
      }),
    );
  });

  it('reads no further than it is asked to', async () => {
    let read = 0;
    async function* endless(): AsyncGenerator<Uint8Array> {
      for (;;) {
        read++;
        yield frame(1, Buffer.alloc(1000));
      }
    }
    const frames = readFrames(endless());
    for (let count = 0; count < 3; count++) await frames.next();
    assert.equal(read, 3);
    await frames.return(undefined);
  });

  it('must be framed and whole', async () => {
    const whole = frame(1, Buffer.from('hello'));
    for (const broken of [whole.subarray(0, 4), whole.subarray(0, 10), Buffer.from('not framed at all')]) {
      await assert.rejects(all(readFrames(cut(broken, [7]))), { code: 'docker-stream' });
    }
  });
});
