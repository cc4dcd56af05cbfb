import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Path of a golden file. */
export function goldenPath(name: string): string {
  return fileURLToPath(new URL(`../golden/${name}`, import.meta.url));
}

/** Compares text with a golden file; with `UPDATE_GOLDEN=1` in the environment, writes it anew instead. */
export async function assertGolden(name: string, text: string): Promise<void> {
  const path = goldenPath(name);
  if (process.env['UPDATE_GOLDEN'] === '1') {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
    return;
  }
  const golden = await readFile(path, 'utf8').catch(() =>
    assert.fail(`test/golden/${name} is missing: see test/golden/README.md`),
  );
  assert.equal(text, golden, `differs from test/golden/${name}; if that is meant, see test/golden/README.md`);
}
