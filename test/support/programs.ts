import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Puts programs into a directory that is looked at before others: what the shell is to do, by their names. */
export async function writePrograms(directory: string, bodies: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, body] of Object.entries(bodies)) {
    const file = join(directory, name);
    await writeFile(file, `#!/bin/sh\n${body}\n`);
    await chmod(file, 0o755);
  }
}
