import assert from 'node:assert/strict';
import { events, parseReference, wholeName } from '../../../src/image/source.ts';

describe('the name of an image', () => {
  const digest = `sha256:${'a'.repeat(64)}`;
  for (const [image, repository, tag, hash] of [
    ['debian', 'debian', 'latest', undefined],
    ['a__b/c-d:1', 'a__b/c-d', '1', undefined],
    ['[::1]:5000/a', '[::1]:5000/a', 'latest', undefined],
    ['debian:bookworm-slim', 'debian', 'bookworm-slim', undefined],
    ['localhost:5000/a/b', 'localhost:5000/a/b', 'latest', undefined],
    ['localhost:5000/a/b:1.2', 'localhost:5000/a/b', '1.2', undefined],
    [`ghcr.io/a/b@${digest}`, 'ghcr.io/a/b', undefined, digest],
    [`ghcr.io/a/b:x@${digest}`, 'ghcr.io/a/b', 'x', digest],
  ] as const) {
    it(`${image} has its parts`, () => assert.deepEqual({ ...parseReference(image) }, { repository, tag, digest: hash }));
  }

  for (const image of ['', ' debian', 'debian:', '-x', 'a@sha256:zz', 'a b', '../x?y', 'Debian', 'a//b']) {
    it(`'${image}' is refused`, () => assert.throws(() => parseReference(image), { code: 'image-name', kind: 'usage' }));
  }
});

describe('the whole name of an image', () => {
  for (const [name, whole] of [
    ['debian:12', 'docker.io/library/debian:12'],
    ['talinx/jp2a:latest', 'docker.io/talinx/jp2a:latest'],
    ['docker.io/debian:12', 'docker.io/library/debian:12'],
    ['ghcr.io/a/b:1', 'ghcr.io/a/b:1'],
    ['localhost:5000/a:1', 'localhost:5000/a:1'],
  ] as const) {
    it(`${name} is ${whole}`, () => assert.equal(wholeName(name), whole));
  }
});

describe('what an engine reports of a pull', () => {
  it('is read line by line wherever it is cut, the last line without its end too', async () => {
    const text = Buffer.from('{"status":"Pulling ä"}\r\n\n{"status":"Pull complete","id":"1"}\n{"error":"no"}');
    for (const size of [1, 3, 1000]) {
      const seen: unknown[] = [];
      const pieces = async function* (): AsyncGenerator<Uint8Array> {
        for (let at = 0; at < text.length; at += size) yield text.subarray(at, at + size);
      };
      for await (const event of events(pieces())) seen.push(event);
      assert.deepEqual(seen, [{ status: 'Pulling ä' }, { status: 'Pull complete', id: '1' }, { error: 'no' }]);
    }
  });
});
