import { createHash, randomBytes } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const mib = 1024 * 1024;

/** The data sets, each a directory or file below a place of its own. */
export type DatasetName = 'A' | 'B' | 'C';

/**
 * Makes a data set, unless it is there: A one file of random bytes, B 20,000 files (for 1 GiB) half of them text, C one CSV file.
 *
 * @param place directory that keeps data sets
 * @param size in bytes, about
 * @returns path of the data set
 */
export function makeDataset(place: string, name: DatasetName, size: number): string {
  const path = join(place, `${name}-${size / mib}`);
  const done = `${path}.done`;
  if (existsSync(done)) return path;
  if (name === 'B') {
    mkdirSync(path, { recursive: true });
    const count = Math.round((20_000 * size) / (1024 * mib));
    for (let file = 0; file < count; file++) {
      const directory = join(path, `part-${Math.floor(file / 200)}`);
      if (file % 200 === 0) mkdirSync(directory, { recursive: true });
      // Sizes from 7 to 100 kB, the same in every run.
      const length = 7_000 + (createHash('sha256').update(String(file)).digest().readUInt32LE(0) % 93_000);
      writeFileSync(join(directory, `${file}.dat`), file % 2 === 0 ? text(file, length) : randomBytes(length));
    }
  } else {
    mkdirSync(place, { recursive: true });
    const file = openSync(path, 'w');
    for (let block = 0; block < size / mib; block++) writeSync(file, name === 'A' ? randomBytes(mib) : csv(block, mib));
    closeSync(file);
  }
  writeFileSync(done, '');
  return path;
}

/** Words as often as in a language: the n-th of 4096 as often as 1/n. It compresses to about a third, as prose does. */
function text(seed: number, length: number): Buffer {
  const random = generator(seed);
  const line: string[] = [];
  for (let size = 0; size < length;) {
    const word = vocabulary[Math.floor(vocabulary.length ** random()) - 1] as string;
    line.push(word);
    size += word.length + 1;
  }
  return Buffer.from(line.join(' ')).subarray(0, length);
}

const vocabulary = (() => {
  const random = generator(1);
  const syllables = 'bdfgklmnprstvz'.split('').flatMap((consonant) => 'aeiou'.split('').map((vowel) => consonant + vowel));
  const syllable = (): string => syllables[Math.floor(random() * syllables.length)] as string;
  return Array.from({ length: 4096 }, (_, rank) => Array.from({ length: 1 + Math.floor(Math.log10(rank + 1) + random()) }, syllable).join('')); // prettier-ignore
})();

/** Numbers from 0 to 1, the same for the same seed. @see Marsaglia, Xorshift RNGs (2003) */
function generator(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e37_79b1) || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

function csv(block: number, length: number): Buffer {
  const rows: string[] = [];
  let state = block + 1;
  for (let size = 0; size < length;) {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    const row = `${block},${rows.length},${state},${(state / 7_919).toFixed(4)},${state % 2 === 0 ? 'case' : 'control'}\n`;
    rows.push(row);
    size += row.length;
  }
  return Buffer.from(rows.join('')).subarray(0, length);
}
