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

function text(seed: number, length: number): Buffer {
  const words =
    'patient sample genome variant read quality phred chromosome position allele depth control case study cohort'.split(' ');
  let state = seed + 1;
  const line: string[] = [];
  for (let size = 0; size < length;) {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    const word = words[state % words.length] as string;
    line.push(word);
    size += word.length + 1;
  }
  return Buffer.from(line.join(' ')).subarray(0, length);
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
