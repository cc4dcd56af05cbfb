// Makes the vectors beside it anew, with the installed gocryptfs: node test/vectors/gocryptfs/make.ts
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Volume } from '../../../src/node/volume.ts';
import { listTree, writePlainTree } from '../../support/plain-tree.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const temporary = await mkdtemp(join(tmpdir(), 'hpcs-vectors-'));
await rm(join(here, 'volume'), { recursive: true, force: true });
{
  await using volume = await Volume.create('gocryptfs', join(here, 'volume'), join(temporary, 'plain'), { keep: true });
  await writePlainTree(volume.path);
  await writeFile(join(here, 'password'), `${volume.password.reveal()}\n`);
  await writeFile(join(here, 'plain.json'), `${JSON.stringify(await listTree(volume.path), null, 2)}\n`);
}
await rm(temporary, { recursive: true });
