import assert from 'node:assert/strict';
import { HpcsError, type ErrorKind } from '../../src/errors.ts';

/** A stream of the bytes in pieces of the given sizes, again and again. */
export async function* inPieces(bytes: Uint8Array, sizes: readonly number[] = [65536]): AsyncGenerator<Uint8Array> {
  for (let start = 0, index = 0; start < bytes.length; index++) {
    const size = Math.max(1, sizes[index % sizes.length] ?? 1);
    yield bytes.subarray(start, start + size);
    start += size;
  }
}

/** All bytes of a stream. */
export async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

/** What came out of a stream before it failed, and how it failed. */
export async function collectUntilError(stream: AsyncIterable<Uint8Array>): Promise<{ bytes: Buffer; error: unknown }> {
  const parts: Uint8Array[] = [];
  try {
    for await (const part of stream) parts.push(part);
  } catch (error) {
    return { bytes: Buffer.concat(parts), error };
  }
  return { bytes: Buffer.concat(parts), error: undefined };
}

/** For `assert.rejects`: an error of ours with this kind and one of these codes. */
export function failsWith(kind: ErrorKind, ...codes: readonly string[]): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof HpcsError, `not an error of ours: ${String(error)}`);
    assert.equal(error.kind, kind, error.message);
    assert.ok(codes.includes(error.code), `${error.code} instead of ${codes.join(' or ')}: ${error.message}`);
    assert.ok(error.suggestion, `no next step: ${error.code}`);
    return true;
  };
}
