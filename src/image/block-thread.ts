/** A thread that compresses blocks of files and keeps them, encrypted, in a file. Started by block-store.ts. */
import { createCipheriv } from 'node:crypto';
import { writevSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { systemCode } from '../errors.ts';
import { free, freeWhole } from '../seal/bytes.ts';
import type { BlockAnswer, BlockBatch, BlockTask } from './block-store.ts';
import { fileBlockSize, squeeze, storedBit } from './squashfs.ts';

const { descriptor, key, compression } = workerData as BlockTask;
const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16));
const zeros = Buffer.alloc(fileBlockSize);
let position = 0;

parentPort?.on('message', ({ memory, sizes, holes }: BlockBatch) => {
  try {
    const kept: Buffer[] = [];
    const words: number[] = [];
    const start = position;
    let at = 0;
    for (const [index, size] of sizes.entries()) {
      const block = Buffer.from(memory, at, size);
      at += size;
      if (holes[index] === true && zeros.compare(block, 0, size, 0, size) === 0) {
        words.push(0);
        continue;
      }
      const small = squeeze(block, compression);
      words.push(small.length | (small === block ? storedBit : 0));
      kept.push(cipher.update(small));
      if (small !== block) freeWhole(small);
    }
    keep(kept);
    for (const bytes of kept) free(bytes);
    answer({ memory, words, start }, [memory]);
  } catch (error) {
    answer({ failure: systemCode(error) ?? String(error) });
  }
});

function keep(parts: readonly Buffer[]): void {
  let left = parts.filter((part) => part.length > 0);
  while (left.length > 0) {
    let written = writevSync(descriptor, left, position);
    position += written;
    while (left[0] !== undefined && written >= left[0].length) {
      written -= left[0].length;
      left = left.slice(1);
    }
    if (left[0] !== undefined) left = [left[0].subarray(written), ...left.slice(1)];
  }
}

function answer(message: BlockAnswer, transfer: ArrayBuffer[] = []): void {
  parentPort?.postMessage(message, transfer);
}
