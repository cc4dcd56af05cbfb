import { parseInfoRecord, vaultRecordSchema, type InfoRecord, type VaultRecord } from '../../src/record.ts';
import { z } from 'zod';
import { VaultOwner } from './owner.ts';
import type { Site } from './site.ts';

const answer = z.object({ data: z.object({ data: vaultRecordSchema }) });

/** An info record as it lies on the site. */
export async function infoRecord(site: Site, path: string): Promise<InfoRecord> {
  const { stdout } = await site.run(`cat ${path}`);
  return parseInfoRecord(stdout, path);
}

/** Reads an artefact's record with the token of the vault's administrator, which only the sandbox's owner has. */
export async function vaultRecord(site: Site, info: InfoRecord): Promise<VaultRecord> {
  await using owner = await VaultOwner.open(site);
  const { body } = await owner.ask('GET', `kv/data/${info.secret_path}`);
  return answer.parse(body).data.data;
}
